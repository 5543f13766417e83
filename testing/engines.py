"""The contract of an engine, in executable form."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import DynamicsSettings, Engine, Trajectory
from ..core.errors import SimulationError, SmoothflowError
from ..core.integrator import State, maxwell_boltzmann
from ..core.potential import Potential
from ..core.topology import Atom, Topology
from ..core.units import thermal_energy
from .report import Clause, LeftOut, Numbers, Report, check_clauses, raising, require_within, violated

EngineFactory = Callable[[], Engine]
"""Makes an engine: its class, or a `functools.partial` of it with options."""

STIFFNESS = 1e4
"""Stiffness of all springs, kJ/mol/nm^2."""

SIGMAS = 5.0
"""Standard errors by which the temperature may differ."""

N_ATOMS = 4


def chain(elements: str) -> Topology:
    """Atoms in a row, each bonded to the next."""
    atoms = tuple(Atom(e, f"{e}{i + 1}", "MOL", 0) for i, e in enumerate(elements))
    return Topology(atoms, tuple((i, i + 1) for i in range(len(elements) - 1)))


class _Springs(Potential):
    """Four atoms, each pair joined by a spring: anharmonic."""

    shape = (N_ATOMS, 3)
    topology = chain("CNOH")

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        first, second = torch.triu_indices(N_ATOMS, N_ATOMS, 1)
        lengths: Tensor = (positions[:, first] - positions[:, second]).norm(dim=-1)
        return 0.5 * STIFFNESS * (lengths - 0.15).square().sum(1)


class _Breaking(_Springs):
    """Its energy is not a number where an atom is beyond 1 nm."""

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        outside = (positions.abs() > 1).any(2).any(1)
        return torch.where(outside, math.nan, 1.0) * super().energy(positions)


class _Refusing(_Springs):
    """Refuses such configurations instead."""

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        if bool((positions.abs() > 1).any()):
            raise SimulationError("An atom is beyond 1 nm.")
        return super().energy(positions)


class _Wells(Potential):
    """Every atom of a long chain in a harmonic well of its own, in a row."""

    def __init__(self, n_atoms: int) -> None:
        super().__init__()
        self.shape = (n_atoms, 3)
        self.topology = chain("C" * n_atoms)
        self.centres = torch.zeros((n_atoms, 3), dtype=torch.float64)
        self.centres[:, 0] = 0.15 * torch.arange(n_atoms)

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return 0.5 * STIFFNESS * (positions - self.centres).square().sum((1, 2))


@dataclass(frozen=True)
class EngineCase:
    """An engine's factory, and where its runs start.

    Attributes:
        factory: Makes the engine.
        tolerance: Tolerance of positions, nm, after 100 steps; for forces and velocities it is in units of 1/fs.
        seed: Seed of initial conditions.
    """

    factory: EngineFactory
    tolerance: float
    seed: int

    @property
    def masses(self) -> Float[Tensor, "atoms"]:
        """amu."""
        return torch.tensor([12.0, 14.0, 16.0, 1.0], dtype=torch.float64)

    def start(self, n_replicas: int = 3) -> tuple[Float[Tensor, "replicas atoms 3"], Float[Tensor, "replicas atoms 3"]]:
        """Positions and thermal velocities."""
        generator = torch.Generator().manual_seed(self.seed)
        corners = torch.tensor([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.float64) * 0.15 / math.sqrt(2)
        noise = torch.randn((n_replicas, N_ATOMS, 3), generator=generator, dtype=torch.float64)
        velocities = maxwell_boltzmann(self.masses, n_replicas, 300.0, generator)
        return corners + 0.003 * noise, velocities

    def run(self, settings: DynamicsSettings, n_replicas: int = 3) -> Trajectory:
        """A run of the springs."""
        positions, velocities = self.start(n_replicas)
        return self.factory().run(_Springs(), self.masses, positions, velocities, settings)


def check_declaration(case: EngineCase) -> Numbers:
    engine = case.factory()
    if not isinstance(engine, Engine):
        violated(f"the factory made {type(engine).__name__}, not an Engine.")
    for what in ("name", "thermostat"):
        value = getattr(engine, what, None)
        if not isinstance(value, str) or not value:
            violated(f"{what} must be a non-empty string; it is {value!r}.")
    if type(engine).begin is Engine.begin and type(engine).run is Engine.run:
        violated("it has neither begin nor a run of its own.")
    return {}


def check_frames(case: EngineCase) -> Numbers:
    positions, velocities = case.start()
    kept = positions.clone(), velocities.clone()
    seen: dict[int, State] = {}
    settings = DynamicsSettings(25, report_every=10)
    found = case.factory().run(_Springs(), case.masses, positions, velocities, settings, seen.__setitem__)
    if not (torch.equal(kept[0], positions) and torch.equal(kept[1], velocities)):
        violated("a run changes the positions or velocities that it starts from.")
    if list(seen) != [0, 10, 20, 25]:
        violated(f"on_report must see the steps 0, 10, 20 and 25 of 25 steps, one of 10; it saw {list(seen)}.")
    shapes = {name: tuple(getattr(found, name).shape) for name in ("positions", "velocities")}
    shapes |= {name: tuple(getattr(found, name).shape) for name in ("potential_energy", "kinetic_energy", "times")}
    expected = dict.fromkeys(("positions", "velocities"), (4, *positions.shape))
    expected |= {"potential_energy": (4, 3), "kinetic_energy": (4, 3), "times": (4,)}
    if shapes != expected:
        violated(f"four frames of three replicas must have the shapes {expected}; they have {shapes}.")
    times = torch.tensor([0.0, 0.01, 0.02, 0.025], dtype=torch.float64)
    require_within((found.times.double() - times).abs(), 1e-9, "the times are not those of the frames.")
    message = "frame 0 is not the start."
    require_within((found.positions[0].double() - positions).abs(), case.tolerance, message)
    require_within((found.velocities[0].double() - velocities).abs(), 1000 * case.tolerance, message)
    for i, (step, state) in enumerate(seen.items()):
        if not torch.equal(state.positions, found.positions[i]):
            violated(f"what on_report sees at step {step} is not the frame that is recorded.")
    nothing = case.run(DynamicsSettings(0))
    if len(nothing.times) != 1:
        violated(f"a run of no steps must record its start alone; it has {len(nothing.times)} frames.")
    return {}


def check_energies(case: EngineCase) -> Numbers:
    found = case.run(DynamicsSettings(25, report_every=10))
    largest = 0.0
    for i in range(len(found.times)):
        energy = _Springs().energy_and_forces(found.positions[i].double())[0]
        kinetic = 0.5 * (case.masses[:, None] * found.velocities[i].double().square()).sum((1, 2))
        for name, value, expected in (
            ("potential", found.potential_energy[i], energy),
            ("kinetic", found.kinetic_energy[i], kinetic),
        ):
            # a force of some 1,000 kJ/mol/nm, or a momentum of that size, over the tolerance
            error = (value.double() - expected).abs() / (1 + expected.abs())
            message = f"the {name} energy of frame {i} is not that of its positions and velocities."
            largest = max(largest, require_within(error, 1e-9 + 1e4 * case.tolerance, message))
    return {"largest relative error": largest}


def check_trajectory(case: EngineCase) -> Numbers:
    """Against velocity Verlet, written out."""
    settings = DynamicsSettings(100, report_every=20)
    found = case.run(settings)
    x, v = case.start()
    masses, dt = case.masses[:, None], settings.timestep
    _, forces = _Springs().energy_and_forces(x)
    numbers = {"positions, nm": 0.0, "velocities, nm/ps": 0.0}
    for step in range(1, settings.n_steps + 1):
        v = v + 0.5 * dt / masses * forces
        x = x + dt * v
        _, forces = _Springs().energy_and_forces(x)
        v = v + 0.5 * dt / masses * forces
        if step % settings.report_every:
            continue
        frame = step // settings.report_every
        for name, value, expected, limit in (
            ("positions, nm", found.positions[frame], x, case.tolerance),
            ("velocities, nm/ps", found.velocities[frame], v, 1000 * case.tolerance),
        ):
            message = f"after {step} steps of 1 fs at constant energy the {name} are not those of velocity Verlet."
            numbers[name] = max(numbers[name], require_within((value.double() - expected).abs(), limit, message))
    return numbers


def check_replicas(case: EngineCase) -> Numbers:
    settings = DynamicsSettings(50, report_every=25)
    positions, velocities = case.start()
    together = case.factory().run(_Springs(), case.masses, positions, velocities, settings)
    alone = case.factory().run(_Springs(), case.masses, positions[1:2], velocities[1:2], settings)
    error = (together.positions[:, 1:2].double() - alone.positions.double()).abs()
    return {"largest difference, nm": require_within(error, case.tolerance, "a replica moves otherwise when alone.")}


def _require_nvt(case: EngineCase) -> None:
    if "nvt" not in case.factory().ensembles:
        raise LeftOut("the engine does not run nvt, as its ensembles say")
    try:
        case.run(DynamicsSettings(1, ensemble="nvt"))
    except SmoothflowError as error:
        raise LeftOut(f"the engine does not run nvt: {error}") from error


def check_seed(case: EngineCase) -> Numbers:
    _require_nvt(case)
    settings = DynamicsSettings(20, ensemble="nvt", seed=1)
    one, again = case.run(settings), case.run(settings)
    if not torch.equal(one.positions, again.positions):
        violated("two runs with one seed are two trajectories.")
    if torch.equal(one.positions, case.run(replace(settings, seed=2)).positions):
        violated("runs with two seeds are one trajectory.")
    positions, velocities = (value[:1].repeat(2, 1, 1) for value in case.start())
    twins = case.factory().run(_Springs(), case.masses, positions, velocities, settings)
    if torch.equal(twins.positions[-1, 0], twins.positions[-1, 1]):
        violated("two replicas with one start and one seed feel the same noise.")
    return {}


def check_temperature(case: EngineCase) -> Numbers:
    _require_nvt(case)
    # errors of 0.3 %: a temperature that is 3 % off is found in 99.9 % of checks
    n_atoms = 1600
    potential = _Wells(n_atoms)
    masses = torch.full((n_atoms,), 4.0, dtype=torch.float64)
    # omega dt = 0.1 at 2 fs; energies are forgotten in 1 / 20 ps
    settings = DynamicsSettings(1600, timestep=0.002, ensemble="nvt", temperature=300.0, friction=20.0, report_every=25)
    start = potential.centres[None]
    found = case.factory().run(potential, masses, start, 0 * start, settings)
    kT = thermal_energy(settings.temperature)
    numbers: dict[str, float] = {}
    for name, energy in (
        # the first tenth is the way from rest
        ("kinetic", 4.0 * found.velocities[7:].double().square() / kT),
        ("configurational", STIFFNESS * (found.positions[7:].double() - potential.centres).square() / kT),
    ):
        of_atom = energy.mean((0, 1, 3))
        ratio, error = float(of_atom.mean()), float(of_atom.std()) / math.sqrt(len(of_atom))
        if not abs(ratio - 1) <= SIGMAS * error + 0.0025:
            violated(
                f"in harmonic wells the {name} temperature is {300 * ratio:.4g} K, where 300 K were asked for.",
                relative=ratio - 1,
                standard_error=error,
            )
        numbers |= {f"{name} T / T": ratio, f"error of {name}": error}
    return numbers


def check_failure(case: EngineCase) -> Numbers:
    positions, velocities = case.start()
    # replica 1 flies beyond 1 nm within a few steps
    velocities[1, :, 0] += 200.0
    for what, potential in {
        "energies that are not finite": _Breaking(),
        "a potential that refuses": _Refusing(),
    }.items():
        try:
            case.factory().run(potential, case.masses, positions, velocities, DynamicsSettings(100))
        except SimulationError as error:
            time = re.search(r"(\d[\d.e+-]*) ps", str(error))
            if time is None:
                violated(f"the error after {what} must say at which time, in ps: {error}")
            if not float(time[1]) > 0:
                violated(
                    f"the error after {what} must say at which time; at 0 ps, as it says, all was well yet: {error}"
                )
            continue
        except SmoothflowError as error:
            violated(f"{what} must end a run with a SimulationError; it ended with {type(error).__name__}: {error}")
        except Exception as error:
            violated(f"{what} must end a run with a SimulationError; it raised {type(error).__name__}: {error}")
        violated(f"a run goes on after {what}.")
    return {}


def check_refusal(case: EngineCase) -> Numbers:
    positions, velocities = case.start()
    masses = case.masses
    nan = positions.clone()
    nan[0, 0, 0] = math.nan
    wrong = {
        "positions of another number of atoms": (masses[:3], positions[:, :3], velocities[:, :3]),
        "velocities of another shape": (masses, positions, velocities[:1]),
        "a mass of zero": (masses * torch.tensor([1, 1, 1, 0]), positions, velocities),
        "a position that is not finite": (masses, nan, velocities),
    }
    for what, (m, x, v) in wrong.items():
        try:
            case.factory().run(_Springs(), m, x, v, DynamicsSettings(1))
        except SmoothflowError:
            continue
        except Exception as error:
            violated(f"{what} must be refused with a SmoothflowError; it raised {type(error).__name__}: {error}")
        violated(f"{what} must be refused with a SmoothflowError.")
    return {}


class _Stop(Exception):
    """Raised by an observer."""


def check_observer(case: EngineCase) -> Numbers:
    positions, velocities = case.start()
    seen = []

    def stop(step: int, state: State) -> None:
        seen.append(step)
        if step >= 20:
            raise _Stop

    try:
        case.factory().run(_Springs(), case.masses, positions, velocities, DynamicsSettings(200), stop)
    except _Stop:
        if seen != [0, 10, 20]:
            violated(f"an observer that raises at step 20 must see 0, 10 and 20; it saw {seen}.")
    else:
        violated("what on_report raises must end the run and reach its caller.")
    return {}


_CLAUSES: tuple[Clause[EngineCase], ...] = (
    Clause(
        "declaration",
        "name and thermostat are declared, and there is a begin",
        check_declaration,
        "The command line asks for an engine by name, and frames keep the thermostat's. Set both as class attributes, "
        "and give begin, or replicas if the engine is another program (CONTRIBUTING.md has one worked out).",
    ),
    Clause(
        "refusal",
        "starts that do not fit the potential are refused",
        check_refusal,
        "Another molecule would run without a word. Give begin and leave run as it is, or call "
        "smoothflow.core.engine.check_start first.",
    ),
    Clause(
        "frames",
        "frame 0 is the start, reports come as asked for, and the last step is recorded",
        check_frames,
        "Trajectories, restarts and averages would be of other times than they say. Look at the units (nm, nm/ps) and "
        "shapes that are read back; give begin and leave run as it is, or let smoothflow.core.engine.record call what "
        "advances the run.",
    ),
    Clause(
        "energies",
        "energies are those of the frame's positions and velocities",
        check_energies,
        "Energy conservation could not be judged. Leapfrog programs keep velocities half a step off: add half a kick.",
    ),
    Clause(
        "trajectory",
        "nve is velocity Verlet",
        check_trajectory,
        "The engine runs another dynamics than the others. Look at units of mass, time and force at its border, at "
        "single precision, and at the removal of the centre's motion.",
    ),
    Clause(
        "replicas",
        "a replica's run does not depend on the others",
        check_replicas,
        "Independent runs would be correlated. Look for state of the program that one replica leaves to the next.",
    ),
    Clause(
        "seed",
        "one seed gives one nvt trajectory, replicas have noise of their own",
        check_seed,
        "Runs could not be repeated, or replicas would be copies of each other. Hand settings.seed to the program, and "
        "a stream of its own to each replica.",
    ),
    Clause(
        "temperature",
        "nvt keeps the temperature",
        check_temperature,
        "All averages would be those of another temperature. Look at the units of friction and of kT, and at "
        "velocities half a step off.",
    ),
    Clause(
        "failure",
        "what is not finite ends the run with a SimulationError that says when",
        check_failure,
        "A run that failed would go on with made-up numbers. Turn the program's own exceptions into a "
        "SimulationError, and let a replica's step count what advance does; in a run of your own, call "
        "smoothflow.core.engine.require_finite at each report.",
    ),
    Clause(
        "observer",
        "what an observer raises ends the run and reaches the caller",
        check_observer,
        "Runs could not be stopped by Ctrl-C or by a full disk. Let the exceptions of on_report pass.",
    ),
)

ENGINE_CLAUSES: tuple[str, ...] = tuple(clause.name for clause in _CLAUSES)
"""Names of the clauses of an engine's contract, in the order in which they are checked."""


def examine_engine(
    factory: EngineFactory, clauses: Sequence[str] | None = None, tolerance: float = 1e-9, seed: int = 0
) -> Report:
    """Check an engine against its contract, and report what held and what did not.

    Args:
        factory: The engine's class, or a `functools.partial` of it with options.
        clauses: Which of `ENGINE_CLAUSES`; by default, all.
        tolerance: Tolerance of positions after 100 steps, nm; 1e-5 or so for a program in single precision.
        seed: Seed of initial conditions.

    Raises:
        ConfigurationError: If there is no clause of that name.
    """
    made_from = getattr(factory, "func", factory)
    case = EngineCase(factory, tolerance, seed)
    return check_clauses(f'Engine "{getattr(made_from, "name", made_from)}"', _CLAUSES, {"": case}, clauses)


check_engine = raising(examine_engine)
