"""The contract of an integrator of the equations of motion."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import FileFormatError, PluginError
from .potential import Potential
from .units import BOLTZMANN, thermal_energy


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

    @property
    def temperature(self) -> Float[Tensor, "batch"]:
        r"""Kinetic temperature of each replica, K, over all 3n degrees of freedom: :math:`2 E_{kin} / (3 n k)`."""
        return 2 * self.kinetic_energy / (3 * len(self.masses) * BOLTZMANN)

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
    """One time step of a discretized equation of motion, batched over replicas.

    Made by name, it is given those of ``timestep`` (ps), ``temperature`` (K), ``friction`` (1/ps) and ``generator``
    (the source of all its random numbers) that its constructor names; one that names a temperature is a thermostat.

    Subclasses give `step`; or `propagate`, and `draw` if they are stochastic: these can be recorded with the potential,
    and replayed.
    """

    name: ClassVar[str]
    """The name by which configurations ask for it."""

    timestep: float
    """The step in ps."""

    def step(self, potential: Potential, state: State) -> State:
        """The state one time step later."""
        return self.propagate(potential, state, *self.draw(state))

    def draw(self, state: State) -> tuple[Tensor, ...]:
        """The random numbers of the next step of a state, whose values do not matter; none if there is no noise."""
        return ()

    def propagate(self, potential: Potential, state: State, *noise: Tensor) -> State:
        """The state one time step later, given the random numbers: the same operations whatever the values are."""
        raise PluginError(f"The integrator {type(self).__name__} has neither step nor propagate. Give it one of them.")

    @property
    def can_be_captured(self) -> bool:
        """Whether its steps are made of `draw` and `propagate`."""
        kind = type(self)
        return kind.step is Integrator.step and kind.propagate is not Integrator.propagate

    def state_dict(self) -> dict[str, Tensor]:
        """What the next step depends on beside the `State`: here, the torch generators among the attributes.

        An integrator that remembers anything else (forces of the step before, a thermostat's own variables, another
        library's random numbers) overrides this and `load_state_dict`, so that a run can be restarted identically.
        """
        return {name: value.get_state() for name, value in self._generators().items()}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            FileFormatError: If it was another integrator's.
        """
        generators = self._generators()
        if set(generators) != set(saved):
            raise FileFormatError(
                f"The saved state of an integrator holds {sorted(saved)}; {type(self).__name__} needs "
                f"{sorted(generators)}. Go on with the integrator that was saved."
            )
        for name, generator in generators.items():
            generator.set_state(saved[name].cpu())

    def _generators(self) -> dict[str, torch.Generator]:
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Generator)}
