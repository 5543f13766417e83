"""Molecular dynamics in ASE with any potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.units import ANGSTROM, ELECTRONVOLT, ELECTRONVOLT_TIME, thermal_energy
from ..bridge import ProgramEngine, Replica, Start


class ASEEngine(ProgramEngine):
    """ASE's velocity Verlet (``nve``) and Langevin (``nvt``) dynamics.

    Reference: Vanden-Eijnden, Ciccotti, Chem. Phys. Lett. 429, 310 (2006).
    """

    name = "ase"
    program = "ASE"
    package = "ase"
    thermostat = "Langevin, Vanden-Eijnden and Ciccotti"

    def replicas(self, starts: Sequence[Start]) -> list[_Replica]:
        seeds = np.random.SeedSequence(starts[0].settings.seed).spawn(len(starts))
        return [_Replica(start, np.random.default_rng(seed)) for start, seed in zip(starts, seeds, strict=True)]


class _Replica(Replica):
    def __init__(self, start: Start, rng: np.random.Generator) -> None:
        import ase
        import ase.units
        from ase.md.langevin import Langevin
        from ase.md.verlet import VelocityVerlet

        from .calculator import SmoothflowCalculator

        settings = start.settings
        self._atoms = ase.Atoms(start.elements, positions=start.positions / ANGSTROM, masses=start.masses)
        self._atoms.set_velocities(start.velocities * (ELECTRONVOLT_TIME / ANGSTROM))
        self._atoms.calc = SmoothflowCalculator(start.potential)
        timestep = settings.timestep / ELECTRONVOLT_TIME
        self._dynamics: Any
        if settings.ensemble == "nve":
            self._dynamics = VelocityVerlet(self._atoms, timestep)
        else:
            self._dynamics = Langevin(
                self._atoms,
                timestep,
                # in K of ASE's Boltzmann constant, which is that of an earlier SI
                temperature_K=thermal_energy(settings.temperature) / ELECTRONVOLT / ase.units.kB,
                friction=settings.friction * ELECTRONVOLT_TIME,
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
            self._atoms.get_velocities() * (ANGSTROM / ELECTRONVOLT_TIME),
            self._atoms.get_forces() * (ELECTRONVOLT / ANGSTROM),
            self._atoms.get_potential_energy() * ELECTRONVOLT,
        )
