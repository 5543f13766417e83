"""``smoothflow train``: a flow from frames."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ConfigurationError
from . import completion
from .console import print_json, say, task_progress
from .options import LARGEST_SEED, AsJson, Precision, provider_potential, require_device, shipped_structure


def run(
    frames: Annotated[
        list[Path],
        typer.Argument(
            help="Frames to train on; blocks of them are held out. Files of several temperatures train one model of "
            "all temperatures between them.",
            autocompletion=completion.FRAMES,
        ),
    ],
    output: Annotated[Path, typer.Option("--out", help="Run folder; a run that is in it goes on.")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML settings (see: smoothflow init); options below override them.",
            autocompletion=completion.SETTINGS,
        ),
    ] = None,
    transform: Annotated[
        str | None, typer.Option(help="smooth, spline, affine, or a plug-in's.", autocompletion=completion.TRANSFORMS)
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimization steps.")] = None,
    initial_model: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Model to begin with, by file or name, instead of random weights.",
            autocompletion=completion.MODELS,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Force field that weighs the flow's samples, as PROVIDER:ARGUMENT.",
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    structure: Annotated[
        str | None,
        typer.Option(
            help="Structure file of the molecule, for the force field.",
            show_default="the package's, if the molecule ships with it",
            autocompletion=completion.STRUCTURES,
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the loss first: minutes, then steps in less than half the time.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=LARGEST_SEED, help="Seed of the order of the data and of the initial weights."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where torch computes: cpu, cuda, cuda:1, ...")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that share each batch; on cuda, each has a device of its own.")
    ] = None,
    dtype: Annotated[Precision | None, typer.Option(help="Precision in training.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train a flow on frames: likelihood, forces and, with a force field, divergences on its own samples.

    Example: smoothflow train smoothflow-demo/frames.h5 --out my-run --steps 200
    """
    from ..core.architecture import transforms_for
    from ..molecules.frames_file import read_frames
    from ..molecules.parts import require_system
    from ..molecules.structure_names import absolute_name
    from ..potentials.reference import with_electrons
    from ..runs.provenance import origin
    from ..training.config import TrainSettings, read_settings
    from ..training.run import train

    settings = TrainSettings() if config is None else read_settings(config)
    flow = settings.flow
    changes: dict[str, object] = {}
    if initial_model is not None:
        changes["initial_model"] = initial_model
    if device is not None:
        require_device(device)
        changes["device"] = device
    if steps is not None:
        changes["steps"] = steps
    if processes is not None:
        changes["processes"] = processes
    if compiled:
        changes["compile"] = True
    if dtype is not None:
        changes["dtype"] = dtype.value
    if transform is not None and (initial_model or settings.initial_model) is not None:
        raise ConfigurationError(
            "A model to begin with has transforms of its own: leave out --transform, or --from (initial_model)."
        )
    if transform is not None:
        used = transforms_for(transform)
        options = {name: kept for name, kept in flow.options.items() if name in used.values()}
        flow = replace(flow, transforms=used, options=options)
    if seed is not None:
        changes["seed"] = seed
        # the seed also makes the initial weights, unless there are some
        if initial_model is None:
            flow = replace(flow, seed=seed)
    if flow != settings.flow:
        changes["flow"] = flow
    settings = TrainSettings.model_validate({**settings.model_dump(exclude_unset=True), **changes})
    if structure is not None and reference is None:
        raise ConfigurationError("A structure is for a force field. Name it with --reference.")
    data = [read_frames(path) for path in frames]
    if reference is not None:
        for path, part in zip(frames, data, strict=True):
            require_system(part.provenance, f'The frames in "{path}"')
    reference = None if reference is None else with_electrons(reference, None, None, data[0].provenance)
    molecule = None if reference is None else structure or shipped_structure(data[0].topology)
    if reference is not None and molecule is None:
        raise ConfigurationError(
            f'"{frames[0]}" is not of a molecule that ships with the package: give its structure file with --structure.'
        )
    where = require_device(settings.device)
    potential = None if reference is None or molecule is None else provider_potential(reference, molecule, where)
    where_from = [str(path.resolve()) for path in frames]
    source = {
        **origin(["smoothflow", *sys.argv[1:]]),
        "frames": where_from[0] if len(where_from) == 1 else where_from,
    }
    if reference is not None and molecule is not None:
        source |= {"target": reference, "structure": absolute_name(molecule)}
    with task_progress() as on_progress:
        model = train(data, settings, output, potential, on_progress, source)
    if as_json:
        print_json({"model": str(model)})
    else:
        say(f"Best model: {model}")
