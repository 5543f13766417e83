"""``smoothflow evaluate``: quality of a model on frames and on its own samples, and whether the errors hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import note, print_json, print_table, task_progress
from .options import (
    AsJson,
    Capture,
    Charge,
    Device,
    DType,
    Model,
    ModelStructure,
    Multiplicity,
    Precision,
    Seed,
    captured,
    model_reference,
    model_structure,
    provider_potential,
    require_device,
)

COLUMNS = ("quantity", "value", "unit, remark")


def run(
    model: Model,
    frames: Annotated[
        Path, typer.Argument(help="Frames that the model was not trained on.", autocompletion=completion.FRAMES)
    ],
    structure: ModelStructure = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The force field, as PROVIDER:ARGUMENT (see: smoothflow plugins).",
            show_default="the one whose frames the model was trained on",
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    n_samples: Annotated[
        int, typer.Option("-n", "--n-samples", min=2, help="Samples to draw from the model.")
    ] = 10_000,
    transport_points: Annotated[
        int,
        typer.Option(min=1, help="Frames, and as many samples, in one exact transport: T-W2, TICA-W2."),
    ] = 1000,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Temperature in K, for a model of a range of temperatures; the frames must be of it.",
            show_default="that of the frames",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with figures here.")] = None,
    compile_model: Capture = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: DType = Precision.float64,
    as_json: AsJson = False,
) -> None:
    """Likelihood, forces, sampling efficiency, free energy and torsions of a model, every number with its error.

    Example: smoothflow evaluate ala2-smooth smoothflow-demo/frames.h5
    """
    import torch

    from ..analysis.evaluation import evaluate
    from ..analysis.found_basins import COLUMNS as BASINS
    from ..molecules.frames_file import read_frames
    from ..molecules.parts import require_system
    from ..molecules.sketch import without_sketches
    from ..potentials.reference import with_electrons
    from ..potentials.shipped import load_flow, provenance_of
    from ..studies.gallery import evaluation_pictures
    from ..studies.report import Report, Table, require_report, write_report

    if report is not None:
        # before the work, not after it
        require_report(report)
    where = require_device(device)
    provenance = provenance_of(model)
    potential = load_flow(model, dtype.torch, where, temperature)
    require_system(provenance.get("frames", {}), f'The frames of the model "{model}"')
    held_out = read_frames(frames)
    require_system(held_out.provenance, f'The frames in "{frames}"')
    if potential.temperature_range is not None and temperature is None:
        # there is nothing else to evaluate it at
        potential = potential.at_temperature(held_out.temperature)
    if compile_model:
        potential = captured(potential)
    known = reference or model_reference(model, potential.coordinates.topology)
    name = with_electrons(known, charge, multiplicity, held_out.provenance)
    with model_structure(potential, structure) as (path, _):
        target = provider_potential(name, path, where)
    with task_progress() as on_progress:
        result = evaluate(
            potential,
            held_out,
            target,
            n_samples,
            torch.Generator(where).manual_seed(seed),
            on_progress,
            provenance,
            transport_points,
        )
    basins = Table("Basins", BASINS, [basin.row() for basin in result.basins])
    if as_json:
        print_json(result.to_dict())
    else:
        print_table(f"{model} against {name}", COLUMNS, result.rows())
        print_table(basins.title, basins.columns, basins.rows)
    if report is not None:
        content = Report(
            title=f"{Path(model).name} against {name}",
            paragraphs=[f"Verdict on the errors below: {result.verdict}."],
            tables=[Table("Evaluation", COLUMNS, result.rows()), basins],
            pictures=evaluation_pictures(result, potential.coordinates.codomain),
            provenance={
                "model": model,
                result.frames_are.value: str(frames),
                "seed": seed,
                "provenance": without_sketches(provenance),
            },
        )
        write_report(content, report)
        note(f"Report: {report}")
