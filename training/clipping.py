"""Gradients that are far larger than usual are shortened, whatever their usual size is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

LARGEST = 3.0
"""Largest norm of a gradient, in units of its usual one."""

NEWEST = 0.02
"""Weight of the newest gradient in the average that tells the usual norm."""


class Clipper:
    r"""Shortens gradients g whose norm is more than three times the usual one, :math:`\bar g`.

    .. math:: g \leftarrow g \min\left(1, \frac{3 \bar g}{|g|}\right), \qquad
        \bar g \leftarrow \bar g + 0.02 \left(\min(|g|, 3 \bar g) - \bar g\right)

    Adam divides a gradient by a long average of its squares: one configuration of very large gradient moves every
    weight by some thirty learning rates, all at once, and undoes a training. Everything stays on the device.

    Reference: Seetharaman et al., AutoClip: Adaptive Gradient Clipping for Source Separation Networks, 2020, arXiv
        2007.14469 (with a quantile in place of the average).
    """

    def __init__(self) -> None:
        self.usual: Float[Tensor, ""] | None = None

    def prepare(self, like: Tensor) -> Float[Tensor, ""]:
        """The usual norm as it is kept, 0 before the first gradient; on the device and in the precision of a tensor."""
        self.usual = (
            torch.zeros((), dtype=like.dtype, device=like.device) if self.usual is None else self.usual.to(like)
        )
        return self.usual

    def __call__(self, parameters: Sequence[nn.Parameter], norm: Float[Tensor, ""]) -> None:
        """Shorten the parameters' gradients in place, if they are too long.

        Args:
            parameters: What is trained.
            norm: Norm of all gradients together; finite.
        """
        usual = self.prepare(norm)
        limit = torch.where(usual > 0, LARGEST * usual, math.inf)
        factor = torch.where(norm > limit, limit / norm, 1.0)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(factor.to(parameter.grad.dtype))
        shortened = torch.minimum(norm, limit)
        usual.copy_(torch.where(usual > 0, usual.lerp(shortened, NEWEST), shortened))
