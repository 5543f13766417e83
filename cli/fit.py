"""``smoothflow fit``: from a structure to a converged model, in one command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..molecules.shipped import AMBER
from .console import note, print_json, print_table, task_progress
from .options import AsJson, Charge, Molecule, Multiplicity, Reference, Seed


def run(
    structure: Molecule,
    output: Annotated[Path, typer.Option("--out", help="Folder; a fit that is in it goes on.")],
    reference: Reference = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    ess: Annotated[float, typer.Option(help="Sampling efficiency (raw Kish ESS) at which the fit ends.")] = 0.9,
    budget: Annotated[str, typer.Option(help="Time to plan for, like 30min or 2h.")] = "2h",
    temperature: Annotated[float, typer.Option(help="Temperature in K.")] = 300.0,
    no_md: Annotated[
        bool,
        typer.Option("--no-md", help="Begin at a high temperature instead of with dynamics: for expensive references."),
    ] = False,
    n_samples: Annotated[
        int, typer.Option("-n", "--n-samples", min=100, help="Samples of the final evaluation.")
    ] = 10_000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a model to a molecule: dynamics, a first model, and rounds of refining on its own samples.

    Sizes and steps follow from measurements, with the reasons in fit.log; the folder also receives the model and a
    report. An interrupted fit goes on with the same command, to the same numbers.

    Example: smoothflow fit capped-alanine --ess 0.9 --budget 30min --out my-fit
    """
    from ..molecules.structure_names import absolute_name, structure_file
    from ..potentials.reference import with_electrons
    from ..runs.provenance import origin
    from ..studies.fit.fit import fit
    from ..studies.fit.report import tables
    from ..studies.fit.settings import FitSettings, duration

    with structure_file(structure) as path, task_progress() as on_progress:
        settings = FitSettings(
            structure=path,
            reference=with_electrons(reference or AMBER, charge, multiplicity),
            ess=ess,
            budget=duration(budget),
            temperature=temperature,
            md=not no_md,
            n_samples=n_samples,
            seed=seed,
        )
        source = {**origin(["smoothflow", *sys.argv[1:]]), "structure": absolute_name(structure)}
        result = fit(settings, output, on_progress, source=source)
    if as_json:
        print_json(result.to_dict())
    else:
        for table in tables(result):
            print_table(table.title, table.columns, table.rows)
    for problem in result.problems:
        note(f"Still wrong: {problem}.")
    note(f"Model: {result.model}")
    note(f"Report: {output / 'report.html'}")
