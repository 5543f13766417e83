"""Numbers that carry their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import ConfigurationError

RELIABLE_K = 0.7
"""The Pareto k above which the error of a mean has no basis: no affordable number of draws is enough.

Reference: Vehtari et al., J. Mach. Learn. Res. 25, 72 (2024), section 3.2.2.
"""

LARGEST_SHARE = 0.5
"""The share of the sum of squared deviations above which a single draw decides the error of a mean."""

STEEP_K = 1 / 3
"""The Pareto k for quantities that rise steeply where atoms meet: their tail is longer than the draws at hand show."""

STEEP_SHARE = 0.03
"""The share of a single draw for the same."""

TAIL_SHARE = 0.1
"""The fraction of these shares that a single draw must reach for a heavy tail to count: values that crowd at one place
look heavy-tailed as well, though the sum of many decides."""

MOST_ERRORS = 3.0
"""Estimates of one quantity that differ by more than this, in errors of the difference, disagree."""

FEWEST_BLOCKS = 4
"""Fewest blocks of frames that show how much their means vary."""

FEWEST_VISITS = 2.0
"""Fewest visits by independent frames for which a population has an error: a single visit changes a smaller one as
much."""

LOPSIDED = 3.0
"""Errors below the value at which an interval that begins further down is printed in place of the error."""

SLOW = 20
"""A motion is a slow one if it outlasts the memory of the frames divided by this."""


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error, and the number of configurations (or replicas) behind it.

    The value with twice the error on either side is an interval that holds the truth in 95 of 100 repetitions.

    Attributes:
        value: The number; nan where there is no basis for one.
        error: nan where the data do not allow one.
        n: Configurations or replicas.
        reason: Why there is no error, or no number; empty if there is one.
        interval: The 95 % interval, where it is not twice the error on either side.
    """

    value: float
    error: float
    n: int
    reason: str = ""
    interval: tuple[float, float] | None = None

    @property
    def reliable(self) -> bool:
        """Whether the number and its error have a basis."""
        return not self.reason

    def bounds(self) -> tuple[float, float]:
        """The interval of 95 %; nan without an error."""
        return self.interval or (self.value - 2 * self.error, self.value + 2 * self.error)

    def scaled(self, factor: float) -> Estimate:
        """The same in a unit that is smaller by this factor."""
        interval = self.interval and (factor * self.interval[0], factor * self.interval[1])
        return replace(self, value=factor * self.value, error=factor * self.error, interval=interval)

    def because(self, reason: str) -> Estimate:
        """The same without an error, for a reason; itself if there is none."""
        return replace(self, error=math.nan, interval=None, reason=self.reason or reason) if reason else self

    def withheld(self, reason: str) -> Estimate:
        """No number at all, for a reason; itself if there is none."""
        return replace(self.because(reason), value=math.nan) if reason else self

    def text(self, unit: str = "") -> str:
        """The number as it is printed, with a unit behind it."""
        unit = unit and f" {unit}"
        if self.reason:
            return self.reason if math.isnan(self.value) else f"{self.value:.4g}{unit} ({self.reason})"
        if self.interval is not None and self.value < 2 * self.error:
            low, high = self.interval
            if self.value == 0:
                return f"below {high:.2g}{unit}"
            return f"{self.value:.2g} ({low:.2g} to {high:.2g}){unit}"
        if self.interval is not None and self.value - self.interval[0] > LOPSIDED * self.error:
            low, high = self.interval
            return f"{self.value:.4g} ({low:.4g} to {high:.4g}){unit}"
        return format_measured(self.value, self.error) + unit

    def __str__(self) -> str:
        return self.text()


def format_measured(value: float, error: float) -> str:
    """``value ± error``, both to the second digit of the error; without an error, four digits of the value."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    decimals = 1 - math.floor(math.log10(error))
    # rounding may carry into a third digit: 0.0996 is 0.10
    decimals = 1 - math.floor(math.log10(round(error, decimals)))
    largest = max(abs(value), error)
    if largest >= 1e6 or (decimals > 6 and largest < 1e-3):
        exponent = math.floor(math.log10(largest))
        digits = max(decimals + exponent, 0)
        scale = 10.0**exponent
        return f"({value / scale:.{digits}f} ± {error / scale:.{digits}f})e{exponent}"
    return f"{value:.{max(decimals, 0)}f} ± {error:.{max(decimals, 0)}f}"


def percent(fraction: Estimate) -> str:
    """A fraction with its error, in percent."""
    return fraction.scaled(100).text("%")


@dataclass(frozen=True)
class Blocks:
    """Contiguous stretches of frames that are worth independent values: each outlasts the memory of the dynamics.

    Attributes:
        index: For each frame, the number of its block.
        n_effective: Independent frames that all frames are worth, by their slowest motion.
        reason: Why errors by these blocks have no basis; empty if they have one.
    """

    index: Int[Tensor, "n"]
    n_effective: float
    reason: str = ""

    def error(self, influence: Float[Tensor, "n"]) -> float:
        r"""Half of the 95 % interval of a statistic, from the influence of each frame on it.

        .. math:: \delta^2 = \left( \frac{t_{B-1}}{2} \right)^2 \frac{B}{B - 1} \frac{1}{n^2}
                  \sum_{b=1}^{B} \Big( \sum_{i \in b} d_i \Big)^2

        with the deviations :math:`d_i` of the influences from their mean, and Student's t for few blocks.
        """
        deviations = influence.double() - influence.double().mean()
        n_blocks = int(self.index.max()) + 1
        if n_blocks < 2:
            return math.nan
        sums = torch.zeros(n_blocks, dtype=torch.float64).index_add_(0, self.index, deviations)
        variance = n_blocks / (n_blocks - 1) * float((sums**2).sum()) / len(deviations) ** 2
        return student(n_blocks - 1) / 2 * math.sqrt(variance)

    def n_effective_of(self, values: Float[Tensor, "n"]) -> float:
        r"""Independent frames that all frames are worth for one observable, part of which may move fast.

        .. math:: \frac{n}{1 - s + s\,g}, \qquad s = \rho(t)\, e^{2 t / g}, \qquad t = g / 20

        with the memory g of the slowest motion in frames, the observable's autocorrelation :math:`\rho`, and so the
        share s of its variance that lives as long.
        """
        memory = len(values) / self.n_effective
        lag = math.ceil(memory / SLOW)
        order = torch.argsort(self.index, stable=True)
        block, deviations = self.index[order], (values.double() - values.double().mean())[order]
        together = block[lag:] == block[:-lag]
        variance = float((deviations**2).mean())
        if variance == 0 or not bool(together.any()):
            return self.n_effective
        correlation = float((deviations[lag:] * deviations[:-lag])[together].mean()) / variance
        share = min(1.0, max(0.0, correlation * math.exp(2 * lag / memory)))
        return len(values) / (1 - share + share * memory)


def student(degrees: int) -> float:
    r"""Student's t of the 95.45 % interval: 2 for many degrees of freedom, more for few.

    Reference: Abramowitz, Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    if degrees == 1:
        return 13.968
    z, nu = 2.0, float(degrees)
    return (
        z
        + (z**3 + z) / (4 * nu)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * nu**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * nu**3)
    )


def pareto_k(values: Float[Tensor, "n"]) -> float:
    r"""The shape of the upper tail of positive values, as far as n of them show it.

    A generalized Pareto distribution is fitted to the :math:`\min(n/5, 3 \sqrt n)` largest: moments up to :math:`1/k`
    exist. nan for fewer than 25 values; minus infinity where the largest values are all alike.

    References: Zhang, Stephens, Technometrics 51, 316 (2009); Vehtari et al., J. Mach. Learn. Res. 25, 72 (2024), whose
    weak prior about k = 1/2 is used here, too.
    """
    x = values.detach().double().cpu().sort().values
    n_tail = min(len(x) // 5, math.ceil(3 * math.sqrt(len(x))))
    if n_tail < 5:
        return math.nan
    tail = x[-n_tail:] - x[-n_tail - 1]
    tail = tail[tail > 1e-12 * x[-1].abs()]
    if len(tail) < 5 or float(tail[-1]) <= float(tail[0]) * (1 + 1e-9):
        return -math.inf
    if not bool(tail[-1].isfinite()):
        return math.inf
    m = len(tail)
    n_grid = 30 + int(math.sqrt(m))
    grid = 1 - (n_grid / (torch.arange(1, n_grid + 1, dtype=torch.float64) - 0.5)).sqrt()
    b = grid / (3 * tail[int(m / 4 + 0.5) - 1]) + 1 / tail[-1]
    shape = (-b[:, None] * tail).log1p().mean(1)
    weight = torch.softmax(m * ((-b / shape).log() - shape - 1), dim=0)
    k = float((-(weight * b).sum() * tail).log1p().mean())
    return (m * k + 5) / (m + 10)


def tail_reason(values: Float[Tensor, "n"], what: str = "draw", steep: bool = False) -> str:
    """Why the error of a mean has no basis: a heavy tail by `pareto_k`, or one draw that decides; empty if neither.

    Args:
        values: Independent, or the influences of draws on a statistic.
        what: What one of them is called.
        steep: Whether they are energies or forces far from the data, which rise steeply where atoms meet.
    """
    largest, heaviest = (STEEP_SHARE, STEEP_K) if steep else (LARGEST_SHARE, RELIABLE_K)
    deviations = (values.double() - values.double().mean()).abs()
    total = float((deviations**2).sum())
    if len(deviations) < 25 or total == 0:
        return ""
    if not math.isfinite(total):
        return f"one {what} of {len(values)} is infinite"
    share = float(deviations.max()) ** 2 / total
    if share > largest:
        return f"no error: one {what} of {len(values)} makes {100 * share:.0f} % of the variance"
    if share < TAIL_SHARE * largest:
        return ""
    k = pareto_k(deviations)
    return f"no error: heavy tail, Pareto k {k:.2f}" if k > heaviest else ""


def mean_of_independent(values: Float[Tensor, "n"], steep: bool = False) -> Estimate:
    r"""The mean of independent draws.

    .. math:: \bar x \pm s / \sqrt n

    The error is left out where `tail_reason` gives a reason.
    """
    values = values.double()
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(values.mean()), error, n).because(tail_reason(values, steep=steep))


def mean_of_series(values: Float[Tensor, "n"], blocks: Blocks, steep: bool = False) -> Estimate:
    r"""The mean of frames in order of time; the error comes from blocks of them."""
    values = values.double()
    return Estimate(float(values.mean()), blocks.error(values), len(values)).because(
        blocks.reason or tail_reason(values, "frame", steep)
    )


def wilson(p: float, n: float, z: float = 2.0) -> tuple[float, float]:
    r"""The interval of 95 % of a fraction p seen in n independent draws.

    .. math:: \frac{p + z^2 / 2n \pm z \sqrt{p (1 - p) / n + z^2 / 4 n^2}}{1 + z^2 / n}

    Reference: Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
    """
    centre, half = p + z**2 / (2 * n), z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return max(0.0, (centre - half) / (1 + z**2 / n)), min(1.0, (centre + half) / (1 + z**2 / n))


def fraction_of(flags: Tensor) -> Estimate:
    r"""The fraction of independent draws for which something holds.

    .. math:: p \pm \sqrt{p (1 - p) / n}, \qquad \mathrm{error} \ge 1/n

    Where none (or all) have it, the error is 1/n: fewer than one in n cannot be seen. The interval is `wilson`'s.
    """
    return fraction(flags.numel(), int(flags.sum()))


def fraction(n: int, n_with: int) -> Estimate:
    """The same from counts: of ``n`` draws, ``n_with`` have it."""
    if n == 0:
        raise ConfigurationError("A fraction of no configurations was asked for; give at least one.")
    p = n_with / n
    return Estimate(p, max(math.sqrt(p * (1 - p) / n), 1 / n), n, interval=wilson(p, n))


def fraction_of_series(flags: Bool[Tensor, "n"], blocks: Blocks) -> Estimate:
    r"""The fraction of frames in order of time for which something holds.

    The interval is `wilson`'s for as many independent frames as the variance of the blocks' means allows,
    :math:`p (1 - p) / \delta^2`, and not more than those that its own slow motion allows (`Blocks.n_effective_of`).
    What no frame shows has no number: walkers that never went there do not tell how rarely they would. What was
    visited, or left, less than twice has no error.
    """
    n_blocks = int(blocks.index.max()) + 1
    p = float(flags.double().mean())
    error = blocks.error(flags.double())
    if p in (0.0, 1.0):
        return Estimate(p, error, len(flags)).withheld(
            f"{'none' if p == 0 else 'all'} of {len(flags)} frames: not known"
        )
    if blocks.reason:
        return Estimate(p, error, len(flags)).because(blocks.reason)
    visits = blocks.n_effective * min(p, 1 - p)
    if visits < FEWEST_VISITS:
        what = "seen" if p < 0.5 else "left"
        return Estimate(p, error, len(flags)).because(f"{what} in what is worth {visits:.1g} independent frames")
    # the blocks' own count of degrees of freedom is in the error already
    seen = p * (1 - p) / error**2 if error > 0 else math.inf
    n = max(1.0, min(seen, blocks.n_effective_of(flags.double()) * (2 / student(n_blocks - 1)) ** 2))
    spread = max(math.sqrt(p * (1 - p) / n), 1 / n)
    return Estimate(p, spread, len(flags), interval=wilson(p, n))


@dataclass(frozen=True)
class Verdict:
    """Whether the errors of what was measured hold.

    Attributes:
        reasons: Why not; empty if they do.
    """

    reasons: tuple[str, ...]

    @property
    def reliable(self) -> bool:
        """Whether nothing was found against the errors."""
        return not self.reasons

    def __str__(self) -> str:
        return "reliable" if self.reliable else "not reliable: " + "; ".join(self.reasons)


def differing(name: str, estimates: Mapping[str, Estimate]) -> list[str]:
    """Which estimates of one quantity from independent sources differ by more than their errors, in words.

    Args:
        name: Name of the quantity.
        estimates: Estimates by source; those without an error are left out.
    """
    found = []
    for (first, one), (second, other) in combinations(estimates.items(), 2):
        if not (one.reliable and other.reliable):
            continue
        low, high = (one, other) if one.value < other.value else (other, one)
        # half an interval on the side of the other one is two errors
        error = math.hypot(low.bounds()[1] - low.value, high.value - high.bounds()[0]) / 2
        if error > 0 and high.value - low.value > MOST_ERRORS * error:
            found.append(f"{name} of {first} and of {second} differ by {(high.value - low.value) / error:.1f} errors")
    return found


def largest_share(values: Float[Tensor, "n"]) -> float:
    """The share of the largest value in the sum of non-negative values."""
    total = float(values.sum())
    return float(values.max()) / total if 0 < total < math.inf else math.nan


def read_estimate(found: Mapping[str, Any]) -> Estimate:
    """An estimate from what a file keeps of it; null and text like "nan" are numbers that are not finite."""

    def number(value: Any) -> float:
        return math.nan if value is None else float(value)

    interval = found.get("interval")
    bounds = None if interval is None else (number(interval[0]), number(interval[1]))
    reason = str(found.get("reason", ""))
    return Estimate(number(found["value"]), number(found["error"]), int(found["n"]), reason, bounds)


def as_text(value: Any) -> Any:
    """A number that is not finite as the text that `read_estimate` reads; everything else as it is."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def plain(value: Any) -> Any:
    """Estimates, and whatever else holds them, in plain JSON types; null for a number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Estimate):
        found = {"value": plain(value.value), "error": plain(value.error), "n": value.n}
        if value.reason:
            found["reason"] = value.reason
        if value.interval is not None:
            found["interval"] = plain(value.interval)
        return found
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Verdict):
        return {"reliable": value.reliable, "reasons": list(value.reasons)}
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    return value
