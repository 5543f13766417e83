"""Refining: pools of a model's own samples, weighted to the reference, and batches made from them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor
from torch.distributed import all_gather_object

from ..core.errors import ConfigurationError, InversionError
from ..core.potential import Potential
from ..core.topology import Topology
from ..molecules.frames_file import read_frames
from ..potentials.flow_potential import FlowPotential
from ..potentials.parallel_worker import Parcel, unpack
from ..runs.progress import OnProgress, Progress, silent
from ..runs.randomness import generator
from ..runs.workers import Call, n_cores, worker_processes
from .batches import rows_of_batch
from .config import RefiningSettings, TrainSettings
from .outside import outside_configurations
from .processes import Rank
from .sample_losses import Target

CHUNK = {"cpu": 250, "cuda": 50_000}
"""Samples that are drawn together; the numbers of a pool depend on it."""

HIGHEST_ENERGY = 1000.0
"""Height above the samples' median energy, kT, beyond which configurations outside the bulk teach nothing."""

Arrays = dict[str, ndarray]
"""What a worker returns for its part of a pool, by name."""


@dataclass(frozen=True)
class Pool:
    """Samples of the averaged weights at one step, and configurations outside the bulk.

    Attributes:
        step: Training step at which it was drawn.
        positions: Samples, nm.
        forces: The reference's, kT/nm.
        log_density: The model's, in float64 rounded to the precision of training.
        weights: Importance weights from the model's distribution to the reference's; their mean was 1 before clipping.
        outside_positions: Configurations outside the bulk, nm.
        outside_forces: The reference's, kT/nm.
        ess: Kish's fraction of the samples, from raw weights.
        clipped: Share of the samples whose weights were clipped.
        lost: Share of all weight that was clipped away.
        usable: Whether it is worth enough samples to train on.
    """

    step: int
    positions: Float[Tensor, "n atoms 3"]
    forces: Float[Tensor, "n atoms 3"]
    log_density: Float[Tensor, "n"]
    weights: Float[Tensor, "n"]
    outside_positions: Float[Tensor, "m atoms 3"]
    outside_forces: Float[Tensor, "m atoms 3"]
    ess: float
    clipped: float
    lost: float
    usable: bool

    def state(self) -> dict[str, Any]:
        """Tensors and numbers, for a checkpoint; ``Pool(**state)`` is the pool again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def to(self, device: torch.device) -> Pool:
        """The same on a device."""
        moved: dict[str, Any] = {name: v.to(device) for name, v in self.state().items() if isinstance(v, Tensor)}
        return replace(self, **moved)


class Refiner:
    """Draws pools for one process of a training, and mixes frames and samples in batches.

    Args:
        settings: How to train.
        target: The reference; its evaluations are counted there.
        outside: Hot frames, if there are any: positions (nm) and forces (kJ/mol/nm).
        call: Calls functions in worker processes of this machine.
        rank: Which process of the training this is.
    """

    def __init__(
        self,
        settings: TrainSettings,
        target: Target,
        outside: tuple[Float[ndarray, "n atoms 3"], Float[ndarray, "n atoms 3"]] | None,
        call: Call,
        rank: Rank,
    ) -> None:
        self.settings = settings
        self.target = target
        self.outside = outside
        self.pool: Pool | None = None
        self._call = call
        self._rank = rank

    @property
    def refining(self) -> RefiningSettings:
        """How to refine."""
        return self.settings.refining

    @property
    def composition(self) -> tuple[int, int, int]:
        """Frames, samples, and configurations outside the bulk in a batch of all processes."""
        size, share = self.settings.batch_size, self.refining
        n_frames, n_outside = max(1, round(share.frames_share * size)), round(share.outside_share * size)
        return n_frames, size - n_frames - n_outside, n_outside

    def is_due(self, step: int) -> bool:
        """Whether a new pool is to be drawn before a step."""
        since = step - self.settings.likelihood_steps
        if since < 0 or (self.pool is not None and self.pool.step == step):
            return False
        return self.pool is None or since % self.refining.refresh_every == 0

    def refresh(self, potential: FlowPotential, step: int, on_progress: OnProgress = silent) -> str:
        """Draw a new pool from a model (the averaged weights), and say what it is worth."""
        parts = self._parts(potential, step, on_progress)
        gathered = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self.target.n_evaluations += len(gathered["energy"]) + len(gathered["outside_energy"])
        self.pool = self._pool(gathered, potential.kT, step)
        return self._described(self.pool, len(gathered["energy"]))

    def figures(self) -> dict[str, float]:
        """What the metrics keep of the last pool."""
        if self.pool is None:
            return {}
        return {"pool_ess": self.pool.ess, "pool_clipped": self.pool.clipped, "pool_lost": self.pool.lost}

    def labels(self, frames: Int[Tensor, "size"]) -> Int[Tensor, "size"]:
        """The labels of this process's share of a batch: the number of a frame, or -2 minus the position in the
        batch."""
        places = torch.arange(len(frames), device=frames.device)
        return torch.where(places < self._n_kept(), frames, -2 - places)

    def name_of(self, label: int) -> str:
        """The meaning of a label, in words."""
        if label >= 0:
            return f"frame {label}"
        place = -2 - label
        n_frames, n_samples, _ = self.composition
        at = range(self.settings.batch_size)[self._rank.share][place]
        kind = "sample" if at < n_frames + n_samples else "configuration outside the bulk"
        return f"{kind} {place} of the batch"

    def _n_kept(self) -> int:
        """The number of frames in this process's share of a batch."""
        if self.pool is None or not self.pool.usable:
            return self.settings.batch_size
        return len(range(self.composition[0])[self._rank.share])

    def mixed(self, frames: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """This process's share of a batch: the first of its frames, then samples and configurations outside the bulk.

        Args:
            frames: Positions (nm), forces (kT/nm), and weights of its share of a whole batch of frames.
            step: Training step.

        Returns:
            Also ``weights`` of the likelihood, ``sampled`` where a configuration is a sample, its ``log_density``, and
            the ``damping`` of the force errors.
        """
        positions = frames["positions"]
        size, device = len(positions), positions.device
        weights = frames.get("weights", torch.ones(size, dtype=positions.dtype, device=device))
        nothing = torch.zeros_like(weights)
        damping = torch.full_like(weights, self.settings.force_damping)
        found = {**frames, "weights": weights, "sampled": nothing, "log_density": nothing, "damping": damping}
        if self.pool is None or not self.pool.usable:
            return found
        if self.pool.positions.device != device:
            self.pool = self.pool.to(device)
        pool = self.pool
        n_frames, n_samples, n_outside = self.composition
        places = torch.arange(self.settings.batch_size)[self._rank.share]
        kept = self._n_kept()
        of_samples = places[(places >= n_frames) & (places < n_frames + n_samples)] - n_frames
        of_outside = places[places >= n_frames + n_samples] - n_frames - n_samples
        sample = _rows(len(pool.positions), n_samples, self.settings.seed, step - pool.step)[of_samples].to(device)
        # configurations outside the bulk carry no likelihood: the others stand for the whole batch
        scale = (n_frames + n_samples + n_outside) / (n_frames + n_samples)
        parts = {
            "positions": [positions[:kept], pool.positions[sample]],
            "forces": [frames["forces"][:kept], pool.forces[sample]] if "forces" in frames else [],
            "weights": [weights[:kept] * scale, pool.weights[sample] * scale],
            "sampled": [nothing[:kept], torch.full_like(pool.weights[sample], scale)],
            "log_density": [nothing[:kept], pool.log_density[sample]],
            "damping": [damping[: kept + len(sample)]],
        }
        if "context" in frames:
            # samples, and what is outside the bulk, are of the temperature of the lowest frames
            parts["context"] = [frames["context"][:kept], torch.ones_like(frames["context"][kept:])]
        if n_outside > 0:
            n_there = len(pool.outside_positions)
            # in an order other than the samples', even if their numbers are equal
            outside = _rows(n_there, n_outside, self.settings.seed + 1, step - pool.step)[of_outside].to(device)
            parts["positions"].append(pool.outside_positions[outside])
            if "forces" in frames:
                parts["forces"].append(pool.outside_forces[outside])
            for name in ("weights", "sampled", "log_density"):
                parts[name].append(nothing[: len(outside)])
            parts["damping"].append(torch.full_like(nothing[: len(outside)], self.refining.outside_damping))
        return {name: torch.cat(values) for name, values in parts.items() if values}

    def _parts(self, potential: FlowPotential, step: int, on_progress: OnProgress) -> list[Arrays]:
        """The parts of a pool, in order; each process of the training computes its share of them."""
        reference, size = self.target.potential, CHUNK[potential.device.type]
        n_pool, share = self.refining.pool_size, self.refining
        n_outside = math.ceil(n_pool * share.outside_share * (0.5 if self.outside is not None else 1.0))
        # separate from the samples: a descent takes as many steps for few configurations as for many
        counts = [(n, 0) for n in _chunks(n_pool, size)] + [(0, n) for n in _chunks(n_outside, size)]
        numbered = [(*count, (self.settings.seed, 3, step, i)) for i, count in enumerate(counts)]
        tasks = numbered[self._rank.share]
        done: list[Arrays] = []
        for part in _drawn(potential, reference, tasks, self._call):
            done.append(part)
            on_progress(Progress("Samples", sum(len(each["energy"]) for each in done), n_pool))
        if self._rank.count == 1:
            return done
        everywhere: list[Any] = [None] * self._rank.count
        all_gather_object(everywhere, done)
        parts: list[Any] = [None] * len(numbered)
        for rank, theirs in enumerate(everywhere):
            parts[rank :: self._rank.count] = theirs
        return parts

    def _pool(self, found: Arrays, kT: float, step: int) -> Pool:
        dtype, share = self.settings.torch_dtype, self.refining
        possible = np.isfinite(found["energy"]) & np.isfinite(found["log_density"])
        log_weights = np.full(len(possible), -np.inf)
        log_weights[possible] = (-found["energy"] / kT - found["log_density"])[possible]
        weights = np.exp(log_weights - log_weights.max()) if possible.any() else np.ones(len(log_weights))
        ess = float(weights.sum() ** 2 / (weights**2).sum() / len(weights)) if possible.any() else 0.0
        weights = weights / weights.mean()
        clipped = np.minimum(weights, share.largest_weight)

        def tensor(values: ndarray, factor: float = 1.0) -> Tensor:
            return (torch.from_numpy(values) * factor).to(dtype)

        outside_positions, outside_forces = found["outside_positions"], found["outside_forces"]
        median = float(np.median(found["energy"][possible])) if possible.any() else math.inf
        kept = found["outside_energy"] < median + HIGHEST_ENERGY * kT
        outside_positions, outside_forces = outside_positions[kept], outside_forces[kept]
        if self.outside is not None:
            hot, hot_forces = self.outside
            n_hot = min(len(hot), max(1, math.ceil(share.pool_size * share.outside_share / 2)))
            chosen = torch.randperm(len(hot), generator=generator(self.settings.seed, 4, step))[:n_hot].numpy()
            outside_positions = np.concatenate([outside_positions, hot[chosen].astype(np.float64)])
            outside_forces = np.concatenate([outside_forces, hot_forces[chosen].astype(np.float64)])
        n_outside = self.composition[2]
        enough = ess * len(weights) >= share.fewest_effective and len(outside_positions) >= min(1, n_outside)
        return Pool(
            step=step,
            positions=tensor(found["positions"][possible]),
            forces=tensor(found["forces"][possible], 1 / kT),
            log_density=tensor(found["log_density"][possible]),
            weights=tensor(clipped[possible]),
            outside_positions=tensor(outside_positions),
            outside_forces=tensor(outside_forces, 1 / kT),
            ess=ess,
            clipped=float((weights > share.largest_weight).mean()),
            lost=max(0.0, float(1 - clipped.mean())),
            usable=bool(enough),
        )

    def _described(self, pool: Pool, n_drawn: int) -> str:
        text = (
            f"pool of step {pool.step}: {n_drawn} samples, raw ESS {100 * pool.ess:.2f} % ({pool.ess * n_drawn:.0f} "
            f"samples), {100 * pool.clipped:.3g} % of them clipped, which takes {100 * pool.lost:.3g} % of all weight, "
        )
        if n_drawn > len(pool.positions):
            text += f"{n_drawn - len(pool.positions)} without finite energy, "
        if self.composition[2] > 0:
            text += f"{len(pool.outside_positions)} configurations outside the bulk, "
        text += f"{self.target.n_evaluations} energy evaluations so far"
        if not pool.usable:
            text += (
                f"; worth fewer than {self.refining.fewest_effective:g} samples, so that training goes on with frames "
                "alone until the next pool"
            )
        return text


def hot_frames(
    settings: TrainSettings, topology: Topology
) -> tuple[Float[ndarray, "n atoms 3"], Float[ndarray, "n atoms 3"]] | None:
    """Positions (nm) and forces (kJ/mol/nm) of the frames outside the bulk named in the settings, at any temperature.

    Raises:
        FileFormatError: If the file cannot be read, or holds no forces.
        TopologyError: If it is of another molecule.
    """
    if settings.refining.pool_size == 0 or settings.refining.outside_frames is None:
        return None
    frames = read_frames(settings.refining.outside_frames)
    topology.require_same(frames.topology, "the molecule", f'"{settings.refining.outside_frames}"')
    return frames.positions, frames.require_forces()


@contextmanager
def refiner_of(
    settings: TrainSettings, target: Target | None, topology: Topology, rank: Rank
) -> Iterator[Refiner | None]:
    """The refiner of a training and its worker processes, one for each core that this process has to itself."""
    if settings.refining.pool_size == 0 or target is None:
        yield None
        return
    here = target.potential.device.type == settings.device.partition(":")[0] == "cpu"
    with worker_processes(max(1, n_cores() // rank.on_machine) if here else 1) as call:
        yield Refiner(settings, target, hot_frames(settings, topology), call, rank)


def weighted_samples(
    potential: FlowPotential,
    reference: Potential,
    n_samples: int,
    seed: tuple[int, ...],
    call: Call,
    on_progress: OnProgress = silent,
) -> Arrays:
    """Samples of a flow with what is needed to weight them, drawn and evaluated by worker processes.

    Args:
        potential: The flow.
        reference: The force field.
        n_samples: How many to draw.
        seed: Numbers on which the stream of randomness depends.
        call: Calls functions in worker processes.
        on_progress: Told of samples.

    Returns:
        ``positions`` (nm), ``log_density`` (of the flow), ``energy`` (kJ/mol; infinite where it is not finite) and
        ``forces`` (kJ/mol/nm).
    """
    size = CHUNK[potential.device.type]
    tasks = [(n, 0, (*seed, i)) for i, n in enumerate(_chunks(n_samples, size))]
    done: list[Arrays] = []
    for part in _drawn(potential, reference, tasks, call):
        done.append(part)
        on_progress(Progress("Samples", sum(len(each["energy"]) for each in done), n_samples))
    names = ("positions", "log_density", "energy", "forces")
    return {name: np.concatenate([part[name] for part in done]) for name in names}


def _drawn(
    potential: FlowPotential, reference: Potential, tasks: Sequence[tuple[int, int, tuple[int, ...]]], call: Call
) -> Iterator[Arrays]:
    """Parts of a pool in order; each is given by its numbers of samples and of distorted samples, and its seed."""
    try:
        flow, force_field = Parcel.pack(potential), Parcel.pack(reference)
    except ConfigurationError:
        # evaluated here if it is on another device or cannot be copied
        return (_part(potential, reference, *task) for task in tasks)
    return call(_part_of_parcels, [(flow, force_field, *task) for task in tasks])


def _part_of_parcels(flow: Parcel, reference: Parcel, n: int, n_outside: int, seed: tuple[int, ...]) -> Arrays:
    potential = unpack(flow)
    assert isinstance(potential, FlowPotential)
    return _part(potential, unpack(reference), n, n_outside, seed)


def _chunks(n: int, size: int) -> list[int]:
    """The sizes of the pieces into which a number is cut."""
    return [min(size, n - first) for first in range(0, n, size)]


def _part(potential: FlowPotential, reference: Potential, n: int, n_outside: int, seed: tuple[int, ...]) -> Arrays:
    """A part of a pool: samples, or distorted ones, with energies (kJ/mol) and forces (kJ/mol/nm) of the reference."""
    drawn, log_density = weighable_samples(potential, n + n_outside, seed)
    positions, log_density = drawn[:n], log_density[:n]
    outside = outside_configurations(potential, drawn[n:], generator(*seed, 1))
    found = {"positions": positions.double(), "log_density": log_density}
    found["energy"], found["forces"] = _evaluated(reference, positions)
    found["outside_positions"] = outside.double()
    found["outside_energy"], found["outside_forces"] = _evaluated(reference, outside)
    return {name: values.detach().cpu().numpy() for name, values in found.items()}


def weighable_samples(
    potential: FlowPotential, n: int, seed: tuple[int, ...]
) -> tuple[Float[Tensor, "n atoms 3"], Float[Tensor, "n"]]:
    """Samples in the precision of a flow, and their log-densities, good enough for weights.

    A sample may lie slightly off its place in exact arithmetic; its weight needs the density where it lies. In float32
    that is off by 1e-4 or less, which is checked on the first samples against float64; otherwise all densities are
    evaluated in float64. If the inverse of a layer is not found in float32, samples are drawn in float64.

    Args:
        potential: The flow.
        n: How many.
        seed: Numbers on which the stream of randomness depends.

    Returns:
        nm; and log-densities in float64.
    """

    def stream() -> torch.Generator:
        return generator(*seed, device=potential.device)

    exact = copy.deepcopy(potential).double()
    with torch.no_grad():
        try:
            positions, log_density = potential.sample(n, stream())
        except InversionError:
            positions = exact.sample(n, stream())[0].to(potential.dtype)
            return positions, exact.log_prob(positions.double())
        checked = exact.log_prob(positions[:N_CHECKED].double())
        if bool(((log_density[:N_CHECKED] - checked).abs() < DENSITY_TOLERANCE).all()):
            return positions, log_density.double()
        return positions, exact.log_prob(positions.double())


N_CHECKED = 10
"""Samples of each part of a pool whose log-density is checked in float64."""

DENSITY_TOLERANCE = 0.01
"""Largest acceptable error of a log-density."""


def _evaluated(
    reference: Potential, positions: Float[Tensor, "n atoms 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n atoms 3"]]:
    """Energies and forces in the reference's own precision; an energy is infinite if any of them is not finite."""
    if len(positions) == 0:
        return positions.new_zeros(0).double(), positions.double()
    energy, forces = reference.energy_and_forces(positions.to(reference.device, reference.dtype))
    energy, forces = energy.double(), forces.double()
    # the largest that float32 holds, with forces in kT/nm
    finite = energy.isfinite() & (forces.abs().amax(dim=(1, 2)) < 1e30)
    return torch.where(finite, energy, math.inf), forces


def _rows(n: int, size: int, seed: int, step: int) -> Int[Tensor, "size"]:
    """Rows of a pool for a step's batch; some of them twice if the pool is smaller than the batch."""
    rows = rows_of_batch(n, size, seed, step)
    return rows if len(rows) == size else rows[torch.arange(size) % len(rows)]
