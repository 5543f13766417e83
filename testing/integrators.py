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
from .report import Clause, Numbers, Report, check_clauses, raising, require_within, violated

IntegratorFactory = Callable[[float], Integrator]
"""Makes an integrator with a time step in ps; each call from the same seed, if it draws random numbers."""

STIFFNESS = 4000.0
"""Stiffness of the springs, kJ/mol/nm^2: with masses of 1 to 3 amu, periods from 0.1 to 0.17 ps."""

REST_LENGTH = 0.15
"""Rest length of the springs between atoms, nm."""


SOFTNESS = 1000.0
"""Stiffness of the springs in which temperatures are measured, kJ/mol/nm^2: long time steps are accurate."""

SIGMAS = 5.0
"""Standard errors by which a temperature may differ: a right thermostat breaks one of the 20 comparisons in one check
of 100,000; errors are 0.3 to 0.4 %, so that one of 3 % is found in 99.9 % of checks."""

FORGOTTEN = 0.8
"""Share of an excess energy that the thermostat has taken away when temperatures are looked at."""

LONGEST = 10.0
"""Longest time that a thermostat is given, ps."""

N_SNAPSHOTS = 8
"""Spread over the time in which energies forget their start."""


class _Wells(Potential):
    """Every coordinate of every atom in a harmonic well of its own."""

    shape = (3, 3)

    def __init__(self, stiffness: float = STIFFNESS) -> None:
        super().__init__()
        self.stiffness = stiffness

    def energy(self, positions: Float[Tensor, "batch 3 3"]) -> Float[Tensor, "batch"]:
        return positions.square().sum((1, 2)).mul(0.5 * self.stiffness)

    def energy_and_forces(
        self, positions: Float[Tensor, "batch 3 3"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch 3 3"]]:
        return self.energy(positions.detach()), -self.stiffness * positions.detach()


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
        seed: Seed of initial conditions.
    """

    factory: IntegratorFactory
    temperature: float | None
    seed: int

    def start(self, potential: Potential, n_replicas: int, dtype: torch.dtype = torch.float64) -> State:
        """Thermal velocities and, about the potential's minimum, thermal positions."""
        # far from the small seeds of factories: one stream for start and noise would correlate them
        generator = torch.Generator().manual_seed(1_000_003 + self.seed)
        temperature = self.temperature or 300.0
        masses = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
        stiffness = potential.stiffness if isinstance(potential, _Wells) else STIFFNESS
        width = math.sqrt(thermal_energy(temperature) / stiffness)
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
        violated("two integrators made alike have different trajectories; the factory must start from the same seed.")
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
    """In soft harmonic wells, started from equilibrium, energies stay those of the temperature.

    A thermostat of another temperature draws them away, by as much as it lets them forget their start: that share is
    measured on replicas that start too hot and too cold.
    """
    if case.temperature is None:
        return None
    numbers: dict[str, float] = {}
    for timestep, n_replicas in ((0.004, 10_000), (0.002, 6000)):
        found = _bath(case, timestep, n_replicas)
        where = f"time step {1000 * timestep:g} fs"
        for name, (ratio, error) in found.temperatures.items():
            # of a good scheme at this time step; the stiffest motion has omega dt = 0.13
            allowed = SIGMAS * error + (SOFTNESS * timestep**2) / 4
            if not abs(ratio - 1) <= allowed:
                violated(
                    f"in harmonic wells the {name} temperature goes to {ratio * case.temperature:.4g} K, where the "
                    f"thermostat claims {case.temperature:g} K.",
                    where,
                    relative=ratio - 1,
                    standard_error=error,
                    allowed=allowed,
                )
            if "mass" not in name:
                numbers[f"{name} T / T at {1000 * timestep:g} fs"] = ratio
                numbers[f"its error at {1000 * timestep:g} fs"] = error
        for name, (ratio, error) in found.fluctuations.items():
            if not abs(ratio - 1) <= SIGMAS * error + SOFTNESS * timestep**2 / 2:
                violated(
                    f"the {name} energy has the right mean, but its variance is not that of the canonical ensemble.",
                    where,
                    ratio=ratio,
                    standard_error=error,
                )
    return numbers


@dataclass(frozen=True)
class _Bath:
    """Estimates, with their standard errors, in units of what the thermostat claims."""

    temperatures: dict[str, tuple[float, float]]
    fluctuations: dict[str, tuple[float, float]]


def _bath(case: IntegratorCase, timestep: float, n_replicas: int) -> _Bath:
    assert case.temperature is not None
    n_aside = 500
    potential = _Wells(SOFTNESS)
    start = case.start(potential, n_replicas + 2 * n_aside)
    scale = torch.ones(len(start.positions), 1, 1, dtype=start.positions.dtype)
    scale[n_replicas:], scale[n_replicas + n_aside :] = math.sqrt(1.5), math.sqrt(0.5)
    masses = start.masses
    state = State.start(potential, scale * start.positions, scale * start.velocities, masses)
    integrator = case.factory(timestep)
    kT = thermal_energy(case.temperature)

    def energies(state: State) -> Float[Tensor, "replicas 2 atoms"]:
        """Kinetic and potential energy of each atom over those of equipartition."""
        kinetic = masses * state.velocities.square().sum(-1) / (3 * kT)
        return torch.stack([kinetic, SOFTNESS * state.positions.square().sum(-1) / (3 * kT)], dim=1)

    def apart(state: State) -> float:
        ratios = energies(state)[n_replicas:].mean((1, 2))
        return float(ratios[:n_aside].mean() - ratios[n_aside:].mean())

    before, n_steps, forgotten = apart(state), 0, 0.0
    look = round(0.2 / timestep)
    while forgotten < FORGOTTEN:
        if n_steps * timestep > LONGEST:
            violated(
                f"after {LONGEST:g} ps energies still remember their start; a thermostat is checked with a friction of "
                "some 1/ps or more.",
                f"time step {1000 * timestep:g} fs",
                forgotten=forgotten,
            )
        for _ in range(look):
            state = integrator.step(potential, state)
        n_steps += look
        forgotten = 1 - apart(state) / before
    snapshots = [energies(state)[:n_replicas]]
    for _ in range(N_SNAPSHOTS - 1):
        for _ in range(max(n_steps // N_SNAPSHOTS, 1)):
            state = integrator.step(potential, state)
        snapshots.append(energies(state)[:n_replicas])
    of_replica = torch.stack(snapshots).mean(0)
    temperatures = {}
    for i, kind in enumerate(("kinetic", "configurational")):
        chosen = {kind: of_replica[:, i].mean(1)}
        chosen |= {f"{kind} (mass {m:g} amu)": of_replica[:, i, j] for j, m in enumerate(masses.tolist())}
        for name, values in chosen.items():
            # what was forgotten is what the thermostat had a say in
            ratio = 1 + (float(values.mean()) - 1) / forgotten
            temperatures[name] = (ratio, float(values.std()) / math.sqrt(n_replicas) / forgotten)
    last = snapshots[-1].mean(2)
    n_freedoms = 3 * len(masses)
    # the variance of a chi-squared variable over its square is 2 / n, its excess kurtosis 12 / n
    error = math.sqrt((2 + 12 / n_freedoms) / n_replicas) / forgotten
    variances = [float(last[:, i].var()) * n_freedoms / 2 for i in range(2)]
    fluctuations = {
        kind: (1 + (variance - 1) / forgotten, error)
        for kind, variance in zip(("kinetic", "potential"), variances, strict=True)
    }
    return _Bath(temperatures, fluctuations)


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
    Clause(
        "kept",
        "shapes and dtypes stay, the old state is left alone, time advances",
        check_kept,
        "Reporters and restarts keep states of earlier steps. Make new tensors instead of changing old ones, and add "
        "the time step to the time.",
    ),
    Clause(
        "current",
        "energy and forces belong to the positions",
        check_current,
        "Reported energies, and the next step's kick, would be those of other positions. Compute energy and forces at "
        "the end of the step, from the new positions.",
    ),
    Clause(
        "determinism",
        "the same seed gives the same trajectory",
        check_determinism,
        "No run could be repeated. Draw all random numbers from the generator that the constructor is given.",
    ),
    Clause(
        "restart",
        "restarted from its saved state it goes on identically",
        check_restart,
        "A run that goes on from its checkpoint would be another run. Return from state_dict() all that a step leaves "
        "in self, and take it in again in load_state_dict().",
    ),
    Clause(
        "accuracy",
        "harmonic motion is followed, to second order without a thermostat",
        check_accuracy,
        "Trajectories are not those of the equations of motion. Look at the order of kicks and drifts, at factors of "
        "one half, and at the masses.",
    ),
    Clause(
        "conservation",
        "without a thermostat energy and momentum are conserved",
        check_conservation,
        "A run at constant energy drifts, or the molecule moves away by itself. Use a symplectic, reversible scheme, "
        "and forces at the same time as positions.",
    ),
    Clause(
        "temperature",
        "with a thermostat energies are those of its temperature",
        check_temperature,
        "All averages of a simulation would be those of another temperature or ensemble. Look at the noise, sqrt((1 - "
        "exp(-2 friction dt)) kT / m), at the unit of kT (kJ/mol), and at the masses; rescaled velocities are no "
        "canonical ensemble.",
    ),
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
        seed: Seed of initial conditions.

    Raises:
        ConfigurationError: If there is no clause of that name.
    """
    made_from = factory.func if isinstance(factory, partial) else factory
    case = IntegratorCase(factory, temperature, seed)
    return check_clauses(f"Integrator {getattr(made_from, '__name__', made_from)}", _CLAUSES, {"": case}, clauses)


check_integrator = raising(examine_integrator)
