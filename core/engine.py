"""The contract of an engine: a way to run molecular dynamics with any potential."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from .potential import Potential


@dataclass(frozen=True)
class DynamicsSettings:
    """What to run.

    Attributes:
        n_steps: Number of time steps.
        timestep: ps.
        ensemble: ``nve`` (velocity Verlet) or ``nvt`` (Langevin).
        temperature: K; of the thermostat in ``nvt``.
        friction: 1/ps; of the thermostat in ``nvt``.
        report_every: Steps between recorded frames.
        seed: Of the thermostat's noise.
    """

    n_steps: int
    timestep: float = 0.001
    ensemble: Literal["nve", "nvt"] = "nve"
    temperature: float = 300.0
    friction: float = 1.0
    report_every: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Trajectory:
    """What was recorded: every frame holds positions, and energies belonging to the same instant.

    Attributes:
        times: ps.
        positions: nm.
        velocities: nm/ps; with the last positions they continue the run.
        potential_energy: kJ/mol.
        kinetic_energy: kJ/mol.
    """

    times: Float[Tensor, "frames"]
    positions: Float[Tensor, "frames replicas atoms 3"]
    velocities: Float[Tensor, "frames replicas atoms 3"]
    potential_energy: Float[Tensor, "frames replicas"]
    kinetic_energy: Float[Tensor, "frames replicas"]

    @property
    def total_energy(self) -> Float[Tensor, "frames replicas"]:
        """Potential plus kinetic energy, kJ/mol."""
        return self.potential_energy + self.kinetic_energy


class Engine(ABC):
    """Runs molecular dynamics of any potential."""

    name: ClassVar[str]
    """The name by which the command line asks for it."""

    @abstractmethod
    def run(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
        on_report: Callable[[int], None] | None = None,
    ) -> Trajectory:
        """Run from the given positions (nm) and velocities (nm/ps); frame 0 is the start.

        Args:
            potential: Any potential with a topology.
            masses: amu.
            positions: nm.
            velocities: nm/ps at the same instant.
            settings: What to run.
            on_report: Called with the number of steps done at each recorded frame.

        Raises:
            SimulationError: If an energy or a force is not finite.
        """
