"""``smoothflow sample``: configurations without molecular dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import exit_after, print_json, print_table, task_progress
from .options import (
    AsJson,
    Basins,
    Capture,
    Charge,
    Device,
    DType,
    Model,
    ModelStructure,
    Multiplicity,
    Precision,
    Seed,
    Temperature,
    captured,
    model_structure,
    provider_potential,
    require_device,
)


def run(
    model: Model,
    output: Annotated[
        Path,
        typer.Option(
            "--out", help="Frames file to write; a run that is in it goes on.", autocompletion=completion.FRAMES
        ),
    ],
    n_samples: Annotated[int, typer.Option("-n", "--n-samples", min=1, help="How many.")] = 1000,
    temperature: Temperature = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Weight the samples to this force field, as PROVIDER:ARGUMENT.", autocompletion=completion.PROVIDERS
        ),
    ] = None,
    structure: ModelStructure = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    basin: Basins = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            help="Frames of the force field: the same numbers from them, and from both by MBAR.",
            autocompletion=completion.FRAMES,
        ),
    ] = None,
    metropolis: Annotated[
        Path | None, typer.Option(help="Write a Metropolis chain here: frames of the force field without weights.")
    ] = None,
    compile_model: Capture = False,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: DType = Precision.float64,
    as_json: AsJson = False,
) -> None:
    """Draw configurations from a model and, if asked, weight them to a force field and average over it.

    Example: smoothflow sample ala2-smooth -n 1000 --out samples.h5
    """
    from ..analysis.basins import Basin
    from ..analysis.chain import write_chain
    from ..analysis.reweighted import average, observe_targets, require_torsions
    from ..core.errors import ConfigurationError
    from ..core.files import require_distinct, require_free
    from ..core.plugins import registry
    from ..molecules.frames_file import read_frames
    from ..potentials.reference import with_electrons
    from ..potentials.shipped import load_flow
    from ..sampling.draws import SamplingPlan, draw_samples
    from ..sampling.starting import origin_of

    if reference is None and (basin or frames or metropolis):
        raise ConfigurationError("Basins, frames and a Metropolis chain need a force field. Name it with --reference.")
    if reference is None and (structure, charge, multiplicity) != (None, None, None):
        raise ConfigurationError("A structure, charge or multiplicity is for a force field. Name it with --reference.")
    if metropolis is not None:
        require_free(metropolis)
        require_distinct([output, metropolis])
    basins = [Basin.parse(text) for text in basin or ()]
    where = require_device(device)
    potential = load_flow(model, dtype.torch, where, temperature)
    if compile_model:
        potential = captured(potential)
    torsions = require_torsions(potential, basins)
    target, weighted = None, "nothing: samples of the model"
    if reference is not None:
        reference = with_electrons(reference, charge, multiplicity)
        with model_structure(potential, structure) as (path, molecule):
            target, weighted = provider_potential(reference, path, where), f"{reference} of {molecule}"
    seen = None
    if frames is not None and target is not None:
        seen = observe_targets(potential, read_frames(frames), target, torsions)
    origin = {**origin_of(registry().model_path(model), None, potential), "weighted to": weighted}
    plan = SamplingPlan(output, n_samples, seed, target, origin)
    with task_progress() as on_progress:
        report = draw_samples(potential, plan, on_progress)
    if report.stopped_by is not None:
        done = f"sample {report.n_samples} of {n_samples}"
        exit_after(report.stopped_by, f"{done}. The same command goes on from there.")
    numbers: dict[str, object] = {"file": str(output), "n_samples": report.n_samples}
    tables = [("Samples", ["quantity", "value"], [["file", str(output)], ["samples", str(report.n_samples)]])]
    if target is not None:
        result = average(potential, output, basins, seen)
        numbers |= result.to_dict()
        tables = [(f"{output}, weighted to {reference}", result.columns(), result.rows())]
    if metropolis is not None:
        chain = write_chain(potential, output, metropolis, seed)
        numbers["chain"] = chain.to_dict()
        tables.append((f"{metropolis}, Metropolis chain", ["quantity", "value"], chain.rows()))
    if as_json:
        print_json(numbers)
        return
    for title, columns, rows in tables:
        print_table(title, columns, rows)
