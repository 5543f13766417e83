"""Where values are not finite."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def first_not_finite(values: Float[Tensor, "*shape"]) -> tuple[int, ...] | None:
    """The indices of the first element that is infinite or not a number; None if there is none."""
    bad = (~torch.isfinite(values)).nonzero()
    return tuple(bad[0].tolist()) if len(bad) else None
