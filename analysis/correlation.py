"""Correlations in a series of frames: its memory, the mixing of its walkers, and independent blocks of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from numpy import ndarray
from torch import Tensor

from ..coordinates.internal import InternalCoordinates, is_slow
from ..core.manifolds import FULL_TURN, Circle, Product
from ..molecules.frames import Frames
from .estimates import FEWEST_BLOCKS, Blocks, Estimate, mean_of_series, plain

BLOCK_MEMORIES = 5
"""Length of a block in units of the memory of the frames: errors are then too small by at most 5 %."""

MOST_BLOCKS = 64
"""Largest number of blocks: errors are then known to 9 %, and more blocks do not improve them."""

LARGEST_COPIED = 0.1
"""Share of repeated frames above which no errors are given, since these take all frames for different ones."""

FEWEST_TRANSITIONS = 20
"""Fewest transitions of a single walker that show how long it stays in its wells."""

FEWEST_IN_WELL = 10
"""Fewest frames at the peak of a well; fewer may be stragglers of another well."""

N_DEGREES = 360
"""Grid points of the density of a torsion, in which wells are searched for."""


def statistical_inefficiency(series: Complex[ndarray, "n"], replica: Int[ndarray, "n"] | None = None) -> float:
    r"""How many successive values are worth one independent value.

    .. math:: g = 1 + 2 \sum_{t \ge 1} \left(1 - \tfrac tn\right) \rho(t)

    with the normalized autocorrelation :math:`\rho` of all walkers about their common mean, summed until pairs of its
    values stop being positive. Walkers that stay where they are differ from the common mean, and are worth one value
    each.

    Args:
        series: Values in order of time; complex numbers :math:`e^{i \phi}` for an angle.
        replica: The walker of each value; one walker if there is none.

    Reference: Geyer, Practical Markov Chain Monte Carlo, Statistical Science 7, 473 (1992), section 3.3; Vehtari et
    al., Bayesian Analysis 16, 667 (2021), section 3.2, for several walkers.
    """
    deviations = series - series.mean()
    walkers = [deviations] if replica is None else [deviations[replica == walker] for walker in np.unique(replica)]
    longest = max(len(walker) for walker in walkers)
    total = float(np.sum(np.abs(deviations) ** 2))
    if total == 0.0:
        return float(longest)
    correlation = np.zeros(longest)
    for walker in walkers:
        spectrum = np.fft.fft(walker, 2 * len(walker))
        # the sum over pairs of a walker holds the factor 1 - t/n already
        correlation[: len(walker)] += np.fft.ifft(np.abs(spectrum) ** 2)[: len(walker)].real / total
    inefficiency = -1.0
    for t in range(0, longest - 1, 2):
        pair = float(correlation[t] + correlation[t + 1])
        if pair <= 0:
            break
        inefficiency += 2 * pair
    return min(max(1.0, inefficiency), float(longest))


def blocks_of(series: Sequence[Complex[ndarray, "n"]], replica: Int[ndarray, "n"] | None = None) -> Blocks:
    """Blocks of frames that outlast the memory of every series; a walker that does not is one block.

    Args:
        series: Observables of the frames in order of time, the slow ones among them; real ones are complex numbers too.
        replica: The walker of each frame; one walker if there is none.
    """
    n = len(series[0])
    walker_of = np.zeros(n, dtype=int) if replica is None else np.unique(replica, return_inverse=True)[1]
    # a constant has no memory to outlast
    moving = [values for values in series if np.ptp(np.abs(values - values[0])) > 0]
    memory = max((statistical_inefficiency(values, walker_of) for values in moving), default=1.0)
    # the number of blocks is shared out among walkers of any length
    length = max(BLOCK_MEMORIES * memory, n / MOST_BLOCKS)
    index = np.empty(n, dtype=np.int64)
    n_blocks = 0
    for walker in range(int(walker_of.max()) + 1):
        mine = np.flatnonzero(walker_of == walker)
        parts = np.array_split(mine, max(1, int(len(mine) / length)))
        for part in parts:
            index[part] = n_blocks
            n_blocks += 1
    n_walkers = int(walker_of.max()) + 1
    reason = ""
    if n_blocks < FEWEST_BLOCKS:
        of = "one walker" if n_walkers == 1 else f"{n_walkers} walkers"
        reason = f"no error: {n} frames of {of} are worth {n / memory:.1f} independent ones"
    return Blocks(torch.from_numpy(index), n / memory, reason)


def mean_of_time_series(values: Float[Tensor, "n"]) -> Estimate:
    """The mean of one series in order of time; its error is that of blocks that outlast its memory."""
    return mean_of_series(values, blocks_of([values.double().numpy().astype(complex)]))


def r_hat(series: Complex[ndarray, "n"], replica: Int[ndarray, "n"]) -> float:
    r"""The potential scale reduction of walkers, each cut into halves.

    .. math:: \hat R = \sqrt{\frac{n - 1}{n} + \frac{B}{n W}}

    with the variances :math:`B / n` of the halves' means and W within them: 1 for walkers that cannot be told apart,
    and infinite for walkers that do not move.

    Reference: Gelman, Rubin, Statistical Science 7, 457 (1992); split as in Vehtari et al., Bayesian Analysis 16, 667
    (2021).
    """
    halves = [half for walker in np.unique(replica) for half in np.array_split(series[replica == walker], 2)]
    halves = [half for half in halves if len(half) > 1]
    if len(halves) < 2:
        return math.nan
    means = np.array([half.mean() for half in halves])
    within = float(np.mean([np.sum(np.abs(h - h.mean()) ** 2) / (len(h) - 1) for h in halves]))
    between = float(np.sum(np.abs(means - means.mean()) ** 2)) / (len(means) - 1)
    n = float(np.mean([len(half) for half in halves]))
    if within == 0:
        return 1.0 if between == 0 else math.inf
    return math.sqrt((n - 1) / n + between / within)


def wells(angles: Float[ndarray, "n"], kappa: float = 20.0) -> Float[ndarray, "degrees"]:
    """For each degree of a torsion, the number of the well whose core it is in; -1 between wells.

    Wells are the peaks of a smooth density, of ten frames or more, with less than 1/e of the smaller one between them;
    the core of one is where the density is above the geometric mean of its peak and of the pass to the next well.

    Args:
        angles: Radians.
        kappa: Concentration of the kernel, 13 degrees wide.
    """
    grid = 2 * math.pi / N_DEGREES
    counts = np.bincount((angles % (2 * math.pi) / grid).astype(int) % N_DEGREES, minlength=N_DEGREES)
    kernel = np.exp(kappa * (np.cos(grid * np.arange(N_DEGREES)) - 1))
    density = np.fft.irfft(np.fft.rfft(counts) * np.fft.rfft(kernel), N_DEGREES)
    # in frames; less than a thousandth is rounding of the transforms
    density = np.maximum(density, 1e-3)
    # peaks from the highest down; one is a well of its own if every way to a higher well has a pass
    peaks = [i for i in range(N_DEGREES) if density[i] >= density[i - 1] and density[i] > density[(i + 1) % N_DEGREES]]
    found: list[int] = []
    for peak in sorted(peaks, key=lambda i: -density[i]):
        lowest = density[peak] / math.e
        if density[peak] >= FEWEST_IN_WELL and all(_pass(density, peak, other) < lowest for other in found):
            found.append(peak)
    core = np.full(N_DEGREES, -1)
    for number, peak in enumerate(found):
        barrier = max((_pass(density, peak, other) for other in found if other != peak), default=0.0)
        limit = math.sqrt(barrier * density[peak])
        for step in (1, -1):
            at = peak
            while density[at] >= limit and core[at] in (-1, number):
                core[at] = number
                at = (at + step) % N_DEGREES
                if at == peak:
                    break
    return core


def _pass(density: Float[ndarray, "degrees"], first: int, second: int) -> float:
    """The higher of the two lowest densities on the two ways around the circle from one peak to another."""
    low, high = sorted((first, second))
    return max(float(density[low : high + 1].min()), float(np.roll(density, -high)[: N_DEGREES - high + low + 1].min()))


@dataclass(frozen=True)
class SlowTorsion:
    """How well walkers sample a torsion that has several wells, or turns far from its mean.

    Attributes:
        independent: Independent frames that all frames are worth.
        r_hat: R-hat of the walkers' halves; above about 1.1 they disagree.
        transitions: From one well to another, of each walker.
        n_wells: Wells that all walkers together visit.
    """

    independent: float
    r_hat: float
    transitions: tuple[int, ...]
    n_wells: int

    @property
    def stayed(self) -> bool:
        """Whether there are several wells, and no walker ever left its own."""
        return self.n_wells > 1 and not any(self.transitions)

    def __str__(self) -> str:
        hops = ", ".join(map(str, self.transitions[:8])) + (", ..." if len(self.transitions) > 8 else "")
        return f"{self.independent:.0f} independent frames; transitions {hops}; R-hat {self.r_hat:.2f}"


@dataclass(frozen=True)
class Mixing:
    """How well frames of molecular dynamics sample the slow torsions.

    Attributes:
        n_walkers: Independent walkers.
        torsions: The slow torsions, by name.
        blocks: Blocks of the frames, for errors.
    """

    n_walkers: int
    torsions: Mapping[str, SlowTorsion]
    blocks: Blocks

    @property
    def reasons(self) -> tuple[str, ...]:
        """What is wrong with the frames, in words; empty if nothing is."""
        found = [self.blocks.reason.removeprefix("no error: ")] if self.blocks.reason else []
        stayed = [name for name, torsion in self.torsions.items() if torsion.stayed]
        if stayed:
            found.append(f"walkers never left one well: {', '.join(stayed)}")
        apart = [n for n, torsion in self.torsions.items() if torsion.r_hat > 1.2 and n not in stayed]
        if apart and self.n_walkers > 1:
            found.append(f"walkers disagree: R-hat {max(self.torsions[n].r_hat for n in apart):.2f} of {apart[0]}")
        return tuple(found)

    def rows(self) -> list[tuple[str, str]]:
        """What is known of each slow torsion, as a table."""
        return [(f"frames by {name}", str(torsion)) for name, torsion in self.torsions.items()]

    def to_dict(self) -> dict[str, Any]:
        """The numbers in plain JSON types."""
        return {
            "walkers": self.n_walkers,
            "independent_frames": plain(self.blocks.n_effective),
            "torsions": {
                name: {
                    "independent_frames": plain(torsion.independent),
                    "r_hat": plain(torsion.r_hat),
                    "transitions": list(torsion.transitions),
                    "wells": torsion.n_wells,
                }
                for name, torsion in self.torsions.items()
            },
        }


def mixing(
    internal: Float[Tensor, "n dim"],
    domain: Product,
    replica: Int[ndarray, "n"] | None = None,
    others: Sequence[Float[Tensor, "n"]] = (),
) -> Mixing:
    """How well walkers mix, by their wide torsions.

    A torsion is wide if it has several wells, or the data turn it further than 120 degrees away from their mean.
    Blocks outlast the memory of all of these; methyl groups and impropers are not counted among the slow ones.

    Args:
        internal: Internal coordinates in order of time for each walker, nm and radians.
        domain: Their columns.
        replica: The walker of each frame; one walker if there is none.
        others: More observables whose memory the blocks must outlast.
    """
    walker_of = np.zeros(len(internal), dtype=int) if replica is None else np.unique(replica, return_inverse=True)[1]
    n_walkers = int(walker_of.max()) + 1
    q = internal.detach().double().cpu().numpy()
    torsions, series = {}, [values.double().numpy().astype(complex) for values in others]
    slow = [i for i in domain.indices(Circle) if is_slow(domain.names[i])]
    for i in domain.indices(Circle):
        turned = np.exp(1j * q[:, i])
        mean = turned.mean()
        furthest = np.abs(np.angle(turned * np.conj(mean))).max() if abs(mean) > 0 else math.pi
        core = wells(q[:, i]) if i in slow else np.zeros(N_DEGREES, dtype=int)
        if core.max() < 1 and furthest <= 2 * math.pi / 3:
            continue
        series.append(turned)
        if i not in slow:
            continue
        if core.max() < 1:
            # without barriers, what is near the mean and what is opposite to it
            away = np.cos(FULL_TURN * np.arange(N_DEGREES) / N_DEGREES - np.angle(mean))
            core = np.where(away > 0.5, 0, np.where(away < -0.5, 1, -1))
        visited = core[(q[:, i] % FULL_TURN * N_DEGREES / FULL_TURN).astype(int) % N_DEGREES]
        hops = []
        for walker in range(n_walkers):
            path = visited[(walker_of == walker) & (visited >= 0)]
            hops.append(int((np.diff(path) != 0).sum()))
        torsions[domain.names[i]] = SlowTorsion(
            len(turned) / statistical_inefficiency(turned, walker_of),
            r_hat(turned, walker_of),
            tuple(hops),
            len(set(visited[visited >= 0])),
        )
    blocks = blocks_of(series or [np.zeros(len(q), dtype=complex)], walker_of)
    reason = _copied(q) or (_unmoved(n_walkers, torsions) if slow else "")
    return Mixing(n_walkers, torsions, replace(blocks, reason=reason or blocks.reason))


def _copied(q: Float[ndarray, "n dim"]) -> str:
    """Why errors are withheld where many frames repeat others; empty if hardly any do."""
    # equal positions give equal coordinates up to rounding; a Metropolis chain repeats a state only right after it
    rows = np.ascontiguousarray(np.round(q, 9))
    rows = rows[np.r_[True, (rows[1:] != rows[:-1]).any(1)]]
    share = 1 - len({row.tobytes() for row in rows}) / len(rows)
    if share <= LARGEST_COPIED:
        return ""
    return f"no error: {100 * share:.3g} % of the frames are copies of others"


def _unmoved(n_walkers: int, torsions: Mapping[str, SlowTorsion]) -> str:
    """Why frames do not show how long walkers stay in their wells; empty if they do."""
    turns = max((sum(torsion.transitions) for torsion in torsions.values()), default=0)
    if n_walkers == 1 and turns < FEWEST_TRANSITIONS:
        return f"no error: one walker, {f'with {turns} transitions' if turns else 'which never left one well'}"
    if all(torsion.n_wells < 2 for torsion in torsions.values()):
        return f"no error: none of {n_walkers} walkers left the one well that they are in"
    return ""


def mixing_of(frames: Frames) -> Mixing:
    """As `mixing`, of frames in order of time for each replica."""
    coordinates = InternalCoordinates(frames.topology)
    q = coordinates.encode(torch.from_numpy(frames.positions).double())[0]
    return mixing(q, coordinates.codomain, frames.replica)
