"""Does a potential behave like one: the tests that molecular dynamics would otherwise make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import check_start
from ..core.errors import ConfigurationError, SmoothflowError
from ..core.integrator import State
from ..core.potential import Potential
from ..training.progress import OnProgress, Progress, silent
from .minima import examine_minima
from .physics_dynamics import equilibrated, examine_conservation, examine_order, examine_thermostat
from .physics_forces import examine_continuity, examine_forces, examine_hessian, examine_net_force
from .physics_report import Count, Finding, PhysicsReport, single
from .physics_settings import PHYSICS_TESTS, PhysicsSettings


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
    - net force: it and the net torque vanish;
    - hessian: the force's Jacobian is symmetric;
    - continuity: along scans of bonds and torsions neither the forces nor their gradient jump, where there is a
      topology;
    - minima: no minimum away from the start is deeper than those at it, nor far deeper than in the reference, where
      there is a topology;
    - conservation: fluctuation and drift of the total energy in NVE runs;
    - order: the fluctuation grows with the square of the time step;
    - thermostat: in a long NVT run temperatures are the thermostat's, on all elements alike, no bond breaks, and no
      tetrahedral centre is inverted.

    A simulation that explodes, or a potential that refuses a configuration, is a failed test, not an error.

    Args:
        potential: Any potential, in float64.
        positions: Ordinary configurations to start from, nm.
        masses: amu.
        settings: Lengths of runs; by default those of the literature.
        tests: Which of `PHYSICS_TESTS` to run.
        on_progress: Called now and then.
        reference: What the potential is a model of, for the energies of minima.

    Raises:
        ConfigurationError: If there is no test of a name, or positions and masses are not those of the potential.
    """
    settings = PhysicsSettings() if settings is None else settings
    for name in tests:
        if name not in PHYSICS_TESTS:
            raise ConfigurationError(f'No physics test is called "{name}". Known: {", ".join(PHYSICS_TESTS)}.')
    check_start(potential, masses, positions, torch.zeros_like(positions))
    frames = positions[: settings.n_frames]
    topology = potential.topology

    def continuity(count: Count) -> list[Finding]:
        if topology is None:
            return []
        return examine_continuity(potential, frames[0], topology, settings.temperature, count)

    def minima(count: Count) -> list[Finding]:
        if topology is None:
            return []
        return examine_minima(potential, positions, topology, settings.temperature, settings.seed, reference, count)

    states: list[State] = []

    def start() -> State:
        # all dynamics begin at the same states
        if not states:
            count = _teller("equilibration", on_progress)
            states.append(equilibrated(potential, positions, masses, settings, count))
        return states[0]

    runs: dict[str, Callable[[Count], list[Finding]]] = {
        "forces": lambda count: examine_forces(potential, frames, count),
        "net force": lambda count: examine_net_force(potential, frames, count),
        "hessian": lambda count: examine_hessian(potential, frames, count),
        "continuity": continuity,
        "minima": minima,
        "conservation": lambda count: examine_conservation(potential, start(), settings, count),
        "order": lambda count: examine_order(potential, start(), settings, count),
        "thermostat": lambda count: examine_thermostat(potential, start(), settings, count),
    }
    findings: list[Finding] = []
    for name in (name for name in PHYSICS_TESTS if name in tests):
        try:
            findings += runs[name](_teller(name, on_progress))
        except SmoothflowError as error:
            findings.append(Finding(name, "a number at all", single(math.nan), note=str(error)))
    return PhysicsReport(f"Potential {type(potential).__name__}", tuple(findings))


def _teller(stage: str, on_progress: OnProgress) -> Count:
    return lambda done, total: on_progress(Progress(stage, done, total))
