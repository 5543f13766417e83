"""``smoothflow thermo``: state functions of a molecule, anharmonic beside harmonic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import print_json, print_table, task_progress
from .options import (
    AsJson,
    Charge,
    Device,
    Model,
    Multiplicity,
    Seed,
    model_structure,
    provider_potential,
    require_device,
    require_none_given,
)


def run(
    context: typer.Context,
    model: Model,
    structure: Annotated[
        str | None,
        typer.Option(
            help="Structure whose minimum the harmonic columns are of: a file, or the name of a molecule.",
            show_default="the model's",
            autocompletion=completion.STRUCTURES,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="State functions of this force field, as PROVIDER:ARGUMENT.",
            show_default="of the model itself",
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    n_samples: Annotated[int, typer.Option("-n", "--n-samples", min=2, help="Samples of the model.")] = 10_000,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Take these instead, which smoothflow sample has weighted to the reference.",
            autocompletion=completion.FRAMES,
        ),
    ] = None,
    basin: Annotated[
        str | None,
        typer.Option(help="Count this region only: alpha, beta, ppii, or one in degrees, like left:phi=20..120."),
    ] = None,
    pressure: Annotated[float | None, typer.Option(help="Of the ideal gas, in bar.", show_default="1")] = None,
    concentration: Annotated[float | None, typer.Option(help="In its place, in mol/l.")] = None,
    symmetry_number: Annotated[
        int,
        typer.Option("--symmetry", min=1, help="Rotations of the molecule and its parts that exchange equal atoms."),
    ] = 1,
    rigid_symmetry_number: Annotated[
        int | None,
        typer.Option(
            "--rigid-symmetry",
            min=1,
            help="Those of the rigid molecule, for the harmonic columns.",
            show_default="the same",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Helmholtz energy, entropy and heat capacity of the molecule as an ideal gas, anharmonic and harmonic.

    Example: smoothflow thermo ala2-smooth --structure capped-alanine --symmetry 27 --rigid-symmetry 1
    """
    from ..analysis.basins import Basin
    from ..analysis.thermodynamics import StandardState
    from ..core.errors import ConfigurationError
    from ..molecules.parts import require_system
    from ..molecules.topologies import read_structure
    from ..potentials.reference import with_electrons
    from ..potentials.shipped import load_flow, provenance_of
    from ..studies.thermo import COLUMNS, ThermoSettings, thermochemistry

    if pressure is not None and concentration is not None:
        raise ConfigurationError("A standard state has a pressure or a concentration: leave one of them out.")
    if reference is None and (charge, multiplicity) != (None, None):
        raise ConfigurationError("A charge or multiplicity is for a force field. Name it with --reference.")
    if samples is not None:
        require_none_given(context, ["n_samples", "seed"], "The samples of the file are taken as they are")
    standard = StandardState(1.0 if pressure is None else pressure)
    if concentration is not None:
        standard = StandardState(concentration, "mol/l")
    chosen = None if basin is None else Basin.parse(basin)
    settings = ThermoSettings(n_samples, seed, standard, symmetry_number, rigid_symmetry_number, chosen)
    where = require_device(device)
    require_system(
        provenance_of(model).get("frames", {}),
        f'The frames of the model "{model}"',
        "a potential of mean force changes with the temperature, and gives no state functions of a molecule.",
    )
    potential = load_flow(model, device=where)
    name = None if reference is None else with_electrons(reference, charge, multiplicity)
    with model_structure(potential, structure) as (path, called):
        molecule = read_structure(path)
        potential.coordinates.topology.require_same(molecule.topology, f'the model "{model}"', f'"{called}"')
        target = None if name is None else provider_potential(name, path, where)
    with task_progress() as on_progress:
        found = thermochemistry(potential, molecule.positions[0], settings, target, on_progress, samples)
    if as_json:
        print_json(found.to_dict())
    else:
        print_table(name or model, COLUMNS, found.rows())
