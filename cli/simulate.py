"""``smoothflow simulate``: training data by molecular dynamics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..core.errors import ConfigurationError
from ..core.units import FEMTOSECOND
from ..molecules.shipped import AMBER
from . import completion
from .console import print_json, print_table, task_progress
from .options import AsJson, Charge, Molecule, Multiplicity, Reference, Seed


def run(
    structure: Molecule,
    output: Annotated[
        Path,
        typer.Option(
            "--out", help="Frames file; a simulation that is in it goes on.", autocompletion=completion.FRAMES
        ),
    ],
    reference: Reference = None,
    calculator: Annotated[
        str | None, typer.Option(help="An ASE calculator instead, like tblite:GFN2-xTB: short for --reference ase:...")
    ] = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    engine: Annotated[
        str, typer.Option(help="openmm, ase, or a plug-in's.", autocompletion=completion.ENGINES)
    ] = "openmm",
    n_frames: Annotated[
        int,
        typer.Option(
            "-n", "--n-frames", min=1, help="Frames of all walkers; rounded up to 5 ps of each, 1 ps with a ladder."
        ),
    ] = 10_000,
    interval: Annotated[float, typer.Option(help="Time between frames of a walker, ps.")] = 0.2,
    temperature: Annotated[float, typer.Option(help="Temperature in K.")] = 300.0,
    ladder: Annotated[
        str,
        typer.Option(
            help="Higher temperatures for replica exchange, in K, like 360,430,515; 'none' for none; "
            "'auto': 1.2, 1.43 and 1.72 times the temperature, if the molecule has slow torsions."
        ),
    ] = "auto",
    keep: Annotated[
        Literal["lowest", "all"],
        typer.Option(
            help="Frames of the lowest temperature alone, or those of all, in files beside it like frames-360K.h5: to "
            "train a model of a range of temperatures."
        ),
    ] = "lowest",
    walkers: Annotated[int, typer.Option(min=1, help="Independent walkers.")] = 4,
    timestep: Annotated[float, typer.Option(help="In fs.")] = 1.0,
    friction: Annotated[float, typer.Option(help="In 1/ps.")] = 1.0,
    equilibration: Annotated[float, typer.Option(help="Equilibration before the first frame, in ps.")] = 10.0,
    start_temperature: Annotated[
        float, typer.Option(help="Temperature to which each walker is heated first, in K; 0: no heating.")
    ] = 0.0,
    proposals: Annotated[
        str | None,
        typer.Option(
            help="A model of the molecule that proposes jumps between conformations; frames stay those of the "
            "reference, whatever its quality.",
            autocompletion=completion.MODELS,
        ),
    ] = None,
    jumps: Annotated[
        int, typer.Option(min=1, help="Jumps attempted by each walker every 5 ps, or 1 ps with a ladder.")
    ] = 10,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; by default one for each core.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate a molecule by Langevin dynamics and write frames with energies and forces.

    Example: smoothflow simulate capped-alanine -n 200 --out frames.h5
    """
    from ..analysis.correlation import mixing_of
    from ..analysis.estimates import fraction, percent
    from ..coordinates.internal import slow_torsions
    from ..molecules.frames_file import read_frames
    from ..molecules.structure_names import structure_file
    from ..potentials.reference import with_electrons
    from ..sampling.simulate import SimulateSettings, frames_at, simulate

    if calculator is not None and reference is not None:
        raise ConfigurationError(
            "--calculator is short for --reference ase:...: give one of the two, since only one can be simulated."
        )
    potential = f"ase:{calculator}" if calculator is not None else reference or AMBER
    with structure_file(structure) as path:
        settings = SimulateSettings(
            structure=path,
            potential=with_electrons(potential, charge, multiplicity),
            engine=engine,
            n_frames=n_frames,
            frame_interval=interval,
            temperature=temperature,
            ladder=_ladder(ladder, temperature, path),
            walkers=walkers,
            timestep=timestep * FEMTOSECOND,
            friction=friction,
            equilibration=equilibration,
            start_temperature=start_temperature,
            seed=seed,
            workers=workers,
            proposals=proposals,
            jumps=jumps,
            keep=keep,
        )
        with task_progress() as on_progress:
            report = simulate(settings, output, on_progress)
    rows = [["file", str(output)], ["frames", str(report.n_frames)], ["of an earlier run", str(report.resumed_from)]]
    temps = settings.temperatures
    if keep == "all":
        rows += [[f"frames at {kelvin:g} K", str(frames_at(output, kelvin))] for kelvin in settings.ladder]
    rows += [
        [f"exchanges accepted, {low:g} to {high:g} K", f"{percent(fraction(n, made))} of {n}"]
        for low, high, n, made in zip(temps[:-1], temps[1:], report.attempted, report.accepted, strict=True)
        if n
    ]
    if report.jumps[0]:
        attempted, made = report.jumps
        rows.append(["jumps accepted", f"{percent(fraction(attempted, made))} of {attempted}"])
    rows.append(["energies computed", str(report.evaluations)])
    frames = read_frames(output)
    mixed = mixing_of(frames)
    rows += [[name, shown] for name, shown in mixed.rows()]
    rows += [["not reliable", reason] for reason in mixed.reasons]
    slow = slow_torsions(frames.topology)
    stayed = [name for name in slow if name not in mixed.torsions]
    if stayed:
        shown = ", ".join(stayed[:6]) + (", ..." if len(stayed) > 6 else "")
        rows.append(["within 120 degrees of their mean", f"{len(stayed)} of {len(slow)} slow torsions: {shown}"])
    if as_json:
        print_json(dict(rows))
    else:
        print_table("Simulation", ["quantity", "value"], rows)


def _ladder(text: str, temperature: float, structure: Path) -> tuple[float, ...]:
    """The temperatures of the ladder above the first one."""
    from ..sampling.simulate import default_ladder

    if text == "none":
        return ()
    if text == "auto":
        return default_ladder(structure, temperature)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigurationError(f'A ladder is written like 360,430,515 (K), not "{text}".') from error
