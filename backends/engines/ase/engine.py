"""Molecular dynamics in ASE with any potential."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....core.engine import DynamicsSettings, Engine, OnReport, Trajectory, check_configurations, check_start, record
from ....core.errors import SimulationError, SmoothflowError
from ....core.integrator import State
from ....core.potential import Potential
from ....core.units import ANGSTROM, ELECTRONVOLT, thermal_energy
from ..bridge import import_optional

TIME_UNIT = ANGSTROM / math.sqrt(ELECTRONVOLT)
"""ASE's unit of time, Å (amu/eV)^1/2, in ps."""


class ASEEngine(Engine):
    """ASE's velocity Verlet (``nve``) and Langevin (``nvt``) dynamics.

    Replicas take turns from report to report. Results are float64 on the CPU.

    Reference: Vanden-Eijnden, Ciccotti, Chem. Phys. Lett. 429, 310 (2006).
    """

    name = "ase"
    thermostat = "Langevin, Vanden-Eijnden and Ciccotti"

    def run(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        import_optional("ase", "The engine ase", "ase")
        check_start(potential, masses, positions, velocities)
        check_configurations(potential, positions)
        masses, positions, velocities = (x.detach().to("cpu", torch.float64) for x in (masses, positions, velocities))
        seeds = np.random.SeedSequence(settings.seed).spawn(len(positions))
        runs = [
            _dynamics(potential, masses, x, v, settings, np.random.default_rng(seed))
            for x, v, seed in zip(positions, velocities, seeds, strict=True)
        ]

        def advance(time: float, n_steps: int) -> State:
            found = []
            for replica, run in enumerate(runs):
                try:
                    run.run(n_steps)
                    found.append(
                        (
                            run.atoms.get_positions(),
                            run.atoms.get_velocities(),
                            run.atoms.get_forces(),
                            np.array(run.atoms.get_potential_energy()),
                        )
                    )
                except SmoothflowError as error:
                    raise SimulationError(
                        f"ASE stopped in replica {replica} at {time + run.nsteps * settings.timestep:.6g} ps: {error}"
                    ) from error
            x, v, forces, energies = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
            return State(
                x * ANGSTROM,
                v * (ANGSTROM / TIME_UNIT),
                forces * (ELECTRONVOLT / ANGSTROM),
                energies * ELECTRONVOLT,
                masses,
                time + n_steps * settings.timestep,
            )

        def later(state: State, n_steps: int) -> State:
            return advance(state.time, n_steps)

        return record(advance(0.0, 0), later, settings, on_report, potential.topology)


def _dynamics(
    potential: Potential,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "atoms 3"],
    velocities: Float[Tensor, "atoms 3"],
    settings: DynamicsSettings,
    rng: np.random.Generator,
) -> Any:
    """ASE's dynamics object of one replica."""
    import ase
    import ase.units
    from ase.md.langevin import Langevin
    from ase.md.verlet import VelocityVerlet

    from .calculator import SmoothflowCalculator

    elements = potential.topology.elements if potential.topology is not None else ("X",) * len(masses)
    atoms = ase.Atoms(elements, positions=positions.numpy() / ANGSTROM, masses=masses.numpy())
    atoms.set_velocities(velocities.numpy() * (TIME_UNIT / ANGSTROM))
    atoms.calc = SmoothflowCalculator(potential)
    timestep = settings.timestep / TIME_UNIT
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    return Langevin(
        atoms,
        timestep,
        # in K of ASE's Boltzmann constant, which is that of an earlier SI
        temperature_K=thermal_energy(settings.temperature) / ELECTRONVOLT / ase.units.kB,
        friction=settings.friction * TIME_UNIT,
        fixcm=False,
        rng=rng,
    )
