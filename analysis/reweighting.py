r"""Reweighting: from draws of one distribution to averages over another.

All functions take log-weights :math:`\log w_i = -u(x_i) - \log q(x_i)` of draws :math:`x_i \sim q`, where u is the
target's energy in kT and q is normalized. A weight of zero is a log-weight of minus infinity. Computed in float64.
Errors are those of the delta method: of the mean of each draw's influence. Where these have a heavy tail, or one of
them decides, no error has a basis, and none is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import ConfigurationError
from .estimates import RELIABLE_K, Blocks, Estimate, pareto_k, tail_reason, wilson

CLIPPED_FRACTION = 0.001
"""The share of draws whose weights `clipped_ess_fraction` lowers."""

LARGEST_WEIGHT = 0.1
"""The share of all weight above which a single draw makes errors meaningless."""

FEWEST_HITS = 10.0
"""Draws of equal weight that a rare region must be worth for its population to have an error."""

SMALLEST_OVERLAP = 0.03
"""Overlap of draws of sampler and target below which a free energy between them has no basis.

Reference: Klimovich, Shirts, Mobley, J. Comput. Aided Mol. Des. 29, 397 (2015).
"""


def _weights(log_weights: Float[Tensor, "n"], fewest: int = 2) -> Float[Tensor, "n"]:
    """Weights divided by the largest one."""
    log_weights = log_weights.detach().double().cpu()
    if log_weights.ndim != 1 or len(log_weights) < fewest:
        least = "two draws" if fewest == 2 else "one draw"
        raise ConfigurationError(
            f"Reweighting needs one log-weight for each of at least {least}; got shape {tuple(log_weights.shape)}."
        )
    wrong = log_weights.isnan() | (log_weights == math.inf)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise ConfigurationError(
            f"Log-weight {i} is {float(log_weights[i])}; leave out draws without a density or an energy, or give "
            "them a log-weight of minus infinity."
        )
    largest = log_weights.max()
    if largest == -math.inf:
        raise ConfigurationError("Every weight is zero: none of the draws is possible under the target.")
    return (log_weights - largest).exp()


def _from_influence(value: float, influence: Float[Tensor, "n"]) -> Estimate:
    """A statistic with its standard error, from the influence of each draw on it."""
    n = len(influence)
    return Estimate(value, float(influence.std()) / math.sqrt(n), n).because(tail_reason(influence))


@dataclass(frozen=True)
class WeightTail:
    """Whether a few weights decide.

    Attributes:
        largest_share: Share of all weight that the largest one has.
        pareto_k: Shape of the weights' tail, see `pareto_k`.
    """

    largest_share: float
    pareto_k: float

    @property
    def reason(self) -> str:
        """Why no error by these weights has a basis; empty if errors have one."""
        if self.largest_share > LARGEST_WEIGHT:
            return f"the largest weight carries {100 * self.largest_share:.0f} %: errors are not reliable"
        if self.pareto_k > RELIABLE_K:
            return f"the weights have a heavy tail (Pareto k {self.pareto_k:.2f}): errors are not reliable"
        return ""


def weight_tail(log_weights: Float[Tensor, "n"]) -> WeightTail:
    """The share of the largest weight, and the Pareto k of the weights."""
    w = _weights(log_weights)
    return WeightTail(float(1 / w.sum()), pareto_k(w))


def ess_fraction(log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""Kish's effective sample size as a fraction of the number of draws, raw.

    .. math:: \frac{(\sum_i w_i)^2}{n \sum_i w_i^2}

    Its error needs fourth moments of the weights: where their squares have a heavy tail it has none, and the number can
    only fall as more are drawn. Draws that happen to lack the largest weights show neither: the interval therefore
    reaches further down, by the change that one more draw of 1.5 times the largest weight would make, which is where a
    Pareto tail of shape 1/3 continues on average.

    Reference: Kish, Survey Sampling, Wiley 1965.
    """
    w = _weights(log_weights)
    mean, square = w.mean(), (w**2).mean()
    value = mean**2 / square

    def influence(weight: Tensor) -> Tensor:
        return 2 * mean / square * (weight - mean) - value / square * (weight**2 - square)

    seen = _from_influence(float(value), influence(w))
    if not seen.reliable:
        return seen
    unseen = float(influence(1.5 * w.max())) / len(w)
    return replace(seen, interval=(seen.value - 2 * math.hypot(seen.error, unseen), seen.value + 2 * seen.error))


def clipped_ess_fraction(log_weights: Float[Tensor, "n"], fraction: float = CLIPPED_FRACTION) -> Estimate:
    """Kish's fraction after the largest weights are lowered to the smallest among them: not the raw efficiency.

    It shows how much of a low raw value is owed to a few draws, and flatters the sampler.

    Args:
        log_weights: Log weights of draws of the sampler.
        fraction: Share of the draws (at least one) whose weights are lowered.
    """
    if not 0 < fraction < 1:
        raise ConfigurationError(f"The fraction of clipped weights must lie between 0 and 1; it is {fraction}.")
    n_clipped = max(2, math.ceil(fraction * len(log_weights)))
    bound = log_weights.topk(min(n_clipped, len(log_weights))).values[-1]
    return ess_fraction(log_weights.clamp(max=bound))


def log_z(log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""The logarithm of the target's partition function by importance weights.

    .. math:: \log Z = \log \int e^{-u(x)} dx \approx \log \frac 1n \sum_i w_i
    """
    w = _weights(log_weights)
    mean = w.mean()
    value = float(mean.log() + log_weights.detach().double().max())
    return _from_influence(value, w / mean)


def weighted_mean(values: Float[Tensor, "n"], log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""The average of an observable over the target.

    .. math:: \langle f \rangle \approx \frac{\sum_i w_i f(x_i)}{\sum_i w_i}

    Draws of weight zero do not count, whatever their value.
    """
    w = _weights(log_weights)
    values = torch.where(w > 0, values.detach().double().cpu(), 0.0)
    mean = (w * values).sum() / w.sum()
    return _from_influence(float(mean), w * (values - mean) / w.mean())


def weighted_variance(values: Float[Tensor, "n"], log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""The variance of an observable over the target.

    .. math:: \mathrm{var} f \approx \frac{\sum_i w_i (f(x_i) - \bar f)^2}{\sum_i w_i}

    That of the energy in kT is the heat capacity of the configurations in units of k.
    """
    w = _weights(log_weights)
    values = torch.where(w > 0, values.detach().double().cpu(), 0.0)
    squares = (values - (w * values).sum() / w.sum()) ** 2
    variance = (w * squares).sum() / w.sum()
    return _from_influence(float(variance), w * (squares - variance) / w.mean())


def entropy(energy: Float[Tensor, "n"], log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""The differential entropy of the target, in units of k.

    .. math:: -\int p \log p\,dx = \langle u \rangle + \log Z

    What the mean energy and log Z have in common cancels in its error.

    Args:
        energy: u at draws of the sampler, kT.
        log_weights: Their log weights.
    """
    w = _weights(log_weights)
    mean = weighted_mean(energy, log_weights).value
    deviations = torch.where(w > 0, energy.detach().double().cpu() - mean, 0.0)
    return _from_influence(mean + log_z(log_weights).value, w * (deviations + 1) / w.mean())


def weighted_fraction(flags: Bool[Tensor, "n"], log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""The share of the target's weight in a region.

    .. math:: p = \frac{\sum_{i \in A} w_i}{\sum_i w_i}

    The interval is `wilson`'s for :math:`p (1 - p) / \delta^2` draws, :math:`\delta` from the delta method. A region
    without draws has no number, since weights say nothing of what the sampler does not visit; one that is worth fewer
    than `FEWEST_HITS` draws of equal weight has no error.
    """
    w = _weights(log_weights)
    flags = flags.cpu()
    n = len(w)
    hits = min(kish(w[flags]), kish(w[~flags]))
    p = float(w[flags].sum() / w.sum())
    error = float((w * (flags.double() - p)).std() / w.mean()) / math.sqrt(n)
    found = Estimate(p, error, n)
    if hits == 0:
        return found.withheld(f"{'none' if p == 0 else 'all'} of {n} samples: not known")
    if hits < FEWEST_HITS:
        return found.because(f"no error: seen by {hits:.1f} effective samples")
    return replace(found, interval=wilson(p, min(p * (1 - p) / error**2, n)))


def kish(w: Float[Tensor, "n"]) -> float:
    """The number of draws of equal weight that the weights are worth."""
    return float(w.sum() ** 2 / (w**2).sum()) if bool((w > 0).any()) else 0.0


def free_energy_difference(
    in_first: Bool[Tensor, "n"],
    in_second: Bool[Tensor, "n"],
    log_weights: Float[Tensor, "n"] | None = None,
    blocks: Blocks | None = None,
) -> Estimate:
    r"""The free energy of a first region of configurations less that of a second one, in kT.

    .. math:: \Delta F / kT = -\log \frac{\sum_{i \in A} w_i}{\sum_{i \in B} w_i}

    Where a region has no weight, there is no number.

    Args:
        in_first: Which draws are in the first region.
        in_second: Which are in the second one.
        log_weights: Log weights of independent draws; without them the draws are the target's own, in order of time.
        blocks: Blocks of the target's own draws.
    """
    w = torch.ones(len(in_first), dtype=torch.float64) if log_weights is None else _weights(log_weights)
    first, second = w * in_first.cpu(), w * in_second.cpu()
    value = float(second.mean().log() - first.mean().log())
    if not math.isfinite(value):
        return Estimate(value, math.nan, len(w)).withheld("no configuration is in one of the regions")
    influence = first / first.mean() - second / second.mean()
    if log_weights is None:
        reason = blocks.reason if blocks is not None else "no error: how correlated the frames are is not known"
        error = math.nan if blocks is None else blocks.error(influence)
        return Estimate(value, error, len(w)).because(reason)
    hits = min(kish(first), kish(second))
    reason = f"no error: seen by {hits:.1f} effective samples" if hits < FEWEST_HITS else ""
    return _from_influence(value, influence).because(reason)


def level_difference(log_weights: Float[Tensor, "n"], other_log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""The free energy of one target less that of another one, in kT, by weights of the same independent draws.

    .. math:: \Delta F / kT = -\log \frac{\sum_i w_i}{\sum_i w'_i}

    What both weights have in common cancels in its error. There is none where a few weights of either decide.

    Args:
        log_weights: Log weights of the first target.
        other_log_weights: Those of the other one, to the same density.
    """
    ours, theirs = _weights(log_weights), _weights(other_log_weights)
    value = log_z(other_log_weights).value - log_z(log_weights).value
    reason = weight_tail(log_weights).reason or weight_tail(other_log_weights).reason
    return _from_influence(value, theirs / theirs.mean() - ours / ours.mean()).because(reason)


def level_shift(
    in_first: Bool[Tensor, "n"],
    in_second: Bool[Tensor, "n"],
    log_weights: Float[Tensor, "n"],
    other_log_weights: Float[Tensor, "n"],
) -> Estimate:
    r"""By how much the free energy of a first region above a second one is higher for one target than for another, kT.

    .. math:: \Delta\Delta F = \Delta F - \Delta F'

    with `free_energy_difference` of each, from the same draws: what both have in common cancels in the error.

    Args:
        in_first: Which draws are in the first region.
        in_second: Which are in the second one.
        log_weights: Log weights of the one target.
        other_log_weights: Those of the other one.
    """
    both = [free_energy_difference(in_first, in_second, each) for each in (log_weights, other_log_weights)]
    value = both[0].value - both[1].value
    unknown = next((each.reason for each in both if math.isnan(each.value)), "")
    if unknown:
        return Estimate(value, math.nan, len(log_weights)).withheld(unknown)
    influence = torch.zeros(len(log_weights), dtype=torch.float64)
    for sign, each in ((1, log_weights), (-1, other_log_weights)):
        w = _weights(each)
        first, second = w * in_first.cpu(), w * in_second.cpu()
        influence += sign * (first / first.mean() - second / second.mean())
    return _from_influence(value, influence).because(both[0].reason or both[1].reason)


@dataclass(frozen=True)
class Partition:
    r"""The logarithm of the target's partition function, with the influence of every draw on it.

    Attributes:
        log_z: The estimate.
        samples: Influence of each draw of the sampler; their mean is zero, and their mean over new draws is the error.
        frames: Influence of each draw of the target.
        overlap: Overlap of draws of both, between 0 and 1; nan where one kind is not used.
    """

    log_z: Estimate
    samples: Float[Tensor, "n"]
    frames: Float[Tensor, "m"]
    overlap: float


def importance(log_weights: Float[Tensor, "n"], n_frames: int) -> Partition:
    """As `log_z`, in which frames of the target have no part."""
    w = _weights(log_weights)
    return Partition(log_z(log_weights), w / w.mean() - 1, torch.zeros(n_frames, dtype=torch.float64), math.nan)


def bennett(log_weights: Float[Tensor, "n"], target_log_weights: Float[Tensor, "m"], blocks: Blocks) -> Partition:
    r"""The logarithm of the target's partition function from draws of both, by Bennett's acceptance ratio.

    .. math:: \sum_{x \sim q} \sigma(l(x) - \log Z) = \frac{m_e}{m} \sum_{x \sim p} \sigma(\log Z - l(x)),
              \qquad l(x) = \log w(x) + \log (m_e / n)

    It has the smallest variance that draws of both allow, where frames count as the :math:`m_e` independent ones that
    they are worth: correlated frames would otherwise outvote the samples. It needs that the two overlap,

    .. math:: O = \left( \frac 1n + \frac 1{m_e} \right) \left( \sum_{x \sim q} \sigma (1 - \sigma) +
              \frac{m_e}{m} \sum_{x \sim p} \sigma (1 - \sigma) \right) ,

    which is 1 less the second eigenvalue of the overlap matrix; below `SMALLEST_OVERLAP` there is no number.

    Args:
        log_weights: Log weights of n independent draws of the sampler q.
        target_log_weights: The same function of m draws of the target p, in order of time.
        blocks: Blocks of the draws of the target, for their error and their number.

    References: Bennett, J. Comput. Phys. 22, 245 (1976); Klimovich, Shirts, Mobley, J. Comput. Aided Mol. Des. 29, 397
    (2015) for the overlap.
    """
    _weights(log_weights)
    _weights(target_log_weights)
    n, m = len(log_weights), len(target_log_weights)
    m_effective = min(blocks.n_effective, m)
    shift = math.log(m_effective / n)
    ours, theirs = log_weights.detach().double().cpu() + shift, target_log_weights.detach().double().cpu() + shift
    impossible = ~theirs.isfinite()
    if bool(impossible.any()):
        raise ConfigurationError(
            f"{int(impossible.sum())} of {m} draws of the target have weight zero, which their own existence "
            "contradicts. Check that they belong to this target."
        )
    share = m_effective / m
    # the difference of the two sides falls with log Z from n to -m: bisect between the extremes
    both = torch.cat([ours[ours.isfinite()], theirs])
    lower, upper = float(both.min()) - math.log(n + m) - 1, float(both.max()) + math.log(n + m) + 1
    while True:
        middle = 0.5 * (lower + upper)
        if middle in (lower, upper):
            break
        if torch.sigmoid(ours - middle).sum() > share * torch.sigmoid(middle - theirs).sum():
            lower = middle
        else:
            upper = middle
    accepted, returned = torch.sigmoid(ours - middle), torch.sigmoid(middle - theirs)
    stiffness = float((accepted * (1 - accepted)).sum() + share * (returned * (1 - returned)).sum())
    overlap = stiffness * (1 / n + 1 / m_effective)
    reached = min(kish(accepted), m_effective / m * kish(returned))
    if overlap < SMALLEST_OVERLAP or reached < 1:
        nothing = torch.full((n + m,), math.nan, dtype=torch.float64)
        reason = f"frames and samples hardly overlap ({100 * overlap:.2g} %): not known"
        return Partition(Estimate(middle, math.nan, n + m).withheld(reason), nothing[:n], nothing[n:], overlap)
    samples, frames = accepted / accepted.mean() - 1, 1 - returned / returned.mean()
    log_z = Estimate(middle, error_of_both(samples, frames, blocks), n + m).because(blocks.reason)
    return Partition(log_z, samples, frames, overlap)


def error_of_both(samples: Float[Tensor, "n"], frames: Float[Tensor, "m"], blocks: Blocks) -> float:
    """Standard error of a statistic, from the influences of independent samples and of frames in blocks."""
    drawn = float(samples.std()) / math.sqrt(len(samples))
    # frames that have no part in it need no blocks
    return math.hypot(drawn, blocks.error(frames)) if bool((frames != 0).any()) else drawn


def metropolis_chain(log_weights: Float[Tensor, "n"], generator: torch.Generator) -> Int[Tensor, "n"]:
    r"""The Metropolis chain whose proposals are the draws, in order: at each step the index of the state it is in.

    .. math:: P(i \to j) = \min(1, w_j / w_i)

    It samples the target exactly in the long run. The acceptance rate is the fraction of steps that change the index.

    Args:
        log_weights: Log weights of the proposals; the first one is the start.
        generator: Generator of the decisions.
    """
    _weights(log_weights)
    values = log_weights.detach().double().cpu().tolist()
    thresholds = torch.rand(len(values), generator=generator, dtype=torch.float64, device=generator.device)
    current, states = 0, []
    for i, threshold in enumerate(thresholds.log().tolist()):
        # from an impossible start every proposal is taken
        if values[current] == -math.inf or threshold <= values[i] - values[current]:
            current = i
        states.append(current)
    return torch.tensor(states)


def systematic_resample(log_weights: Float[Tensor, "n"], n: int, generator: torch.Generator) -> Int[Tensor, "n_drawn"]:
    r"""Indices of draws of equal weight: n of them, each draw :math:`n w_i / \sum w` times, rounded up or down.

    .. math:: i_k = \min \left\{ i : \sum_{j \le i} w_j > \tfrac{k + u}{n} \sum_j w_j \right\}, \qquad
              k = 0 \dots n - 1, \qquad u \sim \mathcal U(0, 1)

    Args:
        log_weights: Log weights of draws of the sampler.
        n: How many to draw.
        generator: Generator of u.

    Reference: Kitagawa, J. Comput. Graph. Stat. 5, 1 (1996); Douc, Cappé, Moulines, ISPA 2005, arXiv cs/0507025.
    """
    w = _weights(log_weights, fewest=1)
    summed = w.cumsum(0)
    u = torch.rand((), generator=generator, dtype=torch.float64, device=generator.device).cpu()
    places = (torch.arange(n, dtype=torch.float64) + u) / n * summed[-1]
    # rounding may carry the last place to the end, where a weight of zero may be
    return torch.searchsorted(summed, places, right=True).clamp(max=int((w > 0).nonzero().max()))
