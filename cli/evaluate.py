"""``smoothflow evaluate``: how good a model is, on frames and on its own samples, and whether the errors hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import errors, print_json, print_table, progress
from .options import (
    AMBER,
    AsJson,
    Device,
    DType,
    Model,
    Precision,
    Reference,
    Seed,
    Structure,
    provider_potential,
    require_device,
    structure_path,
)

COLUMNS = ("quantity", "value", "unit, remark")


def run(
    model: Model,
    frames: Annotated[
        Path, typer.Argument(help="Frames that the model was not trained on.", autocompletion=completion.FRAMES)
    ],
    structure: Structure = "capped-alanine",
    reference: Reference = AMBER,
    n_samples: Annotated[
        int, typer.Option("-n", "--n-samples", min=2, help="Samples to draw from the model.")
    ] = 10_000,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report with figures here.")] = None,
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
    from ..analysis.gallery import evaluation_pictures
    from ..analysis.report import Report, Table, write_report
    from ..core.plugins import registry
    from ..potentials.model_file import read_header
    from ..potentials.shipped import load
    from ..training.frames_file import read_frames
    from ..training.sketch import without_sketches

    where = require_device(device)
    provenance = read_header(registry().model_path(model))["provenance"]
    potential = load(model, dtype.torch, where)
    held_out = read_frames(frames)
    target = provider_potential(reference, structure_path(structure))
    with progress("evaluate", len(held_out) + n_samples) as advance:
        result = evaluate(
            potential,
            held_out,
            target,
            n_samples,
            torch.Generator(where).manual_seed(seed),
            lambda done, total: advance(done),
            provenance,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        print_table(f"{model} against {reference}", COLUMNS, result.rows())
    if report is not None:
        content = Report(
            title=f"{Path(model).name} against {reference}",
            paragraphs=[f"Verdict on the errors below: {result.verdict}."],
            tables=[Table("Evaluation", COLUMNS, result.rows())],
            pictures=evaluation_pictures(result, potential.coordinates.codomain),
            provenance={
                "model": model,
                result.frames_are.value: str(frames),
                "seed": seed,
                "provenance": without_sketches(provenance),
            },
        )
        write_report(content, report)
        errors.print(f"Report: {report}")
