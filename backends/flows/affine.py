"""The affine map of the line, and its counterpart on the circle."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError
from ...core.manifolds import FULL_TURN, Circle, Line, Manifold
from ...core.plugins import hookimpl
from ...core.transforms import Transform


class AffineTransform(Transform):
    r"""Scale and shift of the line; a Möbius transformation with two fixed points and a rotation on the circle.

    .. math:: y = e^s x + t, \qquad s = s_{\max} \tanh p_1, \quad t = t_{\max} \tanh p_2

    on the line, and on the circle

    .. math:: \tan \pi (y - t) = e^s \tan \pi x, \qquad t = t_{\max} \, \sigma(p_3) \tanh p_2,

    which next to 0 is the map of the line, with shifts in units of :math:`\sigma(p_3)`. C-infinity, with a closed
    inverse. Parameters per element: p_1, p_2; and p_3 on the circle.

    Args:
        manifold: The line or the unit circle.
        max_log_scale: s_max; bounds how much a conditional can be squeezed.
        max_shift: t_max; bounds how far it can be moved.

    Reference: Dinh et al., Density estimation using Real NVP, ICLR 2017, arXiv 1605.08803; Möbius transformations:
        Rezende et al., Normalizing Flows on Tori and Spheres, ICML 2020, section 2.1.1, arXiv 2002.02428.
    """

    name = "affine"
    manifolds = frozenset({Circle, Line})
    smoothness = math.inf

    def __init__(self, manifold: Manifold, max_log_scale: float = 1.0, max_shift: float = 2.0) -> None:
        super().__init__(manifold)
        if not (0 < max_log_scale < math.inf and 0 < max_shift < math.inf):
            raise ConfigurationError(
                f"max_log_scale and max_shift must be positive; they are {max_log_scale} and {max_shift}."
            )
        self.on_circle = isinstance(manifold, Circle)
        self.max_log_scale = max_log_scale
        self.max_shift = max_shift

    @property
    def n_params(self) -> int:
        return 3 if self.on_circle else 2

    def initial_params(self) -> Float[Tensor, "n_params"]:
        params = torch.zeros(self.n_params)
        if self.on_circle:
            # the standard deviation of the uniform distribution
            params[2] = torch.logit(torch.tensor(12.0**-0.5))
        return params

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        log_scale, shift = self._bounded(params)
        if self.on_circle:
            y, log_dydx = _scaled_circle(x, log_scale)
            return _nearest(y + shift), log_dydx
        return torch.exp(log_scale) * x + shift, log_scale.expand_as(x)

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        log_scale, shift = self._bounded(params)
        if self.on_circle:
            x, log_dxdy = _scaled_circle(y - shift, -log_scale)
            return _nearest(x), log_dxdy
        return torch.exp(-log_scale) * (y - shift), -log_scale.expand_as(y)

    def _bounded(
        self, params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        log_scale, shift = torch.tanh(params[..., :2]).unbind(-1)
        if self.on_circle:
            shift = shift * torch.sigmoid(params[..., 2])
        return self.max_log_scale * log_scale, self.max_shift * shift


def _scaled_circle(
    x: Float[Tensor, "*batch"], log_scale: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """The y with tan(pi y) = exp(log_scale) tan(pi x), not wrapped, and log dy/dx."""
    angle = FULL_TURN * x
    # with h = tanh(log_scale / 2), y - x has no branch cut
    h = torch.tanh(0.5 * log_scale)
    deviation = torch.atan2(h * angle.sin(), 1 - h * angle.cos())
    log_dydx = torch.log((1 - h) * (1 + h)) - torch.log1p(h * (h - 2 * angle.cos()))
    return x + deviation / (0.5 * FULL_TURN), log_dydx


def _nearest(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """The representative next to 0, which keeps the digits of small angles of either sign."""
    return x - torch.round(x.detach())


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {AffineTransform.name: AffineTransform}
