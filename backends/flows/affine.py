"""The affine map of the line."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError
from ...core.manifolds import Line, Manifold
from ...core.plugins import hookimpl
from ...core.transforms import Transform


class AffineTransform(Transform):
    r"""Scale and shift of the line.

    .. math:: y = e^s x + t, \qquad s = s_{\max} \tanh p_1, \quad t = t_{\max} \tanh p_2

    C-infinity, with a closed inverse. Parameters per element: p_1 and p_2.

    Args:
        manifold: The line.
        max_log_scale: s_max; bounds how much a conditional can be squeezed.
        max_shift: t_max; bounds how far it can be moved.

    Reference: Dinh et al., Density estimation using Real NVP, ICLR 2017, arXiv 1605.08803.
    """

    name = "affine"
    manifolds = frozenset({Line})
    smoothness = math.inf

    def __init__(self, manifold: Manifold, max_log_scale: float = 1.0, max_shift: float = 2.0) -> None:
        super().__init__(manifold)
        if not (0 < max_log_scale < math.inf and 0 < max_shift < math.inf):
            raise ConfigurationError(
                f"max_log_scale and max_shift must be positive; they are {max_log_scale} and {max_shift}."
            )
        self.max_log_scale = max_log_scale
        self.max_shift = max_shift

    @property
    def n_params(self) -> int:
        return 2

    def forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 2"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        log_scale, shift = self._bounded(x, params)
        return torch.exp(log_scale) * x + shift, log_scale.expand_as(x)

    def inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 2"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        log_scale, shift = self._bounded(y, params)
        return torch.exp(-log_scale) * (y - shift), -log_scale.expand_as(y)

    def _bounded(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 2"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        self.require_valid(x, params)
        log_scale, shift = torch.tanh(params).unbind(-1)
        return self.max_log_scale * log_scale, self.max_shift * shift


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {AffineTransform.name: AffineTransform}
