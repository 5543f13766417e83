"""Molecular dynamics in i-PI with any potential."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....core.units import BOHR, HARTREE, thermal_energy
from ..bridge import ProgramEngine, Replica, Start
from .pes import PES

ELECTRON_MASS = 1 / 1822.888486209
"""The mass of an electron in amu (CODATA 2018)."""

TIME_UNIT = BOHR * math.sqrt(ELECTRON_MASS / HARTREE)
"""The atomic unit of time in ps, about 2.42e-5."""

INPUT = """
<simulation verbosity='quiet' threading='false'>
  <prng> <seed> {seed} </seed> </prng>
  <ffdirect name='potential'> <pes> dummy </pes> </ffdirect>
  <system>
    {beads}
    <cell> [ 1e6, 0, 0, 0, 1e6, 0, 0, 0, 1e6 ] </cell>
    <forces> <force forcefield='potential'/> </forces>
    <ensemble> <temperature> {temperature!r} </temperature> </ensemble>
    <motion mode='dynamics'>
      <fixcom> False </fixcom>
      <dynamics mode='{ensemble}' splitting='baoab'>
        <timestep> {timestep!r} </timestep>
        <thermostat mode='langevin'> <tau> {tau!r} </tau> </thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""


class IPIEngine(ProgramEngine):
    """i-PI's dynamics of one bead: velocity Verlet (``nve``) and BAOAB Langevin (``nvt``).

    i-PI's objects make the steps in this process, without i-PI's main loop: no threads, no sockets, no files.
    """

    name = "ipi"
    program = "i-PI"
    package = "ipi"
    thermostat = "Langevin, BAOAB"

    def replicas(self, starts: Sequence[Start]) -> list[_Replica]:
        seeds = np.random.SeedSequence(starts[0].settings.seed).generate_state(len(starts))
        return [_Replica(start, int(seed)) for start, seed in zip(starts, seeds, strict=True)]


class _Replica(Replica):
    """i-PI's system of one replica, with its forces and its motion."""

    step = 0

    def __init__(self, start: Start, seed: int) -> None:
        from ipi.engine.beads import Beads
        from ipi.engine.simulation import Simulation
        from ipi.inputs.beads import InputBeads

        settings = start.settings
        beads = Beads(natoms=len(start.masses), nbeads=1)
        beads.m = start.masses / ELECTRON_MASS
        beads.names = np.array(start.elements)
        given = InputBeads()
        given.store(beads)
        simulation = Simulation.load_from_xml(
            INPUT.format(
                seed=seed,
                beads=given.write("beads"),
                temperature=thermal_energy(settings.temperature) / HARTREE,
                ensemble=settings.ensemble,
                timestep=settings.timestep / TIME_UNIT,
                tau=1 / (settings.friction * TIME_UNIT) if settings.friction else math.inf,
            ),
            read_only=True,  # else i-PI takes over signals and writes files
        )
        simulation.fflist["potential"].driver = PES(start.potential)
        self._system: Any
        (self._system,) = simulation.syslist
        self._system.beads.m = beads.m  # the text kept fewer digits
        self._momentum_unit = start.masses[:, None] * (TIME_UNIT / (ELECTRON_MASS * BOHR))
        self._system.beads.q[0] = start.positions.ravel() / BOHR
        self._system.beads.p[0] = (start.velocities * self._momentum_unit).ravel()

    def advance(self, n_steps: int) -> None:
        for _ in range(n_steps):
            self.step += 1
            self._system.motion.step()

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        beads, forces = self._system.beads, self._system.forces
        x, p, f = (np.array(of_bead).reshape(-1, 3) for of_bead in (beads.q[0], beads.p[0], forces.f[0]))
        return x * BOHR, p / self._momentum_unit, f * (HARTREE / BOHR), float(forces.pot) * HARTREE
