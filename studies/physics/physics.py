"""Physical tests of a potential, which molecular dynamics would otherwise make."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.engine import check_start
from ...core.errors import ConfigurationError, SmoothflowError
from ...core.integrator import State
from ...core.potential import Potential
from ...runs.progress import OnProgress, silent
from ...runs.stopping import Terminated
from .dynamics import equilibrated, examine_conservation, examine_order, examine_thermostat
from .forces import examine_continuity, examine_forces, examine_hessian, examine_net_force
from .minima import examine_minima
from .report import Finding, PhysicsReport, single
from .scans import bond_scans, torsion_scans
from .settings import PHYSICS_TESTS, PhysicsSettings

PERTURBATION = 0.005
"""Standard deviation of the displacements of perturbed positions, nm: that of hydrogen in thermal motion."""

POINTS_OF_SCAN = 1300
"""Configurations at which a scan looks for jumps and kinks: two grids and ten rounds of cutting cells."""


MINIMIZATIONS = 2 * 500 * 1500
"""Largest number of energies in a search for minima: those of some 1500 starts."""


class ExaminationStopped(Exception):
    """Raised when Ctrl-C or SIGTERM stops an examination.

    Attributes:
        report: Findings up to then.
        signal: The exception that the signal raised.
    """

    def __init__(self, report: PhysicsReport, signal: KeyboardInterrupt | Terminated) -> None:
        super().__init__(f"stopped before: {', '.join(report.unfinished)}")
        self.report = report
        self.signal = signal


def examine_physics(
    potential: Potential,
    positions: Float[Tensor, "n atoms 3"],
    masses: Float[Tensor, "atoms"],
    settings: PhysicsSettings | None = None,
    tests: Sequence[str] = PHYSICS_TESTS,
    on_progress: OnProgress = silent,
    reference: Potential | None = None,
) -> PhysicsReport:
    """Examine a potential by the physics that it must obey, and report every number that was measured.

    - forces: they are minus the gradient of the energy, by finite differences;
    - net force: the net force and the net torque vanish;
    - hessian: the force's Jacobian is symmetric;
    - continuity: along scans of bonds and torsions neither the forces nor their gradient jump, where there are bonds;
    - minima: no minimum away from the start is deeper than those at the start, or much deeper than in the reference,
      where there are bonds;
    - conservation: fluctuation and drift of the total energy in NVE runs;
    - order: the fluctuation grows with the square of the time step;
    - thermostat: in a long NVT run temperatures are the thermostat's, on all elements alike, no bond breaks, and no
      tetrahedral centre is inverted.

    Forces and Hessians are examined at the positions and at perturbed ones, since at a minimum forces vanish. A
    simulation that explodes, or a potential that refuses a configuration, is a failed test, not an error; a test that
    says nothing about such a potential is left out, with the reason.

    Args:
        potential: Any potential, in float64.
        positions: Ordinary configurations to start from, nm.
        masses: amu.
        settings: Lengths of runs; by default those of the literature.
        tests: Which of `PHYSICS_TESTS` to run.
        on_progress: Told of the progress of each test.
        reference: The potential that this one models, for the energies of minima.

    Raises:
        ConfigurationError: If there is no test of a name, or positions and masses are not those of the potential.
        ExaminationStopped: After Ctrl-C or SIGTERM; holds the findings up to then.
    """
    settings = PhysicsSettings() if settings is None else settings
    require_tests(tests)
    check_start(potential, masses, positions, torch.zeros_like(positions))
    frames = perturbed(positions, settings)

    states: list[State] = []

    def start() -> State:
        # all dynamics begin in the same states
        if not states:
            states.append(equilibrated(potential, positions, masses, settings, on_progress))
        return states[0]

    topology = potential.topology
    runs: dict[str, Callable[[], list[Finding]]] = {
        "forces": lambda: examine_forces(potential, frames, on_progress),
        "net force": lambda: examine_net_force(potential, frames, on_progress),
        "hessian": lambda: examine_hessian(potential, frames, on_progress),
        "conservation": lambda: examine_conservation(potential, start(), settings, on_progress),
        "order": lambda: examine_order(potential, start(), settings, on_progress),
        "thermostat": lambda: examine_thermostat(potential, start(), settings, on_progress),
    }
    if topology is not None:
        scanned = topology
        runs["continuity"] = lambda: examine_continuity(
            potential, positions[0], scanned, settings.temperature, on_progress
        )
        runs["minima"] = lambda: examine_minima(
            potential, positions, scanned, settings.temperature, settings.seed, reference, on_progress
        )
    chosen = [name for name in PHYSICS_TESTS if name in tests]
    left_out = {name: reason for name in chosen if (reason := why_left_out(name, potential, positions[0]))}
    findings: list[Finding] = []
    done: list[str] = []

    def report() -> PhysicsReport:
        unfinished = tuple(name for name in chosen if name not in done and name not in left_out)
        return PhysicsReport(f"Potential {type(potential).__name__}", tuple(findings), left_out, unfinished)

    for name in chosen:
        if name in left_out:
            continue
        try:
            findings += runs[name]()
        except SmoothflowError as error:
            findings.append(Finding(name, "a number at all", single(math.nan), note=str(error)))
        except (KeyboardInterrupt, Terminated) as signal:
            raise ExaminationStopped(report(), signal) from signal
        done.append(name)
    return report()


def require_tests(tests: Sequence[str]) -> None:
    """Raise a `ConfigurationError` unless all are names in `PHYSICS_TESTS`."""
    for name in tests:
        if name not in PHYSICS_TESTS:
            near = difflib.get_close_matches(name, PHYSICS_TESTS, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise ConfigurationError(f'No physics test is called "{name}".{hint} Known: {", ".join(PHYSICS_TESTS)}.')


def why_left_out(test: str, potential: Potential, frame: Float[Tensor, "atoms 3"]) -> str:
    """Why a test says nothing about a potential; empty if it does."""
    if test in ("continuity", "minima"):
        if potential.topology is None:
            return "the potential has no topology, and so no bonds to scan"
        if not potential.topology.bonds:
            return "the atoms have no bonds to scan"
    topology = potential.topology
    if test == "continuity" and topology and not (bond_scans(frame, topology) or torsion_scans(frame, topology)):
        return "all bonds are in rings, and none can be scanned alone"
    if test in ("conservation", "order") and len(frame) < 3:
        return (
            f"energy conservation is measured per internal degree of freedom, of three atoms or more; here {len(frame)}"
        )
    return ""


def perturbed(positions: Float[Tensor, "n atoms 3"], settings: PhysicsSettings) -> Float[Tensor, "frames atoms 3"]:
    """The first positions, filled up with copies whose atoms are displaced at random."""
    n = settings.n_frames
    given = positions[:n]
    more = positions[torch.arange(max(n - len(given), 1), device=positions.device) % len(positions)]
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(more.shape, generator=generator, dtype=torch.float64).to(positions)
    return torch.cat([given, more + PERTURBATION * noise])


@dataclass(frozen=True)
class Planned:
    """A test that will run, or why it will not.

    Attributes:
        test: Its name.
        seconds: Estimated duration.
        left_out: Why it will not run; empty if it will.
    """

    test: str
    seconds: float
    left_out: str = ""


def plan_physics(
    potential: Potential,
    positions: Float[Tensor, "n atoms 3"],
    settings: PhysicsSettings,
    tests: Sequence[str] = PHYSICS_TESTS,
) -> list[Planned]:
    """Which tests will run, and for about how long, from a few calls of the potential.

    Raises:
        ConfigurationError: If there is no test of a name.
    """
    require_tests(tests)
    batch = positions[torch.arange(settings.n_replicas, device=positions.device) % len(positions)]
    single_call, replicas = (_seconds(potential, x) for x in (positions[:1], batch))
    # in a batch of many, another configuration costs
    marginal = max(replicas - single_call, 0.1 * single_call) / max(settings.n_replicas - 1, 1)
    n_atoms, n_frames = positions.shape[1], min(settings.n_frames, len(positions)) + 1
    n_frames = max(n_frames, settings.n_frames)
    difference = single_call + 12 * n_atoms * marginal
    topology = potential.topology
    n_scans = 0
    if topology is not None and topology.bonds:
        n_scans = len(bond_scans(positions[0], topology)) + len(torsion_scans(positions[0], topology))
    equilibration = settings.equilibration / settings.timestep
    seconds = {
        "forces": n_frames * difference,
        "net force": n_frames * single_call,
        "hessian": n_frames * difference,
        "continuity": n_scans * (12 * single_call + POINTS_OF_SCAN * marginal),
        "minima": MINIMIZATIONS * marginal,
        "conservation": settings.production / settings.timestep * replicas,
        "order": sum(settings.scaling_duration / timestep for timestep in settings.timesteps) * replicas,
        "thermostat": settings.nvt_steps * replicas,
    }
    planned = []
    for test in (name for name in PHYSICS_TESTS if name in tests):
        reason = why_left_out(test, potential, positions[0])
        duration = 0.0 if reason else seconds[test]
        if not reason and test in ("conservation", "order", "thermostat"):
            # once, before the first of them
            duration, equilibration = duration + equilibration * replicas, 0.0
        planned.append(Planned(test, duration, reason))
    return planned


def _seconds(potential: Potential, positions: Float[Tensor, "n atoms 3"]) -> float:
    """Wall-clock time of a call; the first one may compile or load something."""
    found = math.inf
    for _ in range(3):
        start = time.perf_counter()
        try:
            potential.energy_and_forces(positions)
        except SmoothflowError:
            # the tests themselves will report it
            return 0.0
        found = min(found, time.perf_counter() - start)
    return found
