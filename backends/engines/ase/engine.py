"""Molecular dynamics in ASE with any potential."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from ....core.engine import DynamicsSettings
from ....core.potential import Potential
from ....core.units import ANGSTROM, ELECTRONVOLT, thermal_energy
from ..bridge import ProgramEngine, Replica, import_optional

TIME_UNIT = ANGSTROM / math.sqrt(ELECTRONVOLT)
"""ASE's unit of time, Å (amu/eV)^1/2, in ps."""


class ASEEngine(ProgramEngine):
    """ASE's velocity Verlet (``nve``) and Langevin (``nvt``) dynamics.

    Reference: Vanden-Eijnden, Ciccotti, Chem. Phys. Lett. 429, 310 (2006).
    """

    name = "ase"
    program = "ASE"
    thermostat = "Langevin, Vanden-Eijnden and Ciccotti"

    def replicas(
        self,
        potential: Potential,
        masses: Float[np.ndarray, "atoms"],
        positions: Float[np.ndarray, "replicas atoms 3"],
        velocities: Float[np.ndarray, "replicas atoms 3"],
        settings: DynamicsSettings,
    ) -> list[_Replica]:
        import_optional("ase", "The engine ase", "ase")
        seeds = np.random.SeedSequence(settings.seed).spawn(len(positions))
        return [
            _Replica(potential, masses, x, v, settings, np.random.default_rng(seed))
            for x, v, seed in zip(positions, velocities, seeds, strict=True)
        ]


class _Replica(Replica):
    def __init__(
        self,
        potential: Potential,
        masses: Float[np.ndarray, "atoms"],
        positions: Float[np.ndarray, "atoms 3"],
        velocities: Float[np.ndarray, "atoms 3"],
        settings: DynamicsSettings,
        rng: np.random.Generator,
    ) -> None:
        import ase
        import ase.units
        from ase.md.langevin import Langevin
        from ase.md.verlet import VelocityVerlet

        from .calculator import SmoothflowCalculator

        elements = potential.topology.elements if potential.topology is not None else ("X",) * len(masses)
        self._atoms = ase.Atoms(elements, positions=positions / ANGSTROM, masses=masses)
        self._atoms.set_velocities(velocities * (TIME_UNIT / ANGSTROM))
        self._atoms.calc = SmoothflowCalculator(potential)
        timestep = settings.timestep / TIME_UNIT
        self._dynamics: Any
        if settings.ensemble == "nve":
            self._dynamics = VelocityVerlet(self._atoms, timestep)
        else:
            self._dynamics = Langevin(
                self._atoms,
                timestep,
                # in K of ASE's Boltzmann constant, which is that of an earlier SI
                temperature_K=thermal_energy(settings.temperature) / ELECTRONVOLT / ase.units.kB,
                friction=settings.friction * TIME_UNIT,
                fixcm=False,
                rng=rng,
            )

    @property
    def step(self) -> int:
        # ASE counts a step when it is done, and takes none before the first one begins
        return int(self._dynamics.nsteps) + 1

    def advance(self, n_steps: int) -> None:
        self._dynamics.run(n_steps)

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        return (
            self._atoms.get_positions() * ANGSTROM,
            self._atoms.get_velocities() * (ANGSTROM / TIME_UNIT),
            self._atoms.get_forces() * (ELECTRONVOLT / ANGSTROM),
            self._atoms.get_potential_energy() * ELECTRONVOLT,
        )
