"""Distances between distributions as the field reports them: of samples from frames, beside that of frames from frames.

References: Klein, Noé, Transferable Boltzmann Generators, arXiv 2406.14426; Tan et al., Scalable Equilibrium Sampling
with Sequential Boltzmann Generators, arXiv 2502.18462; Rehman et al., FALCON, arXiv 2512.09914.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from ..coordinates.internal import is_slow
from ..core.errors import ConfigurationError
from ..core.manifolds import Circle, Product
from .estimates import Blocks, Estimate, student, tail_reason
from .observation import Configurations
from .reweighting import systematic_resample, weight_tail
from .structure import N_BINS, ramachandran_pairs, torsion_histogram, total_variation
from .time_lagged import time_lagged_components
from .transport import wasserstein_in_space, wasserstein_on_line, wasserstein_on_torus

TRANSPORT_POINTS = 1000
"""Points of each kind that are matched by exact transport; its cost grows faster than their square."""

FEWEST_PARTS, MOST_PARTS = 4, 8
"""Disjoint parts of frames, and of samples, whose distances show how much these vary."""

RESAMPLING_SEED = 0
"""Seed of the systematic resampling by weights."""

LAG = 10.0
"""Lag of time-lagged components, ps; one interval of the frames where they are further apart."""

FEWEST_PAIRS = 100
"""Fewest pairs of frames a lag apart for time-lagged components."""

EVENNESS = 1e-3
"""Largest difference, relative to it, from the interval of frames that are evenly spaced."""


@dataclass(frozen=True)
class Distance:
    """A distance of samples from frames between sets of one size, and of frames from frames.

    Attributes:
        name: In results: ``energy_w2``, ``torsion_w2``, ``tica_w2``, or ``total_variation`` and two torsions.
        title: In tables.
        unit: Unit; empty for a number without one.
        definition: What of the configurations is compared.
        points: Configurations of each kind in one comparison; 0 where nothing can be compared.
        samples: Distance of the samples as they were drawn.
        reweighted: Distance of the samples after resampling by their weights.
        floor: Distance of frames from frames of other walkers, or of one at other times: that of a perfect model.
    """

    name: str
    title: str
    unit: str
    definition: str
    points: int
    samples: Estimate
    reweighted: Estimate
    floor: Estimate

    def row(self) -> tuple[str, str, str]:
        """As a row of a table: what, value with error, unit or remark."""
        unit = f"{self.unit}, " if self.unit else ""
        if self.points == 0:
            return self.title, str(self.samples), f"{unit}{self.definition}"
        remark = f"{unit}{self.points} points, {self.definition}; floor {self.floor}"
        return self.title, f"{self.samples}; reweighted {self.reweighted}", remark


@dataclass(frozen=True)
class _Parts:
    """Indices of disjoint sets of frames and of samples, all of one size.

    Attributes:
        frames: Each evenly from its own stretch of the frames.
        drawn: Samples as they are drawn.
        resampled: Samples by their weights; no sets where a part of the samples has no weight at all.
    """

    frames: list[Int[ndarray, "points"]]
    drawn: list[Int[ndarray, "points"]]
    resampled: list[Int[ndarray, "points"]]

    @property
    def points(self) -> int:
        """Configurations in each set."""
        return len(self.frames[0])

    @classmethod
    def of(cls, n_frames: int, log_weights: Float[Tensor, "n"], most: int) -> _Parts:
        """As many parts as there is room for, of ``most`` points or a quarter of the frames or samples."""
        fewer = min(n_frames, len(log_weights))
        points = max(1, min(most, fewer // FEWEST_PARTS))
        n_parts = min(MOST_PARTS, fewer // points)
        generator = torch.Generator().manual_seed(RESAMPLING_SEED)
        stretches = np.array_split(np.arange(n_frames), n_parts)
        kinds = np.array_split(np.arange(len(log_weights)), n_parts)
        resampled = []
        if all(bool((log_weights[kind] > -math.inf).any()) for kind in kinds):
            resampled = [kind[systematic_resample(log_weights[kind], points, generator).numpy()] for kind in kinds]
        return cls(
            [stretch[np.arange(points) * len(stretch) // points] for stretch in stretches],
            [kind[:points] for kind in kinds],
            resampled,
        )


def distances(
    domain: Product,
    frames: Configurations,
    samples: Configurations,
    blocks: Blocks,
    transport_points: int = TRANSPORT_POINTS,
) -> tuple[Distance, ...]:
    """Distances of the samples of a flow from frames of molecular dynamics, each with its floor.

    Frames (walker by walker, in order of time) and samples are cut into 4 to 8 parts. A distance is the mean over the
    parts, each of frames against one of samples; the floor is the mean over neighbouring parts of frames. Errors are
    those of the means (`mean_over_parts`); they do not contain what all parts share.

    Args:
        domain: Columns of the internal coordinates.
        frames: Frames of molecular dynamics, in order of time for each walker.
        samples: Samples of the flow.
        blocks: Blocks of the frames; where these have no basis, no error here has one.
        transport_points: Configurations of each kind in one exact transport; at most a quarter of the fewer.
    """
    n_frames, log_weights = len(frames), samples.log_weights
    many = _Parts.of(n_frames, log_weights, min(n_frames, len(samples)))
    few = _Parts.of(n_frames, log_weights, transport_points)
    tail = weight_tail(log_weights).reason

    def measured(
        parts: _Parts,
        measure: Callable[[ndarray, ndarray], float],
        theirs: Float[Tensor, "n ..."],
        ours: Float[Tensor, "m ..."],
    ) -> dict[str, Any]:
        """Everything of a `Distance` but its words."""
        seen, drawn = (x.double().cpu().numpy() for x in (theirs, ours))

        def mean(pairs: list[tuple[ndarray, ndarray]], ring: bool = False) -> Estimate:
            finite = all(np.isfinite(x).all() for pair in pairs for x in pair)
            if not (pairs and finite):
                what = "not all energies are finite" if pairs else "a part of the samples has no weight"
                return Estimate(math.nan, math.nan, 0, f"not known: {what}")
            return mean_over_parts([measure(*pair) for pair in pairs], parts.points, ring).because(blocks.reason)

        raw, weighted = (
            [(seen[a], drawn[b]) for a, b in zip(parts.frames, chosen, strict=False)]
            for chosen in (parts.drawn, parts.resampled)
        )
        neighbours = [
            (seen[a], seen[b]) for a, b in zip(parts.frames, parts.frames[1:] + parts.frames[:1], strict=True)
        ]
        # two parts have one distance
        neighbours = neighbours[:1] if len(neighbours) == 2 else neighbours
        return {
            "points": parts.points,
            "samples": mean(raw),
            "reweighted": mean(weighted).because(tail),
            "floor": mean(neighbours, ring=True),
        }

    energies = measured(many, wasserstein_on_line, frames.energy, samples.energy)
    energies["samples"] = energies["samples"].because(tail_reason(samples.energy, "sample", steep=True))
    found = [Distance("energy_w2", "E-W2", "kT", "energies of the reference", **energies)]
    for pair in ramachandran_pairs(domain):
        both = " and ".join(domain.names[i] for i in pair)
        seen, drawn = (x.internal[:, list(pair)] for x in (frames, samples))
        shares = measured(many, _apart_by_bins, seen, drawn)
        title = f"total variation of {both}"
        found.append(Distance(f"total_variation {both}", title, "", f"{N_BINS} by {N_BINS} bins", **shares))
    columns = transported_torsions(domain)
    if not columns:
        return tuple(found)
    names = ", ".join(domain.names[i] for i in columns)
    seen, drawn = (x.internal[:, columns].double() for x in (frames, samples))
    found.append(Distance("torsion_w2", "T-W2", "radians", names, **measured(few, wasserstein_on_torus, seen, drawn)))
    circles = [torch.cat([x.cos(), x.sin()], 1) for x in (seen, drawn)]
    try:
        lag, interval = frames_apart(frames.times, frames.replica)
        slowest = time_lagged_components(circles[0].numpy(), lag, frames.replica)
    except ConfigurationError as error:
        unknown = Estimate(math.nan, math.nan, 0, f"not known: {error}")
        known: dict[str, Any] = {"points": 0, "samples": unknown, "reweighted": unknown, "floor": unknown}
        words = f"sin and cos of {names}"
    else:
        components = [torch.from_numpy(slowest(x.numpy())) for x in circles]
        known = measured(few, wasserstein_in_space, *components)
        words = f"{components[0].shape[1]} components of sin and cos of {names}, lag {lag * interval:.4g} ps"
    found.append(Distance("tica_w2", "TICA-W2", "", words, **known))
    return tuple(found)


def transported_torsions(domain: Product) -> list[int]:
    """The columns of all phi and psi; without any, of all slow torsions."""
    circles = domain.indices(Circle)
    backbone = [i for i in circles if domain.names[i].startswith(("phi", "psi"))]
    return backbone or [i for i in circles if is_slow(domain.names[i])]


def mean_over_parts(values: Sequence[float], points: int, ring: bool = False) -> Estimate:
    r"""The mean of a distance over N parts of so many points each.

    .. math:: \delta^2 = \left( \frac{t}{2} \right)^2 \frac{s^2}{N}, \qquad
              \delta^2 = \left( \frac{t}{2} \right)^2 \frac{2 (N - 1)}{N - 2} \frac{s^2}{N} \; \text{in a ring}

    with the standard deviation s of the values and Student's t of N - 1, in a ring of N - 2, degrees of freedom.

    Args:
        values: One value for each of several disjoint parts.
        points: In each part.
        ring: Whether each value is of a part and the next one, in a ring. Values that share a part have a correlation
            of 1/2 at most, which is what the error takes.
    """
    n = len(values)
    found = Estimate(float(np.mean(values)), math.nan, n * points)
    if n < 2:
        return found.because("no error: one comparison")
    inflation = 2 * (n - 1) / (n - 2) if ring else 1.0
    spread = float(np.std(values, ddof=1)) * math.sqrt(inflation / n)
    return replace(found, error=student(n - 2 if ring else n - 1) / 2 * spread)


def frames_apart(times: Float[ndarray, "n"] | None, replica: Int[ndarray, "n"] | None) -> tuple[int, float]:
    """The lag of time-lagged components in frames, and the interval between frames, ps.

    Args:
        times: Times of the frames, ps; increasing for each walker.
        replica: The walker of each frame; one walker if there is none.

    Raises:
        ConfigurationError: If the frames have no times or are not evenly spaced, or if the walkers are too short.
    """
    if times is None:
        raise ConfigurationError("the frames have no times")
    walker_of = np.zeros(len(times), dtype=int) if replica is None else replica
    walkers = [times[walker_of == walker] for walker in np.unique(walker_of)]
    steps = np.concatenate([np.diff(walker) for walker in walkers])
    interval = float(np.median(steps)) if len(steps) else math.nan
    if not (interval > 0 and float(np.abs(steps - interval).max()) <= EVENNESS * interval):
        raise ConfigurationError("the frames of a walker are not evenly spaced in time")
    lag = max(1, round(LAG / interval))
    n_pairs = sum(max(0, len(walker) - lag) for walker in walkers)
    if n_pairs < FEWEST_PAIRS:
        raise ConfigurationError(f"only {n_pairs} pairs of frames are {lag * interval:.4g} ps apart")
    return lag, interval


def _apart_by_bins(first: Float[ndarray, "n 2"], second: Float[ndarray, "n 2"]) -> float:
    """The total variation distance of two sets of pairs of torsions."""
    return total_variation(*(torsion_histogram(*torch.from_numpy(x).T) for x in (first, second)))
