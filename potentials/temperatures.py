"""Ranges of temperatures: what a flow whose context is the temperature is good for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..core.errors import ConfigurationError

SAME = 1e-6
"""Relative difference up to which two temperatures are one."""


def is_same(first: float, second: float) -> bool:
    """Whether two temperatures (K) are one, up to rounding."""
    return math.isclose(first, second, rel_tol=SAME)


@dataclass(frozen=True)
class TemperatureRange:
    r"""Temperatures between which a flow interpolates, and the context that each of them is to the flow.

    .. math:: c(T) = 1 - 2 \, \frac{1 / T_\mathrm{low} - 1 / T}{1 / T_\mathrm{low} - 1 / T_\mathrm{high}}

    from -1 at the highest temperature to 1 at the lowest: linear in the inverse temperature, by which the logarithm of
    a Boltzmann distribution depends on the temperature linearly.

    Attributes:
        lowest: K.
        highest: K.

    Raises:
        ConfigurationError: If they are not two temperatures in this order.
    """

    lowest: float
    highest: float

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest < math.inf or is_same(self.lowest, self.highest):
            raise ConfigurationError(
                "A range of temperatures goes from a positive one to a higher one; this goes from "
                f"{self.lowest} K to {self.highest} K."
            )

    def __str__(self) -> str:
        return f"{self.lowest:g} to {self.highest:g} K"

    def __contains__(self, temperature: float) -> bool:
        return self.lowest * (1 - SAME) <= temperature <= self.highest * (1 + SAME)

    def context(self, temperature: float) -> float:
        """The context c(T) of a temperature (K).

        Raises:
            ConfigurationError: If it is outside of the range, where nothing was learned.
        """
        if temperature not in self:
            raise ConfigurationError(
                f"The model is of temperatures from {self}, and {temperature:g} K is asked for: it has learned nothing "
                "there. Take a temperature of that range, or train a model on frames of a larger one."
            )
        # in this form the ends are exact
        share = (1 / self.lowest - 1 / temperature) / (1 / self.lowest - 1 / self.highest)
        return 1 - 2 * min(1.0, max(0.0, share))
