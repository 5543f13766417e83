"""The contract of an engine: a way to run molecular dynamics with any potential."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import ClassVar, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ConfigurationError, PluginError, SimulationError
from .finite import first_not_finite
from .integrator import State
from .potential import Potential
from .topology import Topology, atom_name
from .units import BOLTZMANN, thermal_energy

Ensemble = Literal["nve", "nvt"]

OnReport = Callable[[int, State], None]
"""Called at each recorded frame with the number of steps done and the state there; raises to stop the run."""

Advance = Callable[[int], State]
"""Advances by a number of steps and returns the state there; by 0, the start with its energies and forces."""


@dataclass(frozen=True)
class DynamicsSettings:
    """What to run.

    Attributes:
        n_steps: Number of time steps.
        timestep: ps.
        ensemble: ``nve`` (velocity Verlet) or ``nvt`` (Langevin).
        temperature: K; of the thermostat in ``nvt``.
        friction: 1/ps; of the thermostat in ``nvt``.
        report_every: Steps between recorded frames; the last step is always recorded.
        seed: Seed of the thermostat's noise.

    Raises:
        ConfigurationError: If a value cannot be run.
    """

    n_steps: int
    timestep: float = 0.001
    ensemble: Ensemble = "nve"
    temperature: float = 300.0
    friction: float = 1.0
    report_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        problems = {
            f"n_steps is {self.n_steps}; give 0 or more": self.n_steps < 0,
            f"timestep is {self.timestep} ps; give a positive number": not 0 < self.timestep < float("inf"),
            f'ensemble is "{self.ensemble}"; give nve or nvt': self.ensemble not in get_args(Ensemble),
            f"temperature is {self.temperature} K; give 0 or more": not 0 <= self.temperature < float("inf"),
            f"friction is {self.friction} 1/ps; give 0 or more": not 0 <= self.friction < float("inf"),
            f"report_every is {self.report_every}; give 1 or more": self.report_every < 1,
            f"seed is {self.seed}; give 0 or more": self.seed < 0,
        }
        for text, wrong in problems.items():
            if wrong:
                raise ConfigurationError(f"Dynamics cannot be run: {text}.")


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


class Engine:
    """Runs molecular dynamics of any potential.

    A subclass gives `begin`; the checks of the start, the frames and the search for numbers that are not finite are the
    same for all. One that overrides `run` as a whole is an engine too, and does all of this itself.
    """

    name: ClassVar[str]
    """The engine's name on the command line."""
    thermostat: ClassVar[str] = "Langevin"
    """The thermostat behind ``nvt``; kept with the frames that it makes."""
    ensembles: ClassVar[tuple[Ensemble, ...]] = get_args(Ensemble)
    """The ensembles that it runs."""

    def begin(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
    ) -> Advance:
        """Prepare a run from a start that has been checked.

        Args:
            potential: Any potential of these atoms.
            masses: amu.
            positions: nm.
            velocities: nm/ps at the same instant.
            settings: What to run, in one of `ensembles`.

        Returns:
            What makes the steps; velocities that it gives belong to the instant of the positions.

        Raises:
            SimulationError: In a step that cannot be made; the message names replica and time.
        """
        raise PluginError(f"The engine {type(self).__name__} has neither begin nor a run of its own. Give it begin.")

    def run(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        """Run from the given positions (nm) and velocities (nm/ps); frame 0 is the start.

        Args:
            potential: Any potential with a topology.
            masses: amu.
            positions: nm.
            velocities: nm/ps at the same instant.
            settings: What to run.
            on_report: Sees the number of steps done and the state at each recorded frame; what it raises ends the run.

        Raises:
            ConfigurationError: If a run cannot start from these, or the engine does not run the ensemble.
            GeometryError: If the positions are not a configuration of the molecule: in another order, or mirrored.
            SimulationError: If an energy or a force is not finite, or the kinetic energy is one that no temperature of
                the run explains.
        """
        if settings.ensemble not in self.ensembles:
            raise ConfigurationError(
                f"The engine {self.name} runs {' and '.join(self.ensembles)} only, not {settings.ensemble}. "
                f"Ask for the ensemble {' or '.join(self.ensembles)}, or use another engine."
            )
        check_start(potential, masses, positions, velocities)
        check_configurations(potential, positions)
        advance = self.begin(potential, masses, positions, velocities, settings)
        return record(advance(0), lambda _, n_steps: advance(n_steps), settings, on_report, potential.topology)


def check_start(
    potential: Potential,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "replicas atoms 3"],
    velocities: Float[Tensor, "replicas atoms 3"],
) -> None:
    """Raise a `ConfigurationError` unless a run can start from these."""
    shape = tuple(positions.shape)
    if len(shape) != 3 or shape[0] < 1 or shape[1:] != tuple(potential.shape):
        raise ConfigurationError(
            f"The positions have shape {shape}; the potential needs (replicas, {', '.join(map(str, potential.shape))})."
        )
    if velocities.shape != positions.shape or masses.shape != positions.shape[1:2]:
        raise ConfigurationError(
            f"Positions of shape {shape} need velocities of the same shape and {shape[1]} masses; these have shapes "
            f"{tuple(velocities.shape)} and {tuple(masses.shape)}."
        )
    if not bool((masses > 0).all()):
        atom = int((~(masses > 0)).nonzero()[0])
        raise ConfigurationError(f"Atom {atom} has mass {float(masses[atom])} amu; dynamics needs positive masses.")
    for what, values in (("position", positions), ("velocity", velocities)):
        bad = first_not_finite(values)
        if bad is not None:
            replica, atom = bad[:2]
            raise ConfigurationError(f"The {what} of atom {atom} in replica {replica} is not finite; start elsewhere.")


def check_configurations(potential: Potential, positions: Float[Tensor, "replicas atoms 3"]) -> None:
    """Raise a `GeometryError` unless all replicas start from configurations of the potential's molecule."""
    for configuration in positions.detach().to("cpu", torch.float64).numpy():
        potential.require_configuration(configuration)


IMPROBABLE = 100.0
"""Minus the logarithm of the probability beyond which a kinetic energy is not one of a temperature."""


def kinetic_limit(n_atoms: int, temperature: float) -> float:
    r"""The kinetic energy, kJ/mol, that is exceeded at a temperature with a probability of less than exp(-t), t = 100.

    .. math:: E = \frac{kT}{2} \left( D + 2 \sqrt{D t} + 2 t \right), \qquad D = 3 n

    Twice the kinetic energy over kT is a sum of D squares of standard normal variables. Of 22 atoms at 300 K no more
    than 530 kJ/mol are ever seen; a run beyond it has found energy that is not there.

    Args:
        n_atoms: n.
        temperature: K.

    Reference: Laurent, Massart, Ann. Statist. 28, 1302 (2000), lemma 1.
    """
    dof = 3 * n_atoms
    return 0.5 * thermal_energy(temperature) * (dof + 2 * sqrt(dof * IMPROBABLE) + 2 * IMPROBABLE)


def require_kinetic(state: State, limit: float) -> None:
    """Raise a `SimulationError` if the kinetic energy of a replica is beyond a limit (`kinetic_limit`)."""
    energies = state.kinetic_energy
    replica = int(energies.argmax())
    energy = float(energies[replica])
    if energy > limit:
        temperature = 2 * energy / (3 * len(state.masses) * BOLTZMANN)
        raise SimulationError(
            f"At {state.time:.6g} ps replica {replica} has a kinetic energy of {energy:.4g} kJ/mol, as at "
            f"{temperature:.4g} K: more than the temperature of the run can give ({limit:.4g} kJ/mol). It fell from a "
            "potential energy far too high. Start from positions that the potential was made for, or use a smaller "
            "time step."
        )


def require_finite(state: State, topology: Topology | None = None) -> None:
    """Raise a `SimulationError` that names replica, atom and time unless energies and forces are finite."""
    # one sum each: cheap at every step, and the sum of finite numbers of physical size is finite
    if isfinite(float(state.total_energy.sum() + state.forces.sum())):
        return
    for what, values in (("force", state.forces), ("position", state.positions), ("velocity", state.velocities)):
        bad = first_not_finite(values)
        if bad is not None:
            replica, atom = bad[:2]
            where = f"the {what} {'on' if what == 'force' else 'of'} {atom_name(topology, atom)}"
            break
    else:
        replica = int((~torch.isfinite(state.total_energy)).nonzero()[0])
        where = "the energy"
    raise SimulationError(
        f"At {state.time:.6g} ps {where} in replica {replica} is not finite. "
        "Use a smaller time step, or start from positions closer to those that the potential was made for."
    )


def record(
    start: State,
    advance: Callable[[State, int], State],
    settings: DynamicsSettings,
    on_report: OnReport | None = None,
    topology: Topology | None = None,
) -> Trajectory:
    """Advance from report to report, and keep what is found there.

    Args:
        start: Frame 0.
        advance: Gives the state a number of steps later; an engine's inner loop.
        settings: What to run.
        on_report: Sees the number of steps done and the state at each frame; what it raises ends the run.
        topology: Names atoms in errors.

    Raises:
        SimulationError: If an energy or a force is not finite, or the kinetic energy beyond any temperature.
    """
    states, done = [start], 0
    require_finite(start, topology)
    limit = kinetic_limit(len(start.masses), max(settings.temperature, float(start.temperature.max())))
    if on_report is not None:
        on_report(0, start)
    while done < settings.n_steps:
        n_steps = min(settings.report_every, settings.n_steps - done)
        states.append(advance(states[-1], n_steps))
        require_finite(states[-1], topology)
        done += n_steps
        if on_report is not None:
            on_report(done, states[-1])
        require_kinetic(states[-1], limit)
    return Trajectory(
        times=torch.tensor([state.time for state in states], dtype=torch.float64),
        positions=torch.stack([state.positions for state in states]),
        velocities=torch.stack([state.velocities for state in states]),
        potential_energy=torch.stack([state.potential_energy for state in states]),
        kinetic_energy=torch.stack([state.kinetic_energy for state in states]),
    )
