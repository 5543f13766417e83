"""Molecular dynamics in OpenMM with any potential."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ....core.errors import SimulationError
from ..bridge import ProgramEngine, Replica, Start
from .force import to_openmm_force
from .potential import OpenMMPotential, make_context


class OpenMMEngine(ProgramEngine):
    r"""OpenMM's integrators: velocity Verlet (``nve``) and BAOAB Langevin (``nvt``).

    OpenMM's Verlet and LangevinMiddle integrators are leapfrogs: their velocities are half a kick behind,

    .. math:: v_{\mathrm{OpenMM}} = v(t) - \tfrac{\Delta t}{2} m^{-1} F(x(t)).

    Taken off before a stretch of steps and put back after it, the half kick turns them into velocity Verlet and BAOAB,
    whose velocities belong to the instant of the positions.

    A potential that is itself OpenMM's runs natively, on its own platform; any other one through a PythonForce on the
    Reference platform, in float64.
    """

    name = "openmm"
    program = "OpenMM"
    package = "openmm"
    thermostat = "Langevin, BAOAB"

    def replicas(self, starts: Sequence[Start]) -> list[_Replica]:
        context = _context(starts[0])
        return [_Replica(context, start) for start in starts]


class _Replica(Replica):
    """One replica, in the Context that all replicas share."""

    step = 0

    def __init__(self, context: Any, start: Start) -> None:
        self._context = context
        self._half_kick = (0.5 * start.settings.timestep / start.masses)[:, None]
        self._positions = start.positions
        self._velocities = start.velocities
        self._forces: Float[np.ndarray, "atoms 3"]
        self._energy: float

    def advance(self, n_steps: int) -> None:
        import openmm

        before = self._context.getStepCount()
        try:
            self._context.setPositions(self._positions)
            if n_steps > 0:
                self._context.setVelocities(self._velocities - self._half_kick * self._forces)
                self._context.getIntegrator().step(n_steps)
            found = self._context.getState(positions=True, velocities=True, energy=True, forces=True)
        except openmm.OpenMMException as error:
            self.step += self._context.getStepCount() - before + 1
            raise SimulationError(str(error)) from error
        self.step += n_steps
        self._positions = found.getPositions(asNumpy=True)._value
        self._forces = found.getForces(asNumpy=True)._value
        self._energy = found.getPotentialEnergy()._value
        if n_steps > 0:
            self._velocities = found.getVelocities(asNumpy=True)._value + self._half_kick * self._forces

    def read(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        return self._positions, self._velocities, self._forces, self._energy


def _context(start: Start) -> Any:
    import openmm

    potential, masses, settings = start.potential, start.masses.tolist(), start.settings
    if isinstance(potential, OpenMMPotential):
        system = openmm.XmlSerializer.clone(potential.system)
        for i, mass in enumerate(masses):
            system.setParticleMass(i, mass)
        platform = potential.choose_platform(start.positions)
    else:
        system = openmm.System()
        for mass in masses:
            system.addParticle(mass)
        system.addForce(to_openmm_force(potential))
        platform = "Reference"
    if settings.ensemble == "nve":
        integrator = openmm.VerletIntegrator(settings.timestep)
    else:
        integrator = openmm.LangevinMiddleIntegrator(settings.temperature, settings.friction, settings.timestep)
        # OpenMM takes 0 for "choose one"
        integrator.setRandomNumberSeed(settings.seed % (2**31 - 2) + 1)
    return make_context(system, platform, integrator)
