"""The contract of an integrator, in executable form."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.integrator import Integrator, State, maxwell_boltzmann
from ..core.potential import Potential
from ..core.units import thermal_energy
from .report import Clause, Numbers, Report, check_clauses, require_within, violated

IntegratorFactory = Callable[[float], Integrator]
"""Makes an integrator with a time step in ps; each call from the same seed, if it draws random numbers."""

STIFFNESS = 4000.0
"""Of the springs, kJ/mol/nm^2: with masses of 1 to 3 amu, periods from 0.1 to 0.17 ps."""

REST_LENGTH = 0.15
"""Of the springs between atoms, nm."""


class _Wells(Potential):
    """Every coordinate of every atom in a harmonic well of its own."""

    shape = (3, 3)

    def energy(self, positions: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch"]:
        return positions.square().sum((1, 2)).mul(0.5 * STIFFNESS)


class _Springs(Potential):
    """Three atoms joined by springs: anharmonic, and free to move as a whole."""

    shape = (3, 3)

    def energy(self, positions: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch"]:
        length: Tensor = (positions - positions.roll(1, dims=1)).norm(dim=-1)
        return (length - REST_LENGTH).square().sum(1).mul(0.5 * STIFFNESS)


@dataclass(frozen=True)
class IntegratorCase:
    """An integrator's factory, and what it claims to sample.

    Attributes:
        factory: Makes the integrator with a time step in ps.
        temperature: K, of its thermostat; None if it has none.
        seed: Of initial conditions.
    """

    factory: IntegratorFactory
    temperature: float | None
    seed: int

    def start(self, potential: Potential, n_replicas: int, dtype: torch.dtype = torch.float64) -> State:
        """Thermal velocities and, about the potential's minimum, thermal positions."""
        generator = torch.Generator().manual_seed(self.seed)
        temperature = self.temperature or 300.0
        masses = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
        width = math.sqrt(thermal_energy(temperature) / STIFFNESS)
        positions = width * torch.randn((n_replicas, 3, 3), generator=generator, dtype=dtype)
        if isinstance(potential, _Springs):
            triangle = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, math.sqrt(0.75), 0.0]], dtype=dtype)
            positions = REST_LENGTH * triangle + 0.3 * positions
        velocities = maxwell_boltzmann(masses, n_replicas, temperature, generator)
        return State.start(potential, positions, velocities, masses)

    def run(self, potential: Potential, state: State, timestep: float, n_steps: int) -> list[State]:
        """The states after each step, the start first."""
        integrator = self.factory(timestep)
        states = [state]
        for _ in range(n_steps):
            states.append(integrator.step(potential, states[-1]))
        return states


def check_kept(case: IntegratorCase) -> Numbers:
    integrator = case.factory(0.001)
    if integrator.timestep != 0.001:
        violated(f"an integrator made with a time step of 0.001 ps says that it has {integrator.timestep}.")
    for dtype in (torch.float32, torch.float64):
        start = case.start(_Springs(), 4, dtype)
        kept = copy.deepcopy(start)
        state = case.factory(0.001).step(_Springs(), start)
        for name in ("positions", "velocities", "forces", "potential_energy", "masses"):
            before, after = getattr(start, name), getattr(state, name)
            if not torch.equal(before, getattr(kept, name)):
                violated(f"a step changes the {name} of the state that it starts from.")
            if (before.shape, before.dtype) != (after.shape, after.dtype):
                violated(
                    f"{name} were {before.dtype} {tuple(before.shape)}, and are {after.dtype} {tuple(after.shape)}."
                )
            if after.requires_grad:
                violated(f"{name} drag a graph along.")
        if abs(state.time - start.time - 0.001) > 1e-12:
            violated("a step must advance the time by the time step.", time=state.time)
    return {}


def check_current(case: IntegratorCase) -> Numbers:
    potential = _Springs()
    state = case.run(potential, case.start(potential, 4), 0.001, 3)[-1]
    energy, forces = potential.energy_and_forces(state.positions)
    message = "the energy of a state is not that of its positions."
    require_within((state.potential_energy - energy).abs(), 1e-9, message)
    message = "the forces of a state are not those at its positions."
    return {"largest error": require_within((state.forces - forces).abs(), 1e-6, message)}


def check_determinism(case: IntegratorCase) -> Numbers:
    potential = _Springs()
    start = case.start(potential, 4)
    first, second = (case.run(potential, start, 0.001, 20)[-1] for _ in range(2))
    if not torch.equal(first.positions, second.positions):
        violated("two integrators made alike give different trajectories; the factory must start from the same seed.")
    if case.temperature is None:
        alone = case.run(potential, _replica(start, 2), 0.001, 20)[-1]
        message = "a replica's trajectory depends on the others."
        # rounding of 20 steps
        require_within((alone.positions - first.positions[2:3]).abs(), 1e-12, message)
    return {}


def _replica(state: State, i: int) -> State:
    part = slice(i, i + 1)
    return State(
        state.positions[part],
        state.velocities[part],
        state.forces[part],
        state.potential_energy[part],
        state.masses,
        state.time,
    )


def check_accuracy(case: IntegratorCase) -> Numbers:
    """In a well, x(t) = x cos wt + v/w sin wt; with a thermostat only over one short step."""
    potential = _Wells()
    start = case.start(potential, 4)
    omega = (STIFFNESS / start.masses).sqrt()[:, None]
    errors = []
    for timestep in (0.002, 0.001):
        n_steps = 1 if case.temperature is not None else round(0.2 / timestep)
        state = case.run(potential, start, timestep, n_steps)[-1]
        phase = omega * n_steps * timestep
        expected = start.positions * phase.cos() + start.velocities / omega * phase.sin()
        errors.append(float((state.positions - expected).abs().max() / start.positions.abs().max()))
    if case.temperature is not None:
        # a thermostat adds sqrt(2 friction kT/m) dt^1.5, some tenths of a thermal step at ordinary frictions
        require_within(torch.tensor([errors[1]]), 0.5, "after one step the positions are not those of the motion.")
        return {"relative error of a step": errors[1]}
    order = math.log2(errors[0] / max(errors[1], 1e-300))
    message = "in a harmonic well the error against the closed form does not fall as the time step squared."
    if order < 1.8 or errors[1] > 0.2:
        violated(message, order=order, error=errors[1])
    return {"order": order, "error at 1 fs": errors[1]}


def check_conservation(case: IntegratorCase) -> Numbers | None:
    if case.temperature is not None:
        return None
    potential = _Springs()
    start = case.start(potential, 8)
    momentum = (start.masses[:, None] * start.velocities).sum(1)
    fluctuations = []
    for timestep in (0.002, 0.001, 0.0005):
        states = case.run(potential, start, timestep, round(1.0 / timestep))
        total = torch.stack([state.total_energy for state in states])
        fluctuations.append(float(total.std(0).mean()))
        drift = (states[-1].masses[:, None] * states[-1].velocities).sum(1) - momentum
        require_within(drift.abs(), 1e-9 * (1 + momentum.abs().max()), "the total momentum is not conserved.")
    order = math.log2(fluctuations[0] / max(fluctuations[2], 1e-300)) / 2
    if order < 1.8:
        message = "fluctuations of the total energy do not fall as the time step squared."
        violated(message, order=order, at_2_fs=fluctuations[0], at_half_fs=fluctuations[2])
    return {"order": order, "fluctuation at 1 fs": fluctuations[1]}


def check_temperature(case: IntegratorCase) -> Numbers | None:
    """In harmonic wells, started from equilibrium, variances stay those of Boltzmann's distribution."""
    if case.temperature is None:
        return None
    potential = _Wells()
    n_replicas, n_snapshots = 1000, 8
    start = case.start(potential, n_replicas)
    states = case.run(potential, start, 0.001, 800)[400 :: 400 // n_snapshots]
    kT = thermal_energy(case.temperature)
    potential_ratio = torch.stack([STIFFNESS * state.positions.square() for state in states]).mean() / kT
    kinetic_ratio = torch.stack([2 * state.kinetic_energy for state in states]).mean() / (9 * kT)
    # the snapshots are correlated: as good as 9,000 independent squares, 9 of each replica, whose mean scatters by
    # sqrt(2 / 9,000) = 1.5 %; five times that, and the (omega dt)^2 / 4 = 0.1 % of a good scheme is inside
    error = torch.stack([potential_ratio - 1, kinetic_ratio - 1]).abs()
    if float(error.max()) > 0.075:
        violated(
            "energies in harmonic wells are not kT/2 per degree of freedom.",
            potential=float(potential_ratio),
            kinetic=float(kinetic_ratio),
        )
    return {"potential": float(potential_ratio), "kinetic": float(kinetic_ratio)}


def check_restart(case: IntegratorCase) -> Numbers:
    potential = _Springs()
    integrator = case.factory(0.001)
    state = case.start(potential, 4)
    for _ in range(5):
        state = integrator.step(potential, state)
    saved = {name: value.clone() for name, value in integrator.state_dict().items()}
    restarted = case.factory(0.001)
    restarted.load_state_dict(saved)
    other = state
    for _ in range(5):
        state, other = integrator.step(potential, state), restarted.step(potential, other)
    if not (torch.equal(state.positions, other.positions) and torch.equal(state.velocities, other.velocities)):
        violated(
            "restarted from its saved state it goes on differently; state_dict() must hold all that the next step "
            "depends on beside the State, and load_state_dict() must take it in.",
            difference=float((state.positions - other.positions).abs().max()),
        )
    return {}


_CLAUSES: tuple[Clause[IntegratorCase], ...] = (
    Clause("kept", "shapes and dtypes stay, the old state is left alone, time advances", check_kept),
    Clause("current", "energy and forces belong to the positions", check_current),
    Clause("determinism", "the same seed gives the same trajectory", check_determinism),
    Clause("restart", "restarted from its saved state it goes on identically", check_restart),
    Clause("accuracy", "harmonic motion is followed, to second order without a thermostat", check_accuracy),
    Clause("conservation", "without a thermostat energy and momentum are conserved", check_conservation),
    Clause("temperature", "with a thermostat energies are those of its temperature", check_temperature),
)

INTEGRATOR_CLAUSES: tuple[str, ...] = tuple(clause.name for clause in _CLAUSES)
"""Names of the clauses of an integrator's contract, in the order in which they are checked."""


def examine_integrator(
    factory: IntegratorFactory,
    temperature: float | None = None,
    clauses: Sequence[str] | None = None,
    seed: int = 0,
) -> Report:
    """Check an integrator against its contract, and report what held and what did not.

    Args:
        factory: Makes the integrator with a time step in ps, each time from the same random seed.
        temperature: K, of its thermostat, with a friction of some 1/ps; None if it has none.
        clauses: Which of `INTEGRATOR_CLAUSES`; by default, all.
        seed: Of initial conditions.

    Raises:
        ConfigurationError: If there is no clause of that name.
    """
    made_from = factory.func if isinstance(factory, partial) else factory
    case = IntegratorCase(factory, temperature, seed)
    return check_clauses(f"Integrator {getattr(made_from, '__name__', made_from)}", _CLAUSES, {"": case}, clauses)


def check_integrator(
    factory: IntegratorFactory,
    temperature: float | None = None,
    clauses: Sequence[str] | None = None,
    seed: int = 0,
) -> Report:
    """As `examine_integrator`, but raise at the first broken clause.

    Raises:
        ConformanceError: If a clause is broken; it names the clause, the input and the numbers.
    """
    return examine_integrator(factory, temperature, clauses, seed).raise_first()
