"""``smoothflow md``: molecular dynamics with a model, in any engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..core.units import FEMTOSECOND
from . import completion
from .console import exit_after, note, print_json, print_table, task_progress
from .options import AsJson, Device, DType, Precision, Seed, Temperature, require_device

if TYPE_CHECKING:
    from ..sampling.md import DynamicsReport


def run(
    model: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A model file, or a model that ships with the package (see: smoothflow info); several are a "
            "committee, whose mean runs and whose spread is told.",
            autocompletion=completion.MODELS,
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--out", help="Frames file (.h5); a run that is in it goes on.")
    ] = None,
    trajectory: Annotated[Path | None, typer.Option(help="Trajectory (.xtc or .dcd).")] = None,
    log: Annotated[Path | None, typer.Option(help="Table of energies and temperatures (.csv).")] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Frames (.h5), or a structure (.pdb, .cif, .sdf); by default samples of the model.",
            autocompletion=completion.STARTS,
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="native (ours), openmm, ase, or another (see: smoothflow plugins).", autocompletion=completion.ENGINES
        ),
    ] = "native",
    ensemble: Annotated[Literal["nve", "nvt"], typer.Option(help="Constant energy, or constant temperature.")] = "nvt",
    temperature: Temperature = None,
    integrator: Annotated[
        str,
        typer.Option(
            help="Integrator of the engine native, instead of the ensemble's.", autocompletion=completion.INTEGRATORS
        ),
    ] = "",
    steps: Annotated[int, typer.Option(min=1, help="Time steps.")] = 1000,
    timestep: Annotated[float, typer.Option(help="In fs.")] = 1.0,
    friction: Annotated[
        float | None, typer.Option(help="Friction of the thermostat, in 1/ps.", show_default="1")
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Independent copies.")] = 1,
    report_every: Annotated[int, typer.Option(min=1, help="Steps between recorded frames.")] = 10,
    energy_bound: Annotated[
        float | None,
        typer.Option(
            help="Stop if the energy leaves its start by more, in kT per internal degree of freedom: in nve the total "
            "energy (default 1), in nvt the potential energy, upwards (default 10)."
        ),
    ] = None,
    percentiles: Annotated[
        bool,
        typer.Option("--percentiles", help="Tell where each frame's energy lies among those of the model's samples."),
    ] = False,
    stop_above: Annotated[
        float | None,
        typer.Option(help="Stop where this percentile is passed: 99.9999 is one configuration in a million."),
    ] = None,
    compiled: Annotated[
        Path | None,
        typer.Option(
            help="Package of the compiled model (.pt2); made, in minutes, if it is not there.",
            autocompletion=completion.PACKAGES,
        ),
    ] = None,
    compile_model: Annotated[
        bool,
        typer.Option("--compile", help="The same without a file; on a GPU nothing is compiled, and it takes seconds."),
    ] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; at a molecule's size more cost more.")] = 1,
    checkpoint_every: Annotated[
        float, typer.Option(min=0, help="Seconds of wall-clock time after which all files are brought up to date.")
    ] = 10.0,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: DType = Precision.float64,
    as_json: AsJson = False,
) -> None:
    """Run molecular dynamics with a model as the potential; in the engine native the same command goes on where it was.

    Example: smoothflow md ala2-smooth --engine ase --ensemble nve --steps 100
    """
    import torch

    from ..analysis.correlation import mean_of_time_series
    from ..analysis.dynamics import conservation_of_series
    from ..core.committee import CommitteePotential
    from ..core.engine import DynamicsSettings
    from ..core.errors import ConfigurationError
    from ..core.files import file_digest, require_distinct
    from ..core.integrator import maxwell_boltzmann
    from ..core.plugins import registry
    from ..core.potential import Potential
    from ..molecules.elements import masses
    from ..potentials.familiarity import Familiarity
    from ..potentials.flow_potential import FlowPotential
    from ..potentials.shipped import load_flow, require_different
    from ..sampling.md import DynamicsPlan, run_dynamics
    from ..sampling.starting import origin_of, starting_positions
    from ..sampling.trust import Trust

    if ensemble == "nve" and friction is not None:
        raise ConfigurationError(
            "Friction belongs to a thermostat, and nve has none: leave --friction out, or ask for nvt."
        )
    if compiled is not None:
        require_distinct([compiled, *(path for path in (output, trajectory, log) if path is not None)])
    torch.set_num_threads(threads)
    where = require_device(device)
    engine = registry().entry("engine", engine).name
    require_different(model)
    if compiled is not None and len(model) > 1:
        raise ConfigurationError("A package holds one model: leave --compiled out, or add --compile.")
    flows = [load_flow(each, dtype.torch, where, temperature) for each in model]
    potential = flows[0]
    topology = potential.coordinates.topology
    run_with: Potential = potential
    if len(flows) > 1:
        # as they are first: compiled, they say less about what they are
        run_with = CommitteePotential(flows)
        fast = [flow.compile() for flow in flows] if compile_model else []
        if fast and not any(isinstance(each, FlowPotential) and each.device.type == "cpu" for each in fast):
            run_with = CommitteePotential(fast)
    elif compiled is not None or compile_model:
        run_with = potential.compile(compiled)
    trust = None
    if percentiles or stop_above is not None or len(flows) > 1:
        familiar = [Familiarity(flow) for flow in flows] if percentiles or stop_above is not None else []
        trust = Trust(run_with, familiar)
    settings = DynamicsSettings(
        n_steps=steps,
        timestep=timestep * FEMTOSECOND,
        ensemble=ensemble,
        temperature=potential.temperature,
        friction=1.0 if friction is None else friction,
        report_every=report_every,
        seed=seed,
    )
    plan = DynamicsPlan(
        settings, engine, integrator, energy_bound, output, trajectory, log, checkpoint_every, stop_above
    )
    generator = torch.Generator(where).manual_seed(seed)
    positions = starting_positions(potential, start, replicas, generator)
    mass = masses(topology).to(where, dtype.torch)
    velocities = maxwell_boltzmann(mass, replicas, potential.temperature, generator)
    first, *others = (registry().model_path(each) for each in model)
    origin = origin_of(first, start, potential)
    if others:
        origin["committee"] = [{"model": path.name, "model_sha256": file_digest(path)} for path in others]
    with task_progress() as on_progress:
        report = run_dynamics(plan, run_with, topology, mass, positions, velocities, origin, on_progress, trust)
    if report.resumed_from:
        note(f'"{output or trajectory or log}" was there up to step {report.resumed_from}.')
    if report.stopped_by is not None:
        goes_on = " The same command goes on from there." if report.goes_on else ""
        exit_after(report.stopped_by, f"step {report.steps} of {steps}.{goes_on}")
    energies = report.energies
    rows = [
        ["simulated time", f"{report.steps * timestep / 1000:g} ps x {replicas}"],
        ["energies recorded", f"{len(energies)} x {replicas}"],
        ["potential energy", f"{mean_of_time_series(energies.potential_energy.mean(1))} kJ/mol"],
        ["kinetic energy", f"{mean_of_time_series(energies.kinetic_energy.mean(1))} kJ/mol"],
    ]
    if ensemble == "nve" and len(energies) >= 3:
        conserved = conservation_of_series(energies.times, energies.total_energy, len(topology))
        rows += [
            ["std of total energy / (3n - 6)", f"{conserved.std_per_dof} kJ/mol"],
            ["drift of total energy", f"{conserved.drift} kJ/mol/ps"],
        ]
    rows += _trust_rows(report)
    if as_json:
        print_json(dict(rows))
    else:
        print_table(f"{ensemble} in {engine}", ["quantity", "value"], rows)


def _trust_rows(report: DynamicsReport) -> list[list[str]]:
    """What was measured of how far the frames can be trusted."""
    from ..sampling.trust import ENERGY_SPREAD, FORCE_SPREAD, PERCENTILE

    rows = []
    if PERCENTILE in report.trust:
        found = report.trust[PERCENTILE]
        rows += [
            ["highest percentile of a frame", f"{float(found.max()):.9g}"],
            ["frames above the 99th percentile", f"{100 * float((found > 99).double().mean()):.3g} % (1 % is due)"],
        ]
    for name, title, unit in (
        (ENERGY_SPREAD, "spread of energies", "kJ/mol"),
        (FORCE_SPREAD, "spread of the most disputed force", "kJ/mol/nm"),
    ):
        if name in report.trust:
            found = report.trust[name]
            rows.append([title, f"{float(found.mean()):.3g} on average, up to {float(found.max()):.3g} {unit}"])
    return rows
