"""Whether molecular dynamics conserves energy, keeps its temperature and leaves the molecule intact."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...analysis.correlation import mean_of_time_series
from ...analysis.dynamics import energy_conservation, scaling_exponent
from ...analysis.estimates import Estimate, mean_of_independent
from ...core.engine import DynamicsSettings, OnReport, Trajectory, record
from ...core.errors import SimulationError
from ...core.integrator import Integrator, State, maxwell_boltzmann
from ...core.potential import Potential
from ...core.topology import Topology
from ...core.units import BOLTZMANN, FEMTOSECOND, thermal_energy
from ...integrators.langevin import Langevin
from ...integrators.stepping import Stepper
from ...integrators.velocity_verlet import VelocityVerlet
from ...molecules.elements import covalent_lengths
from ...molecules.geometry import handedness
from ...runs.progress import OnProgress, Progress, within
from .report import Finding, single
from .settings import PhysicsSettings

FLUCTUATION = 0.02
"""Largest standard deviation of the total energy per degree of freedom, kT; Amber has 0.0024 at 1 fs."""

DRIFT_TIME = 50.0
"""ps in which a drift may reach the standard deviation of the kinetic energy: a soft limit of the literature."""

ORDER = (1.8, 2.2)
"""Range of the exponent, which is 2 for velocity Verlet; it allows for higher-order terms at 1 fs and the statistics of
short runs. Jumps of the forces lower the exponent (to 1 where they dominate); a time step too long for the stiffest
motion raises it."""

STANDARD_ERRORS = 4.0
"""Number of standard errors by which a temperature may differ from the thermostat's."""

REPORT_STEPS = 50
"""Steps between checks of the molecule in the NVT run."""

NVE_REPORT_STEPS = 5
"""Steps between recorded frames of an NVE run."""

BROKEN = 2.0
"""Length of a broken bond, in units of the sum of the covalent radii."""

LOST_HYDROGEN = 0.25
"""Length of a broken bond to hydrogen, nm."""


def equilibrated(
    potential: Potential,
    positions: Float[Tensor, "n atoms 3"],
    masses: Float[Tensor, "atoms"],
    settings: PhysicsSettings,
    on_progress: OnProgress,
) -> State:
    """The replicas after Langevin dynamics; they start from the positions in turn, with thermal velocities.

    Raises:
        SimulationError: If an energy or a force is not finite.
    """
    start = _thermal_start(potential, positions, masses, settings)
    n_steps = round(settings.equilibration / settings.timestep)
    noise = torch.Generator(positions.device).manual_seed(settings.seed)
    thermostat = Langevin(settings.timestep, settings.temperature, settings.equilibration_friction, noise)
    _, last = _run(
        potential,
        thermostat,
        start,
        DynamicsSettings(n_steps, report_every=REPORT_STEPS),
        within("equilibration", on_progress),
    )
    return replace(last, time=0.0)


def _thermal_start(
    potential: Potential,
    positions: Float[Tensor, "n atoms 3"],
    masses: Float[Tensor, "atoms"],
    settings: PhysicsSettings,
) -> State:
    x = positions[torch.arange(settings.n_replicas, device=positions.device) % len(positions)]
    masses = masses.to(positions)
    generator = torch.Generator(positions.device).manual_seed(settings.seed)
    v = maxwell_boltzmann(masses, settings.n_replicas, settings.temperature, generator)
    return State.start(potential, x, v, masses)


def _run(
    potential: Potential, integrator: Integrator, start: State, settings: DynamicsSettings, on_progress: OnProgress
) -> tuple[Trajectory, State]:
    """The trajectory, and its last state."""
    last = [start]

    def look(done: int, state: State) -> None:
        last[0] = state
        on_progress(Progress("dynamics", done, settings.n_steps))

    return _simulate(potential, integrator, start, settings, look), last[0]


def _simulate(
    potential: Potential, integrator: Integrator, start: State, settings: DynamicsSettings, on_report: OnReport
) -> Trajectory:
    """Dynamics with a given integrator, whatever ensemble it samples."""

    return record(start, Stepper(potential, integrator), settings, on_report, potential.topology)


def nve(
    potential: Potential, start: State, timestep: float, duration: float, report_every: int, on_progress: OnProgress
) -> Trajectory:
    """Velocity Verlet from a state.

    Args:
        potential: In float64.
        start: All replicas.
        timestep: ps.
        duration: ps.
        report_every: Steps between recorded frames.
        on_progress: Told of steps.

    Raises:
        SimulationError: If an energy or a force is not finite.
    """
    steps = DynamicsSettings(round(duration / timestep), timestep, report_every=report_every)
    return _run(potential, VelocityVerlet(timestep), start, steps, on_progress)[0]


def examine_conservation(
    potential: Potential, start: State, settings: PhysicsSettings, on_progress: OnProgress
) -> list[Finding]:
    """Fluctuation and drift of the total energy in NVE runs."""
    quantities = ("std of total energy / (3n - 6), kJ/mol", "|drift| of total energy, kJ/mol/ps")
    highest = FLUCTUATION * thermal_energy(settings.temperature)
    try:
        told = within("conservation", on_progress)
        trajectory = nve(potential, start, settings.timestep, settings.production, NVE_REPORT_STEPS, told)
    except SimulationError as error:
        kinetic = thermal_energy(settings.temperature) * math.sqrt(1.5 * start.positions.shape[1])
        limits = (highest, kinetic / DRIFT_TIME)
        return [_failed("conservation", q, error, high) for q, high in zip(quantities, limits, strict=True)]
    found = energy_conservation(trajectory)
    kinetic = float(trajectory.kinetic_energy.double().std(0).mean())
    note = f"over {found.duration:g} ps, {settings.timestep / FEMTOSECOND:g} fs, {settings.n_replicas} replicas"
    return [
        Finding("conservation", quantities[0], found.std_per_dof, high=highest, note=note),
        Finding("conservation", quantities[1], found.abs_drift, high=kinetic / DRIFT_TIME, note=note),
    ]


def energy_fluctuations(
    potential: Potential, start: State, settings: PhysicsSettings, on_progress: OnProgress
) -> list[Estimate]:
    """The fluctuation of the total energy per degree of freedom, kJ/mol, at each time step, all runs from one start.

    Raises:
        SimulationError: If an energy or a force is not finite; names the time step.
    """
    every = max(settings.timesteps)
    lengths = [round(settings.scaling_duration / timestep) for timestep in settings.timesteps]
    found: list[Estimate] = []
    done = 0

    def tell(of_run: Progress) -> None:
        on_progress(Progress("order", done + of_run.done, sum(lengths)))

    for timestep, n_steps in zip(settings.timesteps, lengths, strict=True):
        try:
            trajectory = nve(potential, start, timestep, settings.scaling_duration, round(every / timestep), tell)
        except SimulationError as error:
            raise SimulationError(f"{timestep / FEMTOSECOND:g} fs: {error}") from error
        done += n_steps
        found.append(energy_conservation(trajectory).std_per_dof)
    return found


def examine_order(
    potential: Potential, start: State, settings: PhysicsSettings, on_progress: OnProgress
) -> list[Finding]:
    """The exponent with which the fluctuation of the energy grows with the time step, all runs from one start."""
    quantity = "exponent of the energy fluctuation's growth with the time step"
    try:
        fluctuations = energy_fluctuations(potential, start, settings, on_progress)
    except SimulationError as error:
        return [_failed("order", quantity, error, ORDER[1], ORDER[0])]
    series = ", ".join(
        f"{estimate.value:.3g} at {timestep / FEMTOSECOND:g} fs"
        for timestep, estimate in zip(settings.timesteps, fluctuations, strict=True)
    )
    exponent = scaling_exponent(settings.timesteps, fluctuations)
    return [Finding("order", quantity, exponent, *ORDER, note=f"std / (3n - 6): {series} kJ/mol")]


def _failed(test: str, quantity: str, error: SimulationError, high: float, low: float = -math.inf) -> Finding:
    return Finding(test, quantity, single(math.nan), low, high, str(error))


def examine_thermostat(
    potential: Potential, start: State, settings: PhysicsSettings, on_progress: OnProgress
) -> list[Finding]:
    """Temperature, equipartition and integrity of the molecule in a long NVT run, which ends when a bond breaks."""
    noise = torch.Generator(start.positions.device).manual_seed(settings.seed + 1)
    thermostat = Langevin(settings.timestep, settings.temperature, settings.friction, noise)
    watch = _Watch(potential.topology, start, settings, on_progress)
    note = ""
    try:
        steps = DynamicsSettings(settings.nvt_steps, settings.timestep, "nvt", report_every=REPORT_STEPS)
        _simulate(potential, thermostat, start, steps, watch)
    except SimulationError as error:
        note = str(error)
    return watch.findings(note)


class _Watch:
    """Watches the states of an NVT run."""

    def __init__(
        self, topology: Topology | None, start: State, settings: PhysicsSettings, on_progress: OnProgress
    ) -> None:
        self.topology = topology
        self.settings = settings
        self.on_progress = on_progress
        self.done = 0
        self.temperatures: list[Float[Tensor, "atoms"]] = []
        self.longest = torch.zeros(0 if topology is None else len(topology.bonds), dtype=torch.float64)
        self.flipped = 0
        if topology is not None:
            self.handedness = handedness(start.positions, topology)
            self.limits = broken_lengths(topology)

    def __call__(self, done: int, state: State) -> None:
        self.done = done
        self.on_progress(Progress("thermostat", done, self.settings.nvt_steps))
        self.temperatures.append(atom_temperatures(state, self.settings.timestep))
        if self.topology is not None:
            self._look(state, self.topology)

    def _look(self, state: State, topology: Topology) -> None:
        first, second = torch.tensor(topology.bonds, dtype=torch.long).reshape(-1, 2).T.to(state.positions.device)
        lengths = (state.positions[:, first] - state.positions[:, second]).norm(dim=-1).amax(0).double().cpu()
        self.longest = torch.maximum(self.longest, lengths)
        flipped = int((handedness(state.positions, topology) != self.handedness).sum())
        self.flipped = max(self.flipped, flipped)
        excess = self.longest / self.limits
        if bool((excess > 1).any()):
            worst = int(excess.argmax())
            i, j = topology.bonds[worst]
            raise SimulationError(
                f"At {state.time:.6g} ps the bond {topology.atoms[i]} {topology.atoms[j]} is "
                f"{float(lengths[worst]):.3g} nm long: broken."
            )

    def findings(self, note: str) -> list[Finding]:
        """The findings up to the error in the note."""
        duration = self.settings.nvt_steps * self.settings.timestep
        run = single(self.done * self.settings.timestep)
        series = torch.stack(self.temperatures)
        found = [
            Finding("stability", "NVT run without failure, ps", run, low=duration * (1 - 1e-9), note=note),
            self._temperature("all atoms", series),
        ]
        if self.topology is None:
            return found
        elements = self.topology.elements
        for symbol in sorted(set(elements)):
            chosen = torch.tensor([other == symbol for other in elements])
            found.append(self._temperature(symbol, series[:, chosen]))
        quantity = "longest bond / what counts as broken"
        if len(self.longest):
            worst = int((self.longest / self.limits).argmax())
            i, j = self.topology.bonds[worst]
            name = f"{self.topology.atoms[i]} {self.topology.atoms[j]}, {float(self.longest[worst]):.3g} nm"
            ratio = single(float(self.longest[worst] / self.limits[worst]))
            found.append(Finding("bonds", quantity, ratio, high=1.0, note=name))
        quantity = "tetrahedral centres that changed their handedness"
        found.append(Finding("chirality", quantity, single(float(self.flipped)), high=0.0))
        return found

    def _temperature(self, what: str, series: Float[Tensor, "frames atoms"]) -> Finding:
        found, target = single(math.nan), self.settings.temperature
        if len(series) > 1:
            found = mean_of_time_series(series.mean(1))
            # too few frames to estimate their correlation: taken as independent
            found = found if found.reliable else mean_of_independent(series.mean(1))
        width = STANDARD_ERRORS * found.error
        return Finding("temperature", f"kinetic temperature of {what}, K", found, target - width, target + width)


def broken_lengths(topology: Topology) -> Float[Tensor, "bonds"]:
    """The length of each bond that counts as broken, nm."""
    # virtual bonds do not break
    limits = (BROKEN * covalent_lengths(topology)).nan_to_num(nan=math.inf)
    pairs = [(topology.elements[i], topology.elements[j]) for i, j in topology.bonds]
    # without bonds, the type of an empty list has to be said
    hydrogen = torch.tensor(["H" in pair for pair in pairs], dtype=torch.bool)
    limits[hydrogen] = limits[hydrogen].clamp(max=LOST_HYDROGEN)
    return limits


def atom_temperatures(state: State, timestep: float) -> Float[Tensor, "atoms"]:
    r"""Kinetic temperature of each atom, mean over the replicas, K.

    .. math:: T_i = \frac{m_i |v_i + \tfrac{\Delta t}{2 m_i} F_i|^2}{3 k}

    The velocities are those half a kick later: in a harmonic well their distribution is exact for every time step,
    whereas that of the velocities at the end of a BAOAB step is too narrow by :math:`(\omega \Delta t)^2 / 4`.
    """
    masses = state.masses[:, None]
    later = state.velocities + 0.5 * timestep / masses * state.forces
    return ((masses * later**2).sum(-1).mean(0) / (3 * BOLTZMANN)).double().cpu()
