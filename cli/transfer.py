"""``smoothflow transfer``: from a model of one force field to another level of theory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import exit_after, note, print_json, print_table, task_progress
from .options import (
    AsJson,
    Basins,
    Charge,
    Device,
    DType,
    ModelStructure,
    Multiplicity,
    Precision,
    Seed,
    model_reference,
    model_structure,
    provider_potential,
    require_device,
)

AT_ONCE = ("torch", "smoothflow")
"""Providers whose potentials evaluate a batch at once, without further processes."""


def run(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A model of the cheap force field; then those refined on its evaluations, in order.",
            autocompletion=completion.MODELS,
        ),
    ],
    reference: Annotated[
        str,
        typer.Option(
            help="The level of theory to reach, as PROVIDER:ARGUMENT, like ase:tblite:GFN2-xTB.",
            autocompletion=completion.PROVIDERS,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--out", help="Folder for the evaluations; a run that is in it goes on without repeating any."),
    ],
    structure: ModelStructure = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    cheap: Annotated[
        str | None,
        typer.Option(
            help="The force field of the model, as PROVIDER:ARGUMENT, or none.",
            show_default="the one whose frames it was trained on",
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    basin: Basins = None,
    error: Annotated[float, typer.Option(help="Error of every free energy at which to stop, in kT.")] = 0.1,
    evaluations: Annotated[
        int, typer.Option(min=2, help="Largest number of evaluations of the reference, over all runs.")
    ] = 10_000,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that evaluate the reference; by default one for each core.")
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: DType = Precision.float64,
    as_json: AsJson = False,
) -> None:
    """Populations and free energies at an expensive level of theory, from a model of a cheap one and a few evaluations.

    Example: smoothflow transfer ala2-smooth --reference ase:tblite:GFN2-xTB --basin alpha --basin beta --out run
    """
    from ..analysis.basins import Basin
    from ..core.errors import ConfigurationError
    from ..core.files import file_digest
    from ..core.plugins import registry
    from ..potentials.parallel import ParallelPotential
    from ..potentials.reference import with_electrons
    from ..potentials.shipped import load_flow
    from ..runs.workers import n_cores
    from ..sampling.starting import origin_of
    from ..studies.transfer import COLUMNS, TransferSettings, transfer

    settings = TransferSettings(error, evaluations, tuple(Basin.parse(text) for text in basin or ()), seed)
    where = require_device(device)
    name = with_electrons(reference, charge, multiplicity)
    flows = {file_digest(registry().model_path(model)): load_flow(model, dtype.torch, where) for model in models}
    if len(flows) < len(models):
        raise ConfigurationError("One model is given twice. Give each once, in the order in which they were made.")
    first = next(iter(flows.values()))
    if cheap is None:
        try:
            cheap = model_reference(models[0], first.coordinates.topology)
        except ConfigurationError as unknown:
            note(f"{unknown} There will be no difference to it (--cheap).")
            cheap = "none"
    with ExitStack() as opened:
        path, molecule = opened.enter_context(model_structure(first, structure))
        target = provider_potential(name, path, where)
        known = None if cheap == "none" else provider_potential(cheap, path, where)
        n_workers = workers or n_cores()
        if n_workers > 1 and name.partition(":")[0] not in AT_ONCE:
            target = opened.enter_context(ParallelPotential(target, n_workers=n_workers))
        origin = {**origin_of(registry().model_path(models[0]), None), "reference": name, "structure": molecule}
        on_progress = opened.enter_context(task_progress())
        done = transfer(flows, target, settings, output, origin, known, on_progress)
    if done.found is not None:
        if as_json:
            print_json(done.found.to_dict())
        else:
            print_table(f"{models[-1]} to {name}", COLUMNS, done.found.rows())
    if done.stopped_by is not None:
        exit_after(done.stopped_by, f"{done.n_evaluations} evaluations. The same command goes on from there.")
