"""What all engines share: potentials as other programs call them, in NumPy and float64, one configuration at a time."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...core.engine import Advance, DynamicsSettings, Engine
from ...core.errors import ConfigurationError, SimulationError, SmoothflowError
from ...core.external import attach_forces
from ...core.finite import first_not_finite
from ...core.integrator import State
from ...core.jumps import Jump, Jumps
from ...core.optional import import_optional
from ...core.potential import Potential, unchecked
from ...core.topology import Topology, atom_name


def require_molecular(potential: Potential, program: str) -> None:
    """Raise a `ConfigurationError` unless this is a potential, and a molecule's."""
    if not isinstance(potential, Potential):
        raise ConfigurationError(
            f"{program} needs a potential and was given a {type(potential).__name__}. Load a model with "
            "smoothflow.load(name_or_path), or make a FlowPotential of a flow."
        )
    if len(potential.shape) != 2 or potential.shape[1] != 3:
        raise ConfigurationError(
            f"A potential of shape {tuple(potential.shape)} is not a molecule's; {program} cannot use it."
        )


Compute = Callable[[Float[Tensor, "batch atoms 3"]], tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]]
"""Energies (kJ/mol) and forces (kJ/mol/nm) of positions (nm)."""

JUMP = 0.05
"""Displacement of an atom since the last call, nm, after which a configuration counts as a new one. In a time step an
atom moves ten times less; another unit, order or molecule is more than this away."""


class Evaluator:
    """A potential as another program calls it: one configuration at a time, in NumPy and float64.

    Programs do not say when a configuration begins something new: another Context, another Atoms object, a restart. An
    atom that has jumped does, and then the configuration is checked as at the first call.

    Args:
        potential: Any molecular potential; it computes in its own precision on its own device.
        program: Who calls, for messages.
        compute: What gives its energies and forces, if they are not all that is wanted of it.

    Raises:
        ConfigurationError: If the potential is not a molecule's.
    """

    def __init__(self, potential: Potential, program: str, compute: Compute | None = None) -> None:
        require_molecular(potential, program)
        self.potential = potential
        self._shape = tuple(potential.shape)
        self._compute = unchecked(potential, "energy_and_forces") if compute is None else compute
        self._last: Float[np.ndarray, "atoms 3"] = np.full(self._shape, np.nan)
        self._begun = False
        self._ones = np.ones(math.prod(self._shape))

    def is_new(self, positions: Float[np.ndarray, "atoms 3"]) -> bool:
        """Whether positions (nm) are not those of a step after the last ones; also if they are not finite.

        Raises:
            ConfigurationError: If the number of atoms is not the potential's.
        """
        if positions.shape != self._shape:
            raise ConfigurationError(
                f"The potential has {self._shape[0]} atoms and was given {positions.shape[0]}. "
                "Use it with the molecule that it was made for."
            )
        moved = (positions - self._last).ravel()
        # the sum bounds the largest, and is cheaper; NaN fails both
        return not (moved.dot(moved) < JUMP**2 or np.abs(moved).max() < JUMP)

    def require(self, positions: Float[np.ndarray, "atoms 3"]) -> None:
        """Check positions (nm) if they are new.

        Raises:
            ConfigurationError: If the number of atoms is not the potential's.
            GeometryError: If they are not a configuration of the molecule: in a wrong unit or order, torn, or mirrored.
        """
        if self.is_new(positions):
            self.potential.require_configuration(positions)
        self._last = positions
        self._begun = True

    def __call__(self, positions: Float[np.ndarray, "atoms 3"]) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        """Energy in kJ/mol and forces in kJ/mol/nm, float64, of one configuration in nm; checked if it is new.

        Args:
            positions: An array that nobody changes afterwards; the next one is compared with it.

        Raises:
            ConfigurationError: If the number of atoms is not the potential's.
            GeometryError: If the positions are not a configuration of the molecule.
            SimulationError: If a position, the energy or a force is not finite; says where, as far as is known.
        """
        new = self.is_new(positions)
        if new and not np.isfinite(positions).all():
            raise SimulationError(self._not_finite(positions, positions))
        if new and not self._begun:
            self.potential.require_configuration(positions)
            self._begun = True
            new = False
        energy, forces = self._compute(self.as_batch(positions))
        value: float = energy.item()
        if forces.dtype is not torch.float64 or not forces.is_cpu:
            forces = forces.to("cpu", torch.float64)
        array: Float[np.ndarray, "atoms 3"] = forces.numpy()[0]
        # one sum: cheap at every step, most of all as a product, and that of finite numbers of physical size is finite
        if not math.isfinite(value + array.ravel().dot(self._ones)):
            raise SimulationError(self._not_finite(positions, array))
        # the energy comes first: it explains more about an atom that flies away during a run
        if new:
            self.potential.require_configuration(positions)
        self._last = positions
        return value, array

    def as_batch(self, positions: Float[np.ndarray, "atoms 3"]) -> Float[Tensor, "1 atoms 3"]:
        """A configuration in the precision and on the device of the potential."""
        return torch.from_numpy(positions[None]).to(self.potential.device, self.potential.dtype)

    def _not_finite(self, positions: Float[np.ndarray, "atoms 3"], forces: Float[np.ndarray, "atoms 3"]) -> str:
        what = "the energy"
        for name, values in (("force on", forces), ("position of", positions)):
            bad = first_not_finite(torch.from_numpy(values))
            if bad is not None:
                what = f"the {name} {atom_name(self.potential.topology, bad[0])}"
        explanation = self.potential.explain(self.as_batch(positions))
        return (
            f"In this configuration {what} is not finite. {explanation}{' ' if explanation else ''}"
            "Use a smaller time step, or start from positions closer to those that the potential was made for."
        )


@dataclass(frozen=True)
class Start:
    """Where one replica starts, for a program that moves it.

    Attributes:
        potential: Any potential of these atoms.
        masses: amu.
        positions: nm.
        velocities: nm/ps at the same instant.
        settings: What to run, in one of the engine's ensembles.
    """

    potential: Potential
    masses: Float[np.ndarray, "atoms"]
    positions: Float[np.ndarray, "atoms 3"]
    velocities: Float[np.ndarray, "atoms 3"]
    settings: DynamicsSettings

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements, as programs ask for them; X for each atom of a potential without a topology."""
        topology = self.potential.topology
        return ("X",) * len(self.masses) if topology is None else topology.elements


class Replica(ABC):
    """One replica in another program; what it gives is in our units, whatever the program's are."""

    @property
    @abstractmethod
    def step(self) -> int:
        """The number of the step that it makes or has just made, for the time in messages; `advance` counts it."""

    @abstractmethod
    def advance(self, n_steps: int) -> None:
        """Make steps, counting `step`; with 0, compute what the program needs before its first one."""

    @abstractmethod
    def read(
        self,
    ) -> tuple[Float[np.ndarray, "atoms 3"], Float[np.ndarray, "atoms 3"], Float[np.ndarray, "atoms 3"], float]:
        """Positions (nm), velocities (nm/ps), forces (kJ/mol/nm) and potential energy (kJ/mol) of one instant."""


class ProgramEngine(Engine, ABC):
    """An engine that is another program, in NumPy and float64: replicas take turns from report to report.

    A subclass gives `replicas`. Results are float64 on the CPU.
    """

    program: ClassVar[str]
    """The program's own name, for messages."""
    package: ClassVar[str | None] = None
    """The optional package that it needs, which our extra of the engine's name installs."""

    @abstractmethod
    def replicas(self, starts: Sequence[Start]) -> Sequence[Replica]:
        """Each replica in the program, at its start; there is at least one."""

    def begin(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
    ) -> Advance:
        if self.package is not None:
            import_optional(self.package, f"The engine {self.name}", self.name)
        # copies: what a program does to its arrays is not seen by the caller
        masses, positions, velocities = (
            x.detach().to("cpu", torch.float64, copy=True) for x in (masses, positions, velocities)
        )
        arrays = zip(positions.numpy(), velocities.numpy(), strict=True)
        replicas = self.replicas([Start(potential, masses.numpy(), x, v, settings) for x, v in arrays])
        done = 0

        def advance(n_steps: int) -> State:
            nonlocal done
            found = []
            for i, replica in enumerate(replicas):
                try:
                    replica.advance(n_steps)
                    found.append(replica.read())
                except SmoothflowError as error:
                    time = replica.step * settings.timestep
                    raise SimulationError(f"{self.program} stopped in replica {i} at {time:.6g} ps: {error}") from error
            done += n_steps
            x, v, forces, energies = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
            return State(x, v, forces, energies, masses, done * settings.timestep)

        return advance


class ExternalPotential(Potential):
    """A potential that another program computes; differentiable once, through the program's own forces.

    Args:
        topology: The molecule.
    """

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.topology: Topology = topology
        self.shape = (len(topology), 3)
        self.dtype = torch.float64

    @abstractmethod
    def evaluate(self, positions: Float[np.ndarray, "atoms 3"]) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        """Energy in kJ/mol and forces in kJ/mol/nm of one configuration in nm."""

    def energy_and_forces(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]:
        array = positions.detach().to("cpu", torch.float64).numpy()
        energies, forces = np.empty(len(array)), np.empty_like(array)
        for i, configuration in enumerate(array):
            energies[i], forces[i] = self.evaluate(configuration)
        return torch.from_numpy(energies).to(positions), torch.from_numpy(forces).to(positions)

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return attach_forces(positions, *unchecked(self, "energy_and_forces")(positions))


class ProgramJumps(ABC):
    """Metropolis jumps that a model proposes within a program's own dynamics.

    A subclass reads, computes and sets configurations of the program.

    Attributes:
        attempted: Jumps so far.
        accepted: Those that were made.

    Args:
        model: A flow of the molecule.
        temperature: K; that of the program's thermostat.
        seed: Seed of the random numbers.

    Raises:
        ConfigurationError: If the model draws no samples.
    """

    def __init__(self, model: Potential, temperature: float, seed: int) -> None:
        self._jumps = Jumps(model, temperature)
        self._generator = torch.Generator().manual_seed(seed)
        self.attempted = self.accepted = 0

    @abstractmethod
    def _read(self) -> tuple[Float[np.ndarray, "atoms 3"], float]:
        """Positions (nm) and potential energy (kJ/mol) in the program, before the jumps."""

    @abstractmethod
    def _energy(self, positions: Float[np.ndarray, "atoms 3"]) -> float:
        """The program's energy (kJ/mol) of a proposed configuration (nm)."""

    @abstractmethod
    def _finish(self, jump: Jump) -> None:
        """Go on in the program from where the jumps have led."""

    def attempt(self, n: int = 1) -> int:
        """Attempt jumps, one after the other; the number of those made."""
        here, energy = self._read()
        jump = self._jumps.attempt(torch.from_numpy(here.copy()), energy, self._energies, self._generator, n)
        self.attempted += n
        self.accepted += jump.accepted
        self._finish(jump)
        return jump.accepted

    def _energies(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return torch.tensor([self._energy(configuration) for configuration in positions.numpy()], dtype=torch.float64)
