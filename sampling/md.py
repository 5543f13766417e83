"""One run of molecular dynamics with files, bounds and checkpoints, in any engine.

It stands here because it needs the frames file; `integrators.simulation` knows the way of the steps, and no format.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from ..core.engine import DynamicsSettings
from ..core.errors import ConfigurationError, SimulationError
from ..core.files import require_distinct
from ..core.integrator import State
from ..core.plugins import name_of_today, registry
from ..core.potential import Potential
from ..core.reporter import EnergyRecord, Reporter, reporting
from ..core.topology import Topology
from ..core.units import thermal_energy
from ..integrators.checkpoint import read_checkpoint
from ..integrators.making import ENSEMBLE_INTEGRATORS
from ..integrators.simulation import CHECKPOINT_SECONDS, NativeEngine, Simulation
from ..runs.locks import lock_file
from ..runs.progress import OnProgress, Progress, silent
from ..runs.provenance import require_same_run
from ..runs.stopping import Asked, stop_requests
from .reporters import CSVReporter, FramesReporter, TrajectoryReporter, replica_paths
from .trust import Trust, TrustRecord

WRITTEN = "files"
"""Where a checkpoint says which files the run writes."""

NVE_BOUND = 1.0
"""How far the total energy of an nve run may move, in kT per internal degree of freedom: it should not move at all."""

NVT_BOUND = 10.0
"""How far the potential energy of an nvt run may rise above its start, in kT per internal degree of freedom: half of
one is due when a minimum warms up, and of three degrees of freedom one configuration in 10^12 is 30 kT up."""


@dataclass(frozen=True)
class DynamicsPlan:
    """What to run, and what to keep.

    Attributes:
        settings: Steps, ensemble, thermostat.
        engine: What runs it, by name.
        integrator: Integrator of our own engine, by name; empty for that of the ensemble.
        energy_bound: In kT per internal degree of freedom; None for `NVE_BOUND` or `NVT_BOUND`.
        frames: Frames file (HDF5).
        trajectory: XTC or DCD.
        log: CSV.
        checkpoint_seconds: Wall-clock time after which files and checkpoint are brought up to date.
        stop_above: Percentile of the model's own samples at which the run stops; None for no bound.
    """

    settings: DynamicsSettings
    engine: str = NativeEngine.name
    integrator: str = ""
    energy_bound: float | None = None
    frames: Path | None = None
    trajectory: Path | None = None
    log: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    stop_above: float | None = None

    @property
    def checkpoint(self) -> Path | None:
        """Where our own engine goes on: beside the first file that is kept."""
        first = self.frames or self.trajectory or self.log
        return None if first is None else first.with_name(f"{first.name}.checkpoint")

    def files(self, n_replicas: int) -> list[Path]:
        """All files that are kept."""
        trajectories = [] if self.trajectory is None else replica_paths(self.trajectory, n_replicas)
        return [path for path in (self.frames, *trajectories, self.log) if path is not None]


@dataclass(frozen=True)
class DynamicsReport:
    """The outcome of a run.

    Attributes:
        energies: Energies of all reports, those of an earlier part of the run included.
        steps: Steps done.
        resumed_from: Steps that were done before.
        stopped_by: Number of the signal that ended it before its last step, if one did.
        goes_on: Whether the same run, asked for again, goes on from there.
        trust: What was measured of how far its frames can be trusted, by column; not of an earlier part of the run.
    """

    energies: EnergyRecord
    steps: int
    resumed_from: int
    stopped_by: int | None
    goes_on: bool
    trust: Mapping[str, Float[Tensor, "reports replicas"]] = field(default_factory=dict)


def run_dynamics(
    plan: DynamicsPlan,
    potential: Potential,
    topology: Topology,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "replicas atoms 3"],
    velocities: Float[Tensor, "replicas atoms 3"],
    provenance: Mapping[str, Any] | None = None,
    on_progress: OnProgress = silent,
    trust: Trust | None = None,
) -> DynamicsReport:
    """Run, and write files; in our own engine go on with a run that is in the files, bit for bit.

    Ctrl-C or SIGTERM end the run at its next step (in other engines, at the next report) with all files complete.

    Args:
        plan: What to run; to go on it must be that of the files but for more steps, another bound or other files.
        potential: Any potential.
        topology: Topology of the frames file.
        masses: amu.
        positions: nm.
        velocities: nm/ps.
        provenance: What the run is of, in JSON types; to go on it must be that of the files but for ``versions``.
        on_progress: Told of steps, energy, temperature and speed.
        trust: What is measured of each frame beside.

    Raises:
        ConfigurationError: If files exist that this run cannot go on with, or another process writes them.
        UnknownNameError: If there is no engine of that name.
        FileFormatError: If a file cannot be written, or is damaged.
        SimulationError: If an energy or a percentile leaves its bounds, or an energy is not finite; the message names
            replica and time.
    """
    plan = replace(plan, engine=registry().entry("engine", plan.engine).name)
    settings = plan.settings
    if plan.integrator and plan.engine != NativeEngine.name:
        raise ConfigurationError(
            f'The engine "{plan.engine}" has its own integrators. Leave out "{plan.integrator}", or use the '
            "engine native."
        )
    origin = {**(provenance or {}), **_identity(plan, positions)}
    files = plan.files(len(positions))
    require_distinct(files if plan.checkpoint is None else [*files, plan.checkpoint])
    start = State.start(potential, positions, velocities.to(positions), masses.to(positions))
    energies = EnergyRecord()
    reporters: list[Reporter] = [_Figures(plan, on_progress)]
    if plan.frames is not None:
        reporters.insert(0, FramesReporter(plan.frames, topology, settings.temperature, origin))
    if plan.trajectory is not None:
        reporters.insert(0, TrajectoryReporter(plan.trajectory))
    if plan.log is not None:
        reporters.insert(0, CSVReporter(plan.log, trust))
    reporters.append(EnergyBounds(start, settings, plan.energy_bound))
    if trust is None and plan.stop_above is not None:
        raise ConfigurationError("A bound on percentiles needs the samples of a flow.")
    record = None if trust is None else TrustRecord(trust, plan.stop_above)
    if record is not None:
        reporters.append(record)
    path = plan.checkpoint
    with nullcontext() if path is None else lock_file(path), stop_requests() as asked:
        if plan.engine == NativeEngine.name:
            simulation = _simulation(plan, potential, start, reporters, origin)
            resumed_from = simulation.step
            simulation.run(plan.checkpoint, lambda: asked() is not None, plan.checkpoint_seconds)
            energies, steps = simulation.energies, simulation.step
        else:
            _require_free(plan, len(positions))
            observer = _Observer([energies, *reporters], asked, plan.checkpoint_seconds)
            with reporting(observer.reporters, None, start):
                engine = registry().engine(plan.engine)()
                with suppress(_Stopped):
                    engine.run(potential, masses, positions, velocities, settings, observer)
            resumed_from, steps = 0, observer.step
        stopped_by = asked() if steps < settings.n_steps else None
    goes_on = plan.checkpoint is not None and plan.engine == NativeEngine.name
    measured = {} if record is None else record.measured
    return DynamicsReport(energies, steps, resumed_from, stopped_by, goes_on, measured)


class EnergyBounds(Reporter):
    r"""Stops a run whose energy has left what physics allows.

    .. math:: |E - E_0| \le b\,(3n - 6)\,kT \quad\text{(nve)}, \qquad
              U - U_0 \le b\,(3n - 6)\,kT \quad\text{(nvt)}

    Args:
        start: Whose energies are :math:`E_0` and :math:`U_0`.
        settings: Ensemble and temperature.
        bound: b; None for `NVE_BOUND` or `NVT_BOUND`.
    """

    def __init__(self, start: State, settings: DynamicsSettings, bound: float | None = None) -> None:
        if bound is not None and not bound > 0:
            raise ConfigurationError(f"The bound of the energy must be positive; it is {bound} kT.")
        self.conserved = settings.ensemble == "nve"
        self.bound = bound if bound is not None else NVE_BOUND if self.conserved else NVT_BOUND
        self.allowed = self.bound * max(1, 3 * len(start.masses) - 6) * thermal_energy(settings.temperature)
        self.start = self._energy(start)

    def report(self, step: int, state: State) -> None:
        energy = self._energy(state)
        rise = energy - self.start
        excess = rise.abs() if self.conserved else rise
        replica = int(excess.argmax())
        # a comparison that NaN fails
        if not float(excess[replica]) <= self.allowed:
            raise SimulationError(
                f"At {state.time:.6g} ps the {'total' if self.conserved else 'potential'} energy of replica {replica} "
                f"is {float(energy[replica]):.6g} kJ/mol, {float(rise[replica]):+.3g} from its start: more than "
                f"{self.bound:g} kT per degree of freedom ({self.allowed:.3g} kJ/mol). Use a smaller time step, start "
                "from positions that the potential was made for, or allow more (--energy-bound)."
            )

    def _energy(self, state: State) -> Float[Tensor, "replicas"]:
        return (state.total_energy if self.conserved else state.potential_energy).double().cpu()


class _Figures(Reporter):
    """Reports energy, temperature and speed."""

    def __init__(self, plan: DynamicsPlan, on_progress: OnProgress) -> None:
        self._plan = plan
        self._on_progress = on_progress
        self._began: tuple[float, float] | None = None

    def report(self, step: int, state: State) -> None:
        settings = self._plan.settings
        energy = state.total_energy if settings.ensemble == "nve" else state.potential_energy
        values = {"E (kJ/mol)": float(energy.mean()), "T (K)": float(state.temperature.mean())}
        now = time.monotonic()
        if self._began is None:
            self._began = now, state.time
        elif now > self._began[0]:
            values["ns/day"] = 86.4 * (state.time - self._began[1]) / (now - self._began[0])
        self._on_progress(Progress(f"{settings.ensemble} in {self._plan.engine}", step, settings.n_steps, values))


class _Stopped(Exception):
    """Ends an engine's run from its observer."""


class _Observer:
    """Hands what an engine records to reporters, has it on disk now and then, and ends the run when asked."""

    def __init__(self, reporters: list[Reporter], asked: Asked, seconds: float) -> None:
        self.reporters = reporters
        self._seconds = seconds
        self.step = 0
        self._asked = asked
        self._synced = time.monotonic()

    def __call__(self, step: int, state: State) -> None:
        self.step = step
        for reporter in self.reporters:
            reporter.report(step, state)
        if time.monotonic() - self._synced > self._seconds:
            for reporter in self.reporters:
                reporter.sync()
            self._synced = time.monotonic()
        if self._asked() is not None:
            raise _Stopped


def _identity(plan: DynamicsPlan, positions: Float[Tensor, "replicas atoms 3"]) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    settings = asdict(plan.settings)
    del settings["n_steps"]
    integrator = plan.integrator or ENSEMBLE_INTEGRATORS[plan.settings.ensemble]
    return {
        "engine": plan.engine,
        **({"integrator": integrator} if plan.engine == NativeEngine.name else {}),
        **settings,
        "replicas": len(positions),
        "dtype": str(positions.dtype).removeprefix("torch."),
        "device": str(positions.device),
    }


def _simulation(
    plan: DynamicsPlan, potential: Potential, start: State, reporters: list[Reporter], origin: dict[str, Any]
) -> Simulation:
    """The run that is in the files, or a new one."""
    path, files = plan.checkpoint, plan.files(len(start.positions))
    if path is None or not path.exists():
        _require_free(plan, len(start.positions))
        integrator = plan.integrator or ENSEMBLE_INTEGRATORS[plan.settings.ensemble]
        kept = {**origin, WRITTEN: [file.name for file in files]}
        return Simulation(potential, integrator, start, plan.settings, reporters, kept)
    there = dict(read_checkpoint(path).provenance)
    there["engine"] = name_of_today("engine", there.get("engine", ""))
    require_same_run(f'"{path.name.removesuffix(".checkpoint")}"', there, origin)
    for file in files:
        # to go on with a file is to cut it where the checkpoint was written
        if file.name not in there.get(WRITTEN, [file.name]) and os.path.lexists(file):
            raise ConfigurationError(
                f'"{file}" exists already, and the run in "{path.name.removesuffix(".checkpoint")}" did not write it. '
                "Leave it out, or give another name."
            )
    return Simulation.load(path, potential, reporters, n_steps=plan.settings.n_steps, device=start.positions.device)


def _require_free(plan: DynamicsPlan, n_replicas: int) -> None:
    for path in plan.files(n_replicas):
        if os.path.lexists(path):
            raise ConfigurationError(
                f'"{path}" exists already, and is not a run that can go on. Remove it, or give another name.'
            )
