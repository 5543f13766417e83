"""``smoothflow compare``: flows side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import ConfigurationError
from ..core.units import FEMTOSECOND
from . import completion
from .console import note, print_json, print_table, task_progress
from .options import AMBER_NAME, LARGEST_SEED, AsJson, require_none_given

if TYPE_CHECKING:
    from ..studies.comparison.comparison import Comparison
    from ..studies.comparison.settings import ComparisonSettings

TRANSFORMS = "smooth,spline,affine"

MOLECULAR = (
    *("models", "held_out", "cells", "config", "structure", "reference"),
    *("n_samples", "replicas", "md_steps"),
)
"""Parameters that do not concern a toy target."""


def run(
    context: typer.Context,
    frames: Annotated[
        Path | None,
        typer.Argument(
            help="Frames of a molecule; the last fifth is held out, unless others are given.",
            autocompletion=completion.FRAMES,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A grid of flows: alanine-dipeptide, or the path of a YAML file of your own.",
            autocompletion=completion.PRESETS,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Instead of frames, a toy target with exact answers.", autocompletion=completion.TARGETS),
    ] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for the runs and the report.")] = Path("comparison"),
    held_out: Annotated[
        Path | None, typer.Option(help="Frames to evaluate on.", autocompletion=completion.FRAMES)
    ] = None,
    cells: Annotated[str, typer.Option(help="Flows of the preset to work on, like smooth/nll,smooth/nll+fm.")] = "",
    models: Annotated[
        str, typer.Option(help="Models to measure beside the flows, by file or name, separated by commas.")
    ] = "",
    transforms: Annotated[
        str | None,
        typer.Option(
            help="Transforms to compare, separated by commas.",
            show_default=TRANSFORMS,
            autocompletion=completion.TRANSFORMS,
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML settings of each training.", autocompletion=completion.SETTINGS)
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each flow.")] = None,
    structure: Annotated[
        str | None,
        typer.Option(
            help="PDB file, or the name of a shipped molecule.",
            show_default="capped-alanine",
            autocompletion=completion.STRUCTURES,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The force field, as PROVIDER:ARGUMENT; also instead of a preset's.",
            show_default=AMBER_NAME,
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    n_samples: Annotated[
        int | None,
        typer.Option("-n", "--n-samples", min=2, help="Samples to draw from each model.", show_default="5000"),
    ] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="NVE runs of each model.", show_default="10")] = None,
    md_steps: Annotated[
        int | None, typer.Option(min=10, help="Steps of each NVE run, 1 fs.", show_default="1000")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the random numbers.", show_default="0")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train flows with one budget and tabulate their quality, on a molecule or a toy target; finished flows are kept.

    Example: smoothflow compare --target torus-multimodal --steps 200
    """
    from ..core.plugins import registry
    from ..studies.comparison.comparison import settings_for
    from ..studies.comparison.report import comparison_dict, comparison_tables
    from ..studies.comparison.settings import DynamicsPlan, read_comparison
    from ..training.config import TrainSettings, read_settings

    own = {
        "transforms": transforms,
        "config": config,
        "steps": steps,
        "structure": structure,
        "reference": reference,
        "n-samples": n_samples,
        "replicas": replicas,
        "md-steps": md_steps,
        "seed": seed,
    }
    if preset is not None:
        # a force field that is code can only be named here
        given = [name for name, value in own.items() if value is not None and name != "reference"]
        if target is not None or given:
            name = "target" if target is not None else given[0]
            raise ConfigurationError(f"A preset sets what --{name} would: write a YAML file of your own instead.")
        settings = read_comparison(preset)
        if reference is not None:
            settings = settings.model_copy(update={"reference": reference})
    else:
        if (frames is None) == (target is None):
            raise ConfigurationError("Give either a frames file or --target NAME, or a --preset.")
        names = [name.strip() for name in (TRANSFORMS if transforms is None else transforms).split(",")]
        for name in names:
            registry().transform(name)
        if target is not None:
            require_none_given(context, MOLECULAR, "A toy target is not a molecule, and is trained in its own way")
            _on_target(target, names, steps, seed or 0, output, as_json)
            return
        training = TrainSettings() if config is None else read_settings(config)
        settings = settings_for(names, training if steps is None else training.model_copy(update={"steps": steps}))
        dynamics = DynamicsPlan(
            replicas=replicas or 10, duration=(md_steps or 1000) * FEMTOSECOND, timesteps=(), seed=seed or 0
        )
        changes = {
            "structure": settings.structure if structure is None else structure,
            "reference": settings.reference if reference is None else reference,
            "n_samples": n_samples or 5000,
            "seed": seed or 0,
            "dynamics": dynamics,
        }
        settings = settings.model_copy(update=changes)
    chosen = [registry().model_path(model) for model in _list(models)]
    found = _on_frames(settings, frames, held_out, _list(cells), chosen, output)
    if as_json:
        print_json(comparison_dict(found.cells, found.reference))
    else:
        for table in comparison_tables(found.cells, found.reference):
            print_table(table.title, table.columns, table.rows)
    note(f"Report: {output / 'report.html'}")


def _list(text: str) -> list[str]:
    return [name for name in (part.strip() for part in text.split(",")) if name]


def _on_frames(
    settings: ComparisonSettings,
    frames: Path | None,
    held_out: Path | None,
    cells: list[str],
    models: list[Path],
    output: Path,
) -> Comparison:
    from ..molecules.frames_file import read_frames
    from ..molecules.structure_names import structure_file
    from ..runs.provenance import origin
    from ..studies.comparison.comparison import compare, made_frames, split_frames
    from ..studies.conservation import PotentialSource

    with structure_file(settings.structure) as path, task_progress() as on_progress:
        source = PotentialSource(reference=settings.reference, structure=path)
        if frames is not None:
            data = read_frames(frames)
            training, test = split_frames(data) if held_out is None else (data, read_frames(held_out))
        elif held_out is None:
            training, test = made_frames(settings, source, output, on_progress)
        else:
            raise ConfigurationError("Held-out frames need frames to train on as well: give both, or none.")
        return compare(
            settings, source, training, test, output, origin(["smoothflow", *sys.argv[1:]]), on_progress, cells, models
        )


def _on_target(target: str, names: list[str], steps: int | None, seed: int, output: Path, as_json: bool) -> None:
    from ..studies.toys.comparison import compare_on_target, toy_table
    from ..studies.toys.training import ToySettings

    settings = ToySettings(seed=seed) if steps is None else ToySettings(seed=seed, steps=steps)
    with task_progress() as on_progress:
        results = compare_on_target(target, names, settings, output, on_progress)
    if as_json:
        print_json([result.to_dict() for result in results])
    else:
        table = toy_table(results)
        print_table(table.title, table.columns, table.rows)
    note(f"Report: {output / 'report.html'}")
