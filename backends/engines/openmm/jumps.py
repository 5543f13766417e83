"""Jumps that a model proposes, within a user's own OpenMM simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....core.errors import ConfigurationError, SimulationError
from ....core.jumps import Jumps
from ....core.optional import import_optional
from ....core.potential import Potential
from ....molecules.conversions import topology_from_openmm


class OpenMMJumps:
    """Metropolis jumps in an ``openmm.app.Simulation``, between its stretches of dynamics.

    >>> jumps = smoothflow.OpenMMJumps(simulation, smoothflow.load("ala2-smooth"))
    >>> for _ in range(1000):
    ...     simulation.step(500)
    ...     jumps.attempt(10)

    The simulation's own force field decides, at its thermostat's temperature: its distribution stays what it is.
    Velocities belong to an instant half a step before that of the positions in OpenMM's leapfrogs; at a jump they are
    brought to the instant of the positions and back, with the forces before and after it.

    Args:
        simulation: Of the model's molecule alone, with a thermostat and without constraints.
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
        self._jumps = Jumps(model, temperature)
        self._simulation = simulation
        self._inverse_masses = 1 / masses[:, None]
        self._generator = torch.Generator().manual_seed(seed)
        self.attempted = self.accepted = 0

    def attempt(self, n: int = 1) -> int:
        """Attempt jumps, one after the other; the number of those made."""
        context = self._simulation.context
        before = context.getState(positions=True, velocities=True, forces=True, energy=True)
        here = before.getPositions(asNumpy=True)._value
        energy = before.getPotentialEnergy()._value
        jump = self._jumps.attempt(torch.from_numpy(here.copy()), energy, self._energies, self._generator, n)
        self.attempted += n
        self.accepted += jump.accepted
        context.setPositions(here if not jump.accepted else jump.positions.numpy())
        if jump.accepted:
            half_kick = 0.5 * context.getIntegrator().getStepSize()._value * self._inverse_masses
            change = context.getState(forces=True).getForces(asNumpy=True) - before.getForces(asNumpy=True)
            context.setVelocities(before.getVelocities(asNumpy=True)._value - half_kick * change._value)
        return jump.accepted

    def _energies(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        context = self._simulation.context
        found = []
        for configuration in positions.numpy():
            try:
                context.setPositions(configuration)
                found.append(context.getState(energy=True).getPotentialEnergy()._value)
            except self._openmm.OpenMMException as error:
                raise SimulationError(f"OpenMM cannot compute a proposed configuration: {error}") from error
        return torch.tensor(found, dtype=torch.float64)
