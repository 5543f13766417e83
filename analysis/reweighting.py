r"""Reweighting: from draws of one distribution to averages over another.

All functions take log-weights :math:`\log w_i = -u(x_i) - \log q(x_i)` of draws :math:`x_i \sim q`, where u is the
target's energy in kT and q is normalized. A weight of zero is a log-weight of minus infinity. Computed in float64.
Errors are those of the delta method; where few weights dominate, they are too small as well.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import ConfigurationError
from .estimates import Estimate, mean_of_independent, mean_of_series

CLIPPED_FRACTION = 0.001
"""The share of draws whose weights `clipped_ess_fraction` lowers."""


def _weights(log_weights: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Weights divided by the largest one."""
    log_weights = log_weights.detach().double().cpu()
    if log_weights.ndim != 1 or len(log_weights) < 2:
        raise ConfigurationError(
            f"Reweighting needs one log-weight for each of at least two draws; got shape {tuple(log_weights.shape)}."
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


def _delta_error(influence: Float[Tensor, "n"]) -> float:
    """Standard error of a statistic from the influence of each draw on it."""
    return float(influence.std()) / math.sqrt(len(influence))


def ess_fraction(log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""Kish's effective sample size as a fraction of the number of draws, raw.

    .. math:: \frac{(\sum_i w_i)^2}{n \sum_i w_i^2}

    Reference: Kish, Survey Sampling, Wiley 1965.
    """
    w = _weights(log_weights)
    mean, square = w.mean(), (w**2).mean()
    value = mean**2 / square
    influence = 2 * mean / square * (w - mean) - value / square * (w**2 - square)
    return Estimate(float(value), _delta_error(influence), len(w))


def clipped_ess_fraction(log_weights: Float[Tensor, "n"], fraction: float = CLIPPED_FRACTION) -> Estimate:
    """Kish's fraction after the largest weights are lowered to the smallest among them: not the raw efficiency.

    It shows how much of a low raw value is owed to a few draws, and flatters the sampler.

    Args:
        log_weights: Of draws of the sampler.
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
    return Estimate(value, _delta_error(w / mean), len(w))


def weighted_mean(values: Float[Tensor, "n"], log_weights: Float[Tensor, "n"]) -> Estimate:
    r"""The average of an observable over the target.

    .. math:: \langle f \rangle \approx \frac{\sum_i w_i f(x_i)}{\sum_i w_i}

    Draws of weight zero do not count, whatever their value.
    """
    w = _weights(log_weights)
    values = torch.where(w > 0, values.detach().double().cpu(), 0.0)
    mean = (w * values).sum() / w.sum()
    return Estimate(float(mean), _delta_error(w * (values - mean) / w.mean()), len(w))


def free_energy_difference(
    in_first: Bool[Tensor, "n"], in_second: Bool[Tensor, "n"], log_weights: Float[Tensor, "n"] | None = None
) -> Estimate:
    r"""The free energy of a first region of configurations less that of a second one, in kT.

    .. math:: \Delta F / kT = -\log \frac{\sum_{i \in A} w_i}{\sum_{i \in B} w_i}

    It is infinite where a region has no weight.

    Args:
        in_first: Which draws are in the first region.
        in_second: Which are in the second one.
        log_weights: Of independent draws; without them the draws are the target's own, in order of time.
    """
    w = torch.ones(len(in_first), dtype=torch.float64) if log_weights is None else _weights(log_weights)
    first, second = w * in_first.cpu(), w * in_second.cpu()
    value = float(second.mean().log() - first.mean().log())
    if not math.isfinite(value):
        return Estimate(value, math.nan, len(w))
    influence = first / first.mean() - second / second.mean()
    error = mean_of_series(influence).error if log_weights is None else _delta_error(influence)
    return Estimate(value, error, len(w))


def log_z_bar(log_weights: Float[Tensor, "n"], target_log_weights: Float[Tensor, "m"]) -> Estimate:
    r"""The logarithm of the target's partition function from draws of both, by Bennett's acceptance ratio.

    .. math:: \sum_{x \sim q} \sigma(l(x) - \log Z) = \sum_{x \sim p} \sigma(\log Z - l(x)), \qquad
              l(x) = \log w(x) + \log (m / n)

    It has the smallest variance that draws of both allow, and needs only that they overlap.

    Args:
        log_weights: Of n independent draws of the sampler q.
        target_log_weights: The same function of m draws of the target p, in order of time; their error is that of
            `mean_of_series`.

    Reference: Bennett, J. Comput. Phys. 22, 245 (1976); error of eq. (10a).
    """
    _weights(log_weights)
    _weights(target_log_weights)
    n, m = len(log_weights), len(target_log_weights)
    ours = log_weights.detach().double().cpu() + math.log(m / n)
    theirs = target_log_weights.detach().double().cpu() + math.log(m / n)
    impossible = ~theirs.isfinite()
    if bool(impossible.any()):
        raise ConfigurationError(
            f"{int(impossible.sum())} of {m} draws of the target have weight zero, which their own existence "
            "contradicts. Check that they belong to this target."
        )
    # the difference of the two sides falls with log Z from n to -m: bisect between the extremes
    both = torch.cat([ours[ours.isfinite()], theirs])
    lower, upper = float(both.min()) - math.log(n + m) - 1, float(both.max()) + math.log(n + m) + 1
    while True:
        middle = 0.5 * (lower + upper)
        if middle in (lower, upper):
            break
        if torch.sigmoid(ours - middle).sum() > torch.sigmoid(middle - theirs).sum():
            lower = middle
        else:
            upper = middle
    accepted = mean_of_independent(torch.sigmoid(ours - middle))
    returned = mean_of_series(torch.sigmoid(middle - theirs))
    error = math.hypot(accepted.error / accepted.value, returned.error / returned.value)
    return Estimate(middle, error, n + m)


def metropolis_chain(log_weights: Float[Tensor, "n"], generator: torch.Generator) -> Int[Tensor, "n"]:
    r"""The Metropolis chain whose proposals are the draws, in order: at each step the index of the state it is in.

    .. math:: P(i \to j) = \min(1, w_j / w_i)

    It samples the target exactly in the long run. The acceptance rate is the fraction of steps that change the index.

    Args:
        log_weights: Of the proposals; the first one is the start.
        generator: Of the decisions.
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
