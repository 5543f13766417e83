"""How a figure is taken, and at which configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

JITTER = 0.003
"""Standard deviation of every coordinate about the start in a batch of configurations, nm."""


PRECISIONS = (torch.float32, torch.float64)


def short(dtype: torch.dtype) -> str:
    """The name without torch's prefix."""
    return str(dtype).removeprefix("torch.")


class Measure(Protocol):
    """Takes one figure: how long a call takes, in a group of contenders, some of them yardsticks.

    ``per`` divides it by the number of samples or steps in a call; ``facts`` are kept beside it.
    """

    def __call__(
        self,
        call: Callable[[], object],
        group: str,
        contender: str,
        per: int = 1,
        yardstick: bool = False,
        **facts: object,
    ) -> None: ...


def jittered(start: Tensor, batch: int, dtype: torch.dtype) -> Tensor:
    """A batch of configurations about one (nm)."""
    noise = torch.randn(batch, *start.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (start + JITTER * noise).to(dtype)
