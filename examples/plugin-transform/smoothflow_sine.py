"""A transform of the circle that lives outside smoothflow."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from smoothflow import Transform, hookimpl
from smoothflow.core.manifolds import Circle, Manifold
from torch import Tensor


class SineTransform(Transform):
    r"""A rotation and one harmonic of the circle.

    .. math:: y = x + r + \frac{a}{2\pi} \sin 2\pi (x - \phi) \bmod 1, \qquad |a| < 1

    C-infinity. The base class wraps the lift, the sum without "mod 1"; there is no closed inverse, and it finds that on
    the lift, with exact derivatives.

    Parameters per element: a = max_amplitude tanh(p), the phase and the rotation, both in turns.

    Args:
        manifold: The unit circle.
        max_amplitude: Largest amplitude of a, below 1; the density lies between 1 - a and 1 + a.
    """

    name = "sine"
    manifolds = frozenset({Circle})
    smoothness = math.inf

    def __init__(self, manifold: Manifold, max_amplitude: float = 0.9) -> None:
        super().__init__(manifold)
        self.max_amplitude = max_amplitude

    @property
    def n_params(self) -> int:
        return 3

    def _lift(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        amplitude, phase, rotation = params.unbind(-1)
        amplitude = self.max_amplitude * torch.tanh(amplitude)
        # whole turns change nothing, and would cost digits
        angle = 2 * math.pi * (x - torch.remainder(phase, 1.0))
        y = x + torch.remainder(rotation, 1.0) + amplitude / (2 * math.pi) * torch.sin(angle)
        return y, torch.log1p(amplitude * torch.cos(angle))


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {SineTransform.name: SineTransform}
