"""Jumps that a model proposes, within a user's own OpenMM simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ....core.errors import ConfigurationError, SimulationError
from ....core.jumps import Jump
from ....core.optional import import_optional
from ....core.potential import Potential
from ....molecules.conversions import topology_from_openmm
from ..bridge import ProgramJumps


class OpenMMJumps(ProgramJumps):
    """Metropolis jumps in an ``openmm.app.Simulation``, between its stretches of dynamics.

    >>> jumps = smoothflow.OpenMMJumps(simulation, smoothflow.load("ala2-smooth"))
    >>> for _ in range(1000):
    ...     simulation.step(500)
    ...     jumps.attempt(10)

    The simulation's own force field decides, at its thermostat's temperature: its distribution stays what it is.
    Velocities belong to an instant half a step before that of the positions in OpenMM's leapfrogs; at a jump they are
    brought to the instant of the positions and back, with the forces before and after it.

    Args:
        simulation: A simulation of the model's molecule alone, with a thermostat and without constraints.
        model: A flow of the molecule.
        seed: Seed of the random numbers.

    Attributes:
        attempted: Jumps so far.
        accepted: Those that were made.

    Raises:
        ConfigurationError: If the System has constraints, virtual sites or atoms without mass, or its integrator has no
            temperature; if the model draws no samples.
        TopologyError: If the simulation is of another molecule than the model.
    """

    def __init__(self, simulation: Any, model: Potential, seed: int = 0) -> None:
        self._openmm = import_optional("openmm", "Jumps in OpenMM", "openmm")
        ours = model.topology
        if ours is not None:
            ours.require_same(topology_from_openmm(simulation.topology), "the model", "the simulation")
        system = simulation.system
        n = system.getNumParticles()
        if system.getNumConstraints():
            raise ConfigurationError(
                f"The System has {system.getNumConstraints()} constraints, which no jump would keep. Make it with "
                "constraints=None and rigidWater=False, and a time step of 1 fs or less."
            )
        masses = np.array([system.getParticleMass(i)._value for i in range(n)])
        if n != model.shape[0] or not (masses > 0).all():
            raise ConfigurationError(
                f"The System has {n} particles, {int((masses <= 0).sum())} of them without mass; the model is of "
                f"{model.shape[0]} atoms. Jumps need a System of the molecule alone."
            )
        integrator = simulation.integrator
        if not hasattr(integrator, "getTemperature"):
            raise ConfigurationError(
                f"{type(integrator).__name__} has no temperature to jump at. Use a thermostat's integrator, like "
                "openmm.LangevinMiddleIntegrator."
            )
        temperature = integrator.getTemperature().value_in_unit(self._openmm.unit.kelvin)
        super().__init__(model, temperature, seed)
        self._simulation = simulation
        self._inverse_masses = 1 / masses[:, None]

    def _read(self) -> tuple[Float[np.ndarray, "atoms 3"], float]:
        self._before = self._simulation.context.getState(positions=True, velocities=True, forces=True, energy=True)
        return self._before.getPositions(asNumpy=True)._value, self._before.getPotentialEnergy()._value

    def _energy(self, positions: Float[np.ndarray, "atoms 3"]) -> float:
        context = self._simulation.context
        try:
            context.setPositions(positions)
            return float(context.getState(energy=True).getPotentialEnergy()._value)
        except self._openmm.OpenMMException as error:
            raise SimulationError(f"OpenMM cannot compute a proposed configuration: {error}") from error

    def _finish(self, jump: Jump) -> None:
        context, before = self._simulation.context, self._before
        context.setPositions(jump.positions.numpy())
        if jump.accepted:
            half_kick = 0.5 * context.getIntegrator().getStepSize()._value * self._inverse_masses
            change = context.getState(forces=True).getForces(asNumpy=True) - before.getForces(asNumpy=True)
            context.setVelocities(before.getVelocities(asNumpy=True)._value - half_kick * change._value)
