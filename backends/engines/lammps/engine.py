"""Molecular dynamics in LAMMPS with any potential."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.units import ANGSTROM
from ..bridge import ProgramEngine, Replica, Start
from .force import attach_to_lammps, new_lammps

SETUP = """
units metal
atom_style atomic
atom_modify map array sort 0 0
boundary s s s
region everywhere block {low} {high} {low} {high} {low} {high}
create_box {n_types} everywhere
timestep {timestep!r}
"""


class LAMMPSEngine(ProgramEngine):
    """LAMMPS's velocity Verlet, ``fix nve``; ``nve`` only.

    LAMMPS's thermostats are not those of our other engines: run them with `attach_to_lammps`, in a LAMMPS script.
    """

    name = "lammps"
    program = "LAMMPS"
    package = "lammps"
    ensembles = ("nve",)

    def replicas(self, starts: Sequence[Start]) -> list[_Replica]:
        return [_Replica(start) for start in starts]


class _Replica(Replica):
    """A LAMMPS with one replica, every atom of a type of its own."""

    def __init__(self, start: Start) -> None:
        n_atoms = len(start.masses)
        self._lmp: Any = new_lammps()
        # LAMMPS and its forces refer to each other, and would live long after the run
        weakref.finalize(self, self._lmp.close)
        x = start.positions / ANGSTROM
        low, high = float(x.min()) - 1, float(x.max()) + 1
        self._lmp.commands_string(SETUP.format(low=low, high=high, n_types=n_atoms, timestep=start.settings.timestep))
        for i, mass in enumerate(start.masses.tolist(), start=1):
            self._lmp.command(f"mass {i} {mass!r}")
        ids = list(range(1, n_atoms + 1))
        self._lmp.create_atoms(n_atoms, ids, ids, x.ravel().tolist(), (start.velocities / ANGSTROM).ravel().tolist())
        self._lmp.command("fix nve all nve")
        self._force = attach_to_lammps(self._lmp, start.potential, start.elements)

    @property
    def step(self) -> int:
        return int(self._lmp.extract_global("ntimestep"))

    def advance(self, n_steps: int) -> None:
        self._lmp.command(f"run {n_steps} pre {'no' if n_steps else 'yes'} post no")

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        atoms = self._lmp.numpy
        order = np.argsort(atoms.extract_atom("id")[: len(self._force.forces)])
        x, v = (atoms.extract_atom(name)[: len(order)][order] * ANGSTROM for name in ("x", "v"))
        return x, v, self._force.forces, self._force.energy
