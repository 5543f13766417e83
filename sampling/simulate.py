"""Molecular dynamics that makes training data: walkers in parallel, replica exchange, a file that survives kills."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..coordinates.checks import warn_of_bends
from ..coordinates.internal import slow_torsions
from ..core.engine import Engine
from ..core.errors import ConfigurationError
from ..core.files import file_digest, require_free
from ..core.jumps import Jumps
from ..core.plugins import registry
from ..core.potential import Potential
from ..molecules.checks import check_positions
from ..molecules.elements import masses
from ..molecules.frames import Frames
from ..molecules.frames_file import FramesReader, FramesWriter
from ..molecules.shipped import AMBER
from ..molecules.topologies import topology_from_pdb
from ..molecules.topology_checks import require_molecule
from ..potentials.flow_potential import FlowPotential
from ..potentials.reference import reference
from ..potentials.shipped import load_flow
from ..runs.progress import OnProgress, Progress, silent
from ..runs.provenance import MISSING, require_same_run, versions
from ..runs.workers import n_cores, worker_processes
from .walkers import Found, Protocol, Walker, advance_walker, start_walker

ROUND = 5.0
"""Time in ps between two restarts of the dynamics where no exchange asks for one sooner."""

CHUNK = 20.0
"""Simulated time in ps, over all temperatures of a walker, after which frames are written."""


LADDER = (1.2, 1.433, 1.717)
"""Temperatures of the default ladder in units of the lowest: neighbours of a small peptide exchange often."""


@dataclass(frozen=True)
class SimulateSettings:
    """What to simulate.

    Attributes:
        structure: PDB file of the molecule.
        potential: A provider and its argument, like ``openmm:amber99sbildn.xml,amber99_obc.xml``.
        engine: What runs the dynamics, by name.
        n_frames: Frames to make, over all walkers; rounded up to whole rounds of every walker.
        frame_interval: Time between frames of a walker, ps.
        temperature: K; that of the frames.
        ladder: Higher temperatures for replica exchange, K; without any, walkers are plain dynamics.
        keep: Which frames are kept: those of the ``lowest`` temperature, or ``all``, those of each higher one in a
            file of their own beside it (`frames_at`).
        exchange_interval: Time between exchanges, ps; a multiple of ``frame_interval``.
        timestep: ps.
        friction: 1/ps.
        walkers: Number of independent walkers.
        equilibration: Time before the first frame, ps.
        start_temperature: K; each walker is heated to it first, to start in a conformation of its own; 0: not.
        start_time: Time at that temperature, ps.
        seed: Seed of the random numbers; the same seed gives the same frames.
        workers: Processes; one for each core, but no more than walkers, if not given.
        proposals: A model of the molecule, a file or the name of one that ships, that proposes jumps to each walker at
            the temperature of the frames.
        jumps: Jumps that are attempted after each round: every 5 ps, or before each exchange.
    """

    structure: Path
    potential: str = AMBER
    engine: str = "openmm"
    n_frames: int = 10_000
    frame_interval: float = 0.2
    temperature: float = 300.0
    ladder: tuple[float, ...] = ()
    exchange_interval: float = 1.0
    timestep: float = 0.001
    friction: float = 1.0
    walkers: int = 4
    equilibration: float = 10.0
    start_temperature: float = 0.0
    start_time: float = 10.0
    seed: int = 0
    workers: int | None = None
    proposals: str | None = None
    jumps: int = 10
    keep: Literal["lowest", "all"] = "lowest"

    def __post_init__(self) -> None:
        for name in ("frame_interval", "temperature", "exchange_interval", "timestep", "friction"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} must be positive and finite; it is {getattr(self, name)}.")
        for name in ("equilibration", "start_temperature", "start_time", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} must not be negative; it is {getattr(self, name)}.")
        for name in ("n_frames", "walkers", "jumps"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; it is {getattr(self, name)}.")
        if self.workers is not None and self.workers < 1:
            raise ConfigurationError(f"workers must be at least 1; it is {self.workers}.")
        if any(not math.isfinite(t) for t in self.ladder) or list(self.temperatures) != sorted(set(self.temperatures)):
            raise ConfigurationError(
                f"The temperatures of a ladder must rise; they are {', '.join(map(str, self.temperatures))} K."
            )
        if self.keep not in ("lowest", "all") or (self.keep == "all" and not self.ladder):
            raise ConfigurationError(
                f'keep must be "lowest", or "all" with a ladder of higher temperatures; it is "{self.keep}"'
                f"{'' if self.ladder else ' without one'}."
            )
        if self.ladder and not _is_multiple(self.exchange_interval, self.frame_interval):
            raise ConfigurationError(
                f"exchange_interval ({self.exchange_interval} ps) must be a multiple of frame_interval "
                f"({self.frame_interval} ps)."
            )
        if not _is_multiple(self.frame_interval, self.timestep):
            raise ConfigurationError(
                f"frame_interval ({self.frame_interval} ps) must be a multiple of timestep ({self.timestep} ps)."
            )

    @property
    def temperatures(self) -> tuple[float, ...]:
        """All temperatures, that of the frames first, K."""
        return (self.temperature, *self.ladder)

    @property
    def protocol(self) -> Protocol:
        """How each walker moves."""
        interval = self.exchange_interval if self.ladder else max(ROUND, self.frame_interval)
        return Protocol(
            temperatures=self.temperatures,
            timestep=self.timestep,
            friction=self.friction,
            frame_steps=round(self.frame_interval / self.timestep),
            round_frames=round(interval / self.frame_interval),
            warm_up_steps=round(self.equilibration / self.timestep),
            start_temperature=self.start_temperature,
            start_steps=round(self.start_time / self.timestep) if self.start_temperature > 0 else 0,
            seed=self.seed,
            jumps=self.jumps if self.proposals is not None else 0,
            n_kept=1 if self.keep == "lowest" else len(self.temperatures),
        )


@dataclass(frozen=True)
class SimulationReport:
    """The outcome of a simulation.

    Attributes:
        n_frames: Frames in the file, of the lowest temperature.
        resumed_from: Frames that were there before.
        attempted: Exchanges tried between each temperature and the next.
        accepted: Number of exchanges that were made.
        jumps: Jumps that were attempted, and accepted.
        evaluations: Energies that were computed, with or without forces: every step of every temperature, and jumps.
    """

    n_frames: int
    resumed_from: int
    attempted: tuple[int, ...]
    accepted: tuple[int, ...]
    jumps: tuple[int, int]
    evaluations: int


def frames_at(path: str | Path, temperature: float) -> Path:
    """The file of the frames of a higher temperature (K) beside those of the lowest: ``frames-360K.h5``."""
    path = Path(path)
    return path.with_name(f"{path.stem}-{temperature:g}K{path.suffix}")


def simulate(settings: SimulateSettings, path: str | Path, on_progress: OnProgress = silent) -> SimulationReport:
    """Simulate, and append frames with energies and forces to a file; go on with the file if it is there.

    A simulation that was interrupted anywhere goes on without a repeated or a lost frame, as if it had not been. A
    finished one goes on if more frames are asked for.

    Args:
        settings: What to simulate; to go on, they must be those of the file but for ``n_frames`` and ``workers``.
        path: The frames file.
        on_progress: Told of frames.

    Raises:
        UnknownNameError: If no plug-in offers the provider or engine.
        ConfigurationError: If the file belongs to another simulation, or another process writes it.
        FileFormatError: If the structure or the file cannot be read or written.
        TopologyError: If the structure is not a single complete molecule.
        GeometryError: If its atoms overlap or its positions are in another unit.
        SimulationError: If the dynamics is unstable; names walker, atom and time.
    """
    path = Path(path)
    protocol = settings.protocol
    topology, positions = topology_from_pdb(settings.structure)
    require_molecule(topology)
    check_positions(topology, positions[:1])
    warn_of_bends(topology, positions[:1])
    potential = _potential(settings.potential, settings.structure)
    if potential.topology is not None:
        topology.require_same(potential.topology, f'"{settings.structure}"', "the potential")
    registry().engine(settings.engine)
    if settings.proposals is not None:
        proposing = _proposing(settings.proposals, settings.temperature).coordinates.topology
        topology.require_same(proposing, f'"{settings.structure}"', f'the model "{settings.proposals}"')
    nothing = np.zeros((0, len(topology), 3), dtype=np.float32)
    # the lowest temperature first, which also holds the state; then those of the ladder whose frames are kept
    kinds = [
        Frames(
            topology,
            temperature,
            nothing,
            nothing,
            np.zeros(0),
            replica=np.zeros(0, dtype=np.int32),
            provenance=_provenance(settings),
        )
        for temperature in settings.temperatures[: protocol.n_kept]
    ]
    kind, hotter = kinds[0], [(frames_at(path, kind.temperature), kind) for kind in kinds[1:]]
    per_round = protocol.round_frames * settings.walkers
    n_rounds = math.ceil(settings.n_frames / per_round)
    round_time = protocol.round_frames * settings.frame_interval * len(settings.temperatures)
    chunk_rounds = max(1, round(CHUNK / round_time))
    if path.exists():
        _require_same(path, kind)
    else:
        for each in (path, *(other for other, _ in hotter)):
            require_free(each)
    with worker_processes(min(settings.workers or n_cores(), settings.walkers)) as call, ExitStack() as opened:
        writer = opened.enter_context(FramesWriter.resume(path)) if path.exists() else None
        if writer is not None:
            with FramesReader(path) as reader:
                walkers = _unpack(reader.state())
            others = [opened.enter_context(_hotter_frames(other, hot, len(writer))) for other, hot in hotter]
        else:
            walkers = []
            on_progress(Progress("Equilibration", 0, settings.walkers))
            for walker in call(_start, [(i, settings, positions[0].numpy()) for i in range(settings.walkers)]):
                walkers.append(walker)
                on_progress(Progress("Equilibration", len(walkers), settings.walkers))
        resumed_from = n_frames = walkers[0].rounds * per_round
        total = max(n_rounds * per_round, n_frames)
        on_progress(Progress("Simulation", n_frames, total))
        while walkers[0].rounds < n_rounds:
            # chunks end at the same rounds wherever the simulation was interrupted
            ahead = min(chunk_rounds - walkers[0].rounds % chunk_rounds, n_rounds - walkers[0].rounds)
            before = walkers
            done = list(call(_advance, [(walker, ahead, settings) for walker in before]))
            walkers = [walker for walker, _ in done]
            if writer is None:
                # not before there are frames, so that a simulation that fails at once leaves no file
                writer = opened.enter_context(FramesWriter.create(path, kind, _pack(before)))
                others = [opened.enter_context(_hotter_frames(other, hot, 0)) for other, hot in hotter]
            parts = [_frames(kind, [(w.index, found[i]) for w, found in done]) for i, kind in enumerate(kinds)]
            # the state last: what the others have more is cut off when the simulation goes on
            for other, part in zip(others, parts[1:], strict=True):
                other.append(part)
            writer.append(parts[0], _pack(walkers))
            n_frames = len(writer)
            on_progress(Progress("Simulation", n_frames, total))
    attempted = np.sum([walker.attempted for walker in walkers], axis=0)
    accepted = np.sum([walker.accepted for walker in walkers], axis=0)
    jumps = np.sum([walker.jumps for walker in walkers], axis=0)
    steps = protocol.warm_up_steps + walkers[0].rounds * protocol.round_frames * protocol.frame_steps
    evaluations = settings.walkers * (len(settings.temperatures) * steps + protocol.start_steps) + int(jumps[0])
    return SimulationReport(
        n_frames,
        resumed_from,
        tuple(map(int, attempted)),
        tuple(map(int, accepted)),
        (int(jumps[0]), int(jumps[1])),
        evaluations,
    )


def default_ladder(structure: Path, temperature: float) -> tuple[float, ...]:
    """Temperatures (K) for replica exchange of a molecule with slow torsions; none for one without.

    Args:
        structure: PDB file of the molecule.
        temperature: K; the lowest one, which is not part of the ladder.
    """
    if not slow_torsions(topology_from_pdb(structure)[0]):
        return ()
    return tuple(round(factor * temperature, 1) for factor in LADDER)


def _hotter_frames(path: Path, kind: Frames, n_frames: int) -> FramesWriter:
    """The file of a higher temperature, with as many frames as that of the lowest has.

    Raises:
        ConfigurationError: If there is another file of that name.
        FileFormatError: If it is missing, or has fewer frames.
    """
    if n_frames == 0 and not path.exists():
        return FramesWriter.create(path, kind)
    if path.exists():
        with FramesReader(path) as reader:
            require_same_run(f'"{path}"', reader.provenance, dict(kind.provenance), ("versions", "structure"))
    return FramesWriter.resume(path, n_frames)


def _frames(kind: Frames, found: list[tuple[int, Found]]) -> Frames:
    return Frames(
        kind.topology,
        kind.temperature,
        positions=np.concatenate([part.positions for _, part in found]),
        forces=np.concatenate([part.forces for _, part in found]),
        energies=np.concatenate([part.energies for _, part in found]),
        replica=np.concatenate([np.full(len(part.energies), index, dtype=np.int32) for index, part in found]),
        provenance=kind.provenance,
    )


def _pack(walkers: list[Walker]) -> dict[str, np.ndarray]:
    """The walkers as arrays for the frames file."""
    names = ("rounds", "positions", "velocities", "attempted", "accepted", "jumps")
    return {name: np.stack([np.asarray(getattr(walker, name)) for walker in walkers]) for name in names}


def _unpack(state: dict[str, np.ndarray]) -> list[Walker]:
    rest = ("positions", "velocities", "attempted", "accepted", "jumps")
    # simulations of earlier versions had none
    state = {"jumps": np.zeros((len(state["rounds"]), 2), dtype=np.int64), **state}
    return [
        Walker(index, int(rounds), *(state[name][index] for name in rest))
        for index, rounds in enumerate(state["rounds"])
    ]


def _provenance(settings: SimulateSettings) -> dict[str, Any]:
    engine = registry().entry("engine", settings.engine)
    # the provider and, in "ase:tblite:GFN2-xTB", the package that it asks
    asked = [part.partition(".")[0] for part in settings.potential.split(":") if part]
    if asked[0] == "torch":
        asked.append("openmm")  # which built the System
    files = (Path(part.strip()) for part in settings.potential.partition(":")[2].split(","))
    proposals = {}
    if settings.proposals is not None:
        model = registry().model_path(settings.proposals)
        proposals = {"proposals_sha256": file_digest(model), "jumps": settings.jumps}
    return {
        **proposals,
        "potential": settings.potential,
        "potential_sha256": {path.name: file_digest(path) for path in files if path.is_file()},
        "structure": settings.structure.name,
        "structure_sha256": file_digest(settings.structure),
        "engine": settings.engine,
        "integrator": registry().engine(settings.engine).thermostat,
        "versions": versions("smoothflow", engine.distribution, settings.engine, *asked),
        "timestep": settings.timestep,
        "friction": settings.friction,
        "frame_interval": settings.frame_interval,
        "temperatures": list(settings.temperatures),
        "exchange_interval": settings.exchange_interval,
        "walkers": settings.walkers,
        "equilibration": settings.equilibration,
        "start_temperature": settings.start_temperature,
        "start_time": settings.start_time,
        "seed": settings.seed,
        **({} if settings.keep == "lowest" else {"keep": settings.keep}),
    }


def _require_same(path: Path, kind: Frames) -> None:
    with FramesReader(path) as reader:
        there = reader.provenance
        has_state = "positions" in reader.state()
    # a structure is what is in it, whatever its name
    here = {"proposals_sha256": MISSING, "jumps": MISSING, "keep": MISSING, **kind.provenance}
    require_same_run(f'"{path}"', there, here, ("versions", "structure"))
    if not has_state:
        raise ConfigurationError(f'"{path}" holds nothing to go on from: it was not written by a simulation.')


@lru_cache(maxsize=1)
def _potential(name: str, structure: Path) -> Potential:
    """The potential of a provider, made once in each process."""
    return reference(name, structure)


@lru_cache(maxsize=1)
def _proposing(model: str, temperature: float) -> FlowPotential:
    """The model that proposes jumps, loaded once in each process; at the temperature (K) of the frames if it can."""
    potential = load_flow(registry().model_path(model))
    temperatures = potential.temperature_range
    return potential.at_temperature(temperature) if temperatures and temperature in temperatures else potential


def _system(settings: SimulateSettings) -> tuple[Potential, Engine, Float[Tensor, "atoms"]]:
    """What moves a walker: the potential, the engine and the masses (amu)."""
    topology, _ = topology_from_pdb(settings.structure)
    potential = _potential(settings.potential, settings.structure)
    return potential, registry().engine(settings.engine)(), masses(topology)


def _start(index: int, settings: SimulateSettings, positions: np.ndarray) -> Walker:
    return start_walker(index, *_system(settings), positions, settings.protocol)


def _advance(walker: Walker, n_rounds: int, settings: SimulateSettings) -> tuple[Walker, list[Found]]:
    jumps = None
    if settings.proposals is not None:
        jumps = Jumps(_proposing(settings.proposals, settings.temperature), settings.temperature)
    return advance_walker(walker, n_rounds, *_system(settings), settings.protocol, jumps)


def _is_multiple(whole: float, part: float) -> bool:
    return round(whole / part) >= 1 and math.isclose(whole / part, round(whole / part), rel_tol=1e-6)
