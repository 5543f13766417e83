"""``smoothflow md``: molecular dynamics with a model, in any engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer

from ..analysis.dynamics import energy_conservation
from ..analysis.estimates import mean_of_series
from ..coordinates.elements import masses
from ..core.engine import DynamicsSettings
from ..core.errors import ConfigurationError
from ..core.integrator import maxwell_boltzmann
from ..core.plugins import registry
from ..core.units import FEMTOSECOND
from ..potentials.model_file import load_model
from ..training.frames import Frames
from ..training.frames_file import read_frames, write_frames
from .console import print_json, print_table, progress
from .options import AsJson, Device, DType, Precision, Seed, require_device


def run(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    output: Annotated[Path | None, typer.Option("--out", help="Frames file for the trajectory.")] = None,
    start: Annotated[Path | None, typer.Option(help="Frames to start from; without, samples of the model.")] = None,
    engine: Annotated[str, typer.Option(help="verlet (ours), openmm, ase, or a plug-in's.")] = "verlet",
    ensemble: Annotated[Literal["nve", "nvt"], typer.Option()] = "nvt",
    steps: Annotated[int, typer.Option(min=1)] = 1000,
    timestep: Annotated[float, typer.Option(help="In fs.")] = 1.0,
    friction: Annotated[float, typer.Option(help="Of the thermostat, in 1/ps.")] = 1.0,
    replicas: Annotated[int, typer.Option(min=1, help="Independent copies.")] = 1,
    report_every: Annotated[int, typer.Option(min=1, help="Steps between recorded frames.")] = 10,
    seed: Seed = 0,
    device: Device = "cpu",
    dtype: DType = Precision.float64,
    as_json: AsJson = False,
) -> None:
    """Run molecular dynamics with a model as the potential.

    Example: smoothflow md smoothflow-demo/smooth/model.safetensors --engine ase --ensemble nve --steps 100
    """
    if output is not None and output.exists():
        raise ConfigurationError(f'"{output}" exists already. Remove it, or give another name.')
    if not timestep > 0:
        raise ConfigurationError(f"The time step must be positive; it is {timestep} fs.")
    where = require_device(device)
    chosen = registry().engine(engine)()
    potential = load_model(model, dtype.torch, where)
    topology = potential.coordinates.topology
    generator = torch.Generator(where).manual_seed(seed)
    if start is None:
        with torch.no_grad():
            positions, _ = potential.sample(replicas, generator)
    else:
        frames = read_frames(start)
        frames.require_topology(topology, "the model")
        if len(frames) < replicas:
            raise ConfigurationError(f'"{start}" has {len(frames)} frames, too few to start {replicas} replicas.')
        positions = torch.from_numpy(frames[:replicas].positions).to(where, dtype.torch)
    mass = masses(topology).to(where, dtype.torch)
    settings = DynamicsSettings(
        n_steps=steps,
        timestep=timestep * FEMTOSECOND,
        ensemble=ensemble,
        temperature=potential.temperature,
        friction=friction,
        report_every=report_every,
        seed=seed,
    )
    velocities = maxwell_boltzmann(mass, replicas, potential.temperature, generator)
    with progress(f"{ensemble} in {engine}", steps) as advance:
        trajectory = chosen.run(potential, mass, positions, velocities, settings, lambda done, _: advance(done))
    if output is not None:
        write_frames(
            output,
            Frames(
                positions=trajectory.positions.flatten(0, 1).cpu().numpy().astype(np.float32),
                energies=trajectory.potential_energy.flatten().cpu().double().numpy(),
                topology=topology,
                temperature=potential.temperature,
                provenance={"model": str(model), "engine": engine, "ensemble": ensemble, "timestep_fs": timestep},
                replica=np.tile(np.arange(replicas), len(trajectory.times)),
            ),
        )
    rows = [
        ["simulated time", f"{steps * timestep / 1000:g} ps x {replicas}"],
        ["potential energy", f"{mean_of_series(trajectory.potential_energy.mean(1))} kJ/mol"],
        ["kinetic energy", f"{mean_of_series(trajectory.kinetic_energy.mean(1))} kJ/mol"],
    ]
    if ensemble == "nve" and len(trajectory.times) >= 3:
        conserved = energy_conservation(trajectory)
        rows += [
            ["std of total energy / (3n - 6)", f"{conserved.std_per_dof} kJ/mol"],
            ["drift of total energy", f"{conserved.drift} kJ/mol/ps"],
        ]
    if as_json:
        print_json(dict(rows))
    else:
        print_table(f"{ensemble} in {engine}", ["quantity", "value"], rows)
