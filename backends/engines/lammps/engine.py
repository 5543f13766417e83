"""Molecular dynamics in LAMMPS with any potential."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....core.engine import DynamicsSettings, Engine, OnReport, Trajectory, check_configurations, check_start, record
from ....core.errors import ConfigurationError, SimulationError, SmoothflowError
from ....core.integrator import State
from ....core.potential import Potential
from ....core.units import ANGSTROM
from .force import LAMMPSForce, attach_to_lammps, new_lammps

SETUP = """
units metal
atom_style atomic
atom_modify map array sort 0 0
boundary s s s
region everywhere block {low} {high} {low} {high} {low} {high}
create_box {n_types} everywhere
timestep {timestep!r}
"""


class LAMMPSEngine(Engine):
    """LAMMPS's velocity Verlet, ``fix nve``; ``nve`` only.

    Replicas take turns from report to report. Results are float64 on the CPU.
    """

    name = "lammps"

    def run(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        if settings.ensemble != "nve":
            raise ConfigurationError(
                "The engine lammps runs nve only: the thermostat of LAMMPS is not the one of our other engines. Use "
                "another engine, or attach_to_lammps in a LAMMPS script with a thermostat of your choice."
            )
        check_start(potential, masses, positions, velocities)
        check_configurations(potential, positions)
        masses, positions, velocities = (x.detach().to("cpu", torch.float64) for x in (masses, positions, velocities))
        runs: list[LAMMPSForce] = []

        def advance(time: float, n_steps: int) -> State:
            found = []
            for replica, run in enumerate(runs):
                try:
                    run.lmp.command(f"run {n_steps} pre {'no' if n_steps else 'yes'} post no")
                except SmoothflowError as error:
                    steps = run.lmp.extract_global("ntimestep")
                    raise SimulationError(
                        f"In replica {replica} at {steps * settings.timestep:.6g} ps: {error}"
                    ) from error
                found.append((*_read(run.lmp, len(masses)), run.forces, np.array(run.energy)))
            x, v, forces, energies = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
            return State(x * ANGSTROM, v * ANGSTROM, forces, energies, masses, time + n_steps * settings.timestep)

        def later(state: State, n_steps: int) -> State:
            return advance(state.time, n_steps)

        try:
            for x, v in zip(positions, velocities, strict=True):
                runs.append(_start(potential, masses, x, v, settings.timestep))
            return record(advance(0.0, 0), later, settings, on_report, potential.topology)
        finally:
            for run in runs:
                run.lmp.close()


def _start(
    potential: Potential,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "atoms 3"],
    velocities: Float[Tensor, "atoms 3"],
    timestep: float,
) -> LAMMPSForce:
    """A LAMMPS with one replica, every atom of a type of its own."""
    n_atoms = len(masses)
    lmp = new_lammps()
    x = positions / ANGSTROM
    low, high = float(x.min()) - 1, float(x.max()) + 1
    lmp.commands_string(SETUP.format(low=low, high=high, n_types=n_atoms, timestep=timestep))
    for i, mass in enumerate(masses.tolist(), start=1):
        lmp.command(f"mass {i} {mass!r}")
    ids = list(range(1, n_atoms + 1))
    lmp.create_atoms(n_atoms, ids, ids, x.ravel().tolist(), (velocities / ANGSTROM).ravel().tolist())
    lmp.command("fix nve all nve")
    elements = potential.topology.elements if potential.topology is not None else ("X",) * n_atoms
    return attach_to_lammps(lmp, potential, elements)


def _read(lmp: Any, n_atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Positions (Å) and velocities (Å/ps) in the order of the atoms' IDs; copies."""
    order = np.argsort(lmp.numpy.extract_atom("id")[:n_atoms])
    return lmp.numpy.extract_atom("x")[:n_atoms][order], lmp.numpy.extract_atom("v")[:n_atoms][order]
