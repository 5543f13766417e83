"""The contract of an integrator of the equations of motion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .potential import Potential
from .units import thermal_energy


@dataclass(frozen=True)
class State:
    """A batch of replicas at one instant; velocities and positions belong to the same time.

    Attributes:
        positions: nm.
        velocities: nm/ps.
        forces: kJ/mol/nm at ``positions``.
        potential_energy: kJ/mol at ``positions``.
        masses: amu.
        time: ps.
    """

    positions: Float[Tensor, "batch atoms 3"]
    velocities: Float[Tensor, "batch atoms 3"]
    forces: Float[Tensor, "batch atoms 3"]
    potential_energy: Float[Tensor, "batch"]
    masses: Float[Tensor, "atoms"]
    time: float

    @property
    def kinetic_energy(self) -> Float[Tensor, "batch"]:
        """Kinetic energy of each replica, kJ/mol."""
        return 0.5 * (self.masses[:, None] * self.velocities**2).sum(dim=(-2, -1))

    @property
    def total_energy(self) -> Float[Tensor, "batch"]:
        """Potential plus kinetic energy of each replica, kJ/mol."""
        return self.potential_energy + self.kinetic_energy

    @classmethod
    def start(
        cls,
        potential: Potential,
        positions: Float[Tensor, "batch atoms 3"],
        velocities: Float[Tensor, "batch atoms 3"],
        masses: Float[Tensor, "atoms"],
    ) -> State:
        """The state at time zero, with energies and forces computed."""
        energy, forces = potential.energy_and_forces(positions)
        return cls(positions, velocities, forces, energy, masses, 0.0)


def maxwell_boltzmann(
    masses: Float[Tensor, "atoms"], n_replicas: int, temperature: float, generator: torch.Generator
) -> Float[Tensor, "replicas atoms 3"]:
    r"""Velocities drawn from the Maxwell-Boltzmann distribution, nm/ps.

    .. math:: v_i \sim \mathcal N(0, kT / m_i)
    """
    noise = torch.randn(
        (n_replicas, len(masses), 3), generator=generator, dtype=masses.dtype, device=generator.device
    ).to(masses.device)
    return noise * (thermal_energy(temperature) / masses)[:, None].sqrt()


class Integrator(ABC):
    """One time step of a discretized equation of motion, batched over replicas."""

    name: ClassVar[str]
    """The name by which configurations ask for it."""

    timestep: float
    """The step in ps."""

    @abstractmethod
    def step(self, potential: Potential, state: State) -> State:
        """The state one time step later."""
