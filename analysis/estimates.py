"""Numbers that carry their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError

N_BLOCKS = 20
"""Blocks into which a time series is cut for the error of its mean."""


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error, and the number of configurations (or replicas) behind it.

    The error is nan where the data do not allow one.
    """

    value: float
    error: float
    n: int

    def __str__(self) -> str:
        return format_measured(self.value, self.error)


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
    return f"{Estimate(100 * fraction.value, 100 * fraction.error, fraction.n)} %"


def mean_of_independent(values: Float[Tensor, "n"]) -> Estimate:
    r"""The mean of independent draws.

    .. math:: \bar x \pm s / \sqrt n
    """
    values = values.double()
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    return Estimate(float(values.mean()), error, n)


def mean_of_series(values: Float[Tensor, "n"], n_blocks: int = N_BLOCKS) -> Estimate:
    r"""The mean of a time series; the error comes from the means of contiguous blocks.

    .. math:: \bar x \pm s_{\mathrm{blocks}} / \sqrt{n_{\mathrm{blocks}}}

    It is right for independent values too, and for correlated ones as long as a block outlasts their memory.

    Args:
        values: In order of time.
        n_blocks: Their number; a shorter series is taken as independent values.
    """
    values = values.double()
    n = len(values)
    if n < 2 * n_blocks:
        return mean_of_independent(values)
    blocks = torch.stack([block.mean() for block in torch.tensor_split(values, n_blocks)])
    return Estimate(float(values.mean()), float(blocks.std()) / math.sqrt(n_blocks), n)


def fraction_of(flags: Tensor) -> Estimate:
    r"""The fraction of independent draws for which something holds.

    .. math:: p \pm \sqrt{p (1 - p) / n}, \qquad \mathrm{error} \ge 1/n

    Where none (or all) have it, the error is 1/n: fewer than one in n cannot be seen.
    """
    return fraction(flags.numel(), int(flags.sum()))


def fraction(n: int, n_with: int) -> Estimate:
    """The same from counts: of ``n`` draws, ``n_with`` have it."""
    if n == 0:
        raise ConfigurationError("A fraction of no configurations was asked for; give at least one.")
    p = n_with / n
    return Estimate(p, max(math.sqrt(p * (1 - p) / n), 1 / n), n)


def plain(value: Any) -> Any:
    """Estimates, and whatever else holds them, in plain JSON types; null for a number that is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    return value
