"""Möbius transformations of the circle, single and mixed."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError
from ...core.manifolds import FULL_TURN, Circle, Manifold
from ...core.plugins import hookimpl
from ...core.transforms import Transform


class MoebiusTransform(Transform):
    r"""Möbius transformation of the circle.

    .. math::
        f_w(\theta) = \arg h_w(e^{i\theta}), \qquad h_w(z) = \frac{1-|w|^2}{|z-w|^2}(z-w) - w
        = z \, \frac{1 - w \bar z}{1 - \bar w z}

    With the second form, f is the identity plus :math:`-2 \arg(1 - \bar w z)`, which has no branch cut for \|w\| < 1.

    Analytic, with a closed inverse: :math:`f_w^{-1} = f_{-w}`.

    Parameters per element: p in the plane, and w = max_radius p / sqrt(1 + \|p\|^2).

    Args:
        manifold: The unit circle.
        max_radius: Largest radius of w; the density lies between (1 - r) / (1 + r) and its inverse.

    Reference: Rezende et al., Normalizing Flows on Tori and Spheres, ICML 2020, eq. (6), arXiv 2002.02428.
    """

    name = "moebius"
    manifolds = frozenset({Circle})
    smoothness = math.inf
    n_params = 2

    def __init__(self, manifold: Manifold, max_radius: float = 0.95) -> None:
        super().__init__(manifold)
        self.max_radius = _valid_radius(max_radius)

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 2"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        w = _into_disc(params.unsqueeze(-2), self.max_radius)
        return self._moebius(x, w)

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 2"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        w = _into_disc(params.unsqueeze(-2), self.max_radius)
        return self._moebius(y, -w)

    def _moebius(
        self, x: Float[Tensor, "*batch"], w: Float[Tensor, "*batch 1 2"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        deviation, dydx = _deviation(x, w)
        return torch.remainder(x + deviation.squeeze(-1), 1.0), torch.log(dydx).squeeze(-1)


class MoebiusMixtureTransform(Transform):
    r"""Convex combination of Möbius transformations of the circle, and a rotation.

    .. math:: f(\theta) = \theta + r + \sum_k \rho_k \, (f_{w_k}(\theta) - \theta)

    The deviations from the identity are averaged, which needs no fixed point. Analytic; inverted numerically.

    Parameters per element: K weights (softmax), K points of the plane (into the disc as in `MoebiusTransform`), and
    the rotation.

    Args:
        manifold: The unit circle.
        n_components: The number K.
        max_radius: Largest radius of w.

    Reference: Rezende et al., Normalizing Flows on Tori and Spheres, ICML 2020, section 2.1.2, arXiv 2002.02428.
    """

    name = "moebius-mixture"
    manifolds = frozenset({Circle})
    smoothness = math.inf

    def __init__(self, manifold: Manifold, n_components: int = 8, max_radius: float = 0.95) -> None:
        super().__init__(manifold)
        if n_components < 1:
            raise ConfigurationError(f"n_components must be at least 1; it is {n_components}.")
        self.n_components = n_components
        self.max_radius = _valid_radius(max_radius)

    @property
    def n_params(self) -> int:
        return 3 * self.n_components + 1

    def initial_params(self) -> Float[Tensor, "n_params"]:
        params = torch.zeros(self.n_params)
        # evenly around a small circle: their average is near the identity, and no two are alike
        angles = FULL_TURN * torch.arange(self.n_components) / self.n_components
        ring = 0.5 * torch.stack([angles.cos(), angles.sin()], dim=-1)
        params[self.n_components : -1] = ring.flatten()
        return params

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        y, log_dydx = self._mix(x, self._shape(params))
        return torch.remainder(y, 1.0), log_dydx

    def _lift(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._mix(x, self._shape(params))

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._invert(self._mix, y, self._shape(params), lifted=True)

    def _shape(self, params: Float[Tensor, "*batch n_params"]) -> Float[Tensor, "*batch n_params"]:
        """The bounded parameters, in the order of the unbounded ones."""
        k = self.n_components
        weights, points, rotation = torch.split(params, [k, 2 * k, 1], dim=-1)
        w = _into_disc(points.reshape(*points.shape[:-1], k, 2), self.max_radius).flatten(-2)
        return torch.cat([torch.softmax(weights, dim=-1), w, torch.remainder(rotation, 1.0)], dim=-1)

    def _mix(
        self, x: Float[Tensor, "*batch"], shape: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The image, not wrapped, and the log-derivative."""
        k = self.n_components
        weights, w, rotation = torch.split(shape, [k, 2 * k, 1], dim=-1)
        deviation, dydx = _deviation(x, w.reshape(*w.shape[:-1], k, 2))
        y = x + rotation.squeeze(-1) + (weights * deviation).sum(-1)
        return y, torch.log((weights * dydx).sum(-1))


def _valid_radius(max_radius: float) -> float:
    if not 0 < max_radius < 1:
        raise ConfigurationError(f"max_radius must lie between 0 and 1; it is {max_radius}.")
    return max_radius


def _into_disc(points: Float[Tensor, "*batch k 2"], max_radius: float) -> Float[Tensor, "*batch k 2"]:
    return max_radius * points * torch.rsqrt(1 + points.square().sum(-1, keepdim=True))


def _deviation(
    x: Float[Tensor, "*batch"], w: Float[Tensor, "*batch k 2"]
) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
    """f_w(x) - x in turns, and df_w/dx, for each w."""
    theta = (FULL_TURN * x).unsqueeze(-1)
    cos, sin = theta.cos(), theta.sin()
    a, b = w.unbind(-1)
    # 1 - conj(w) z = real - i imaginary, and real > 0
    real = 1 - a * cos - b * sin
    imaginary = a * sin - b * cos
    # |1 - conj(w) z| = |z - w|, and a sum of squares does not cancel
    dydx = (1 - a * a - b * b) / (real * real + imaginary * imaginary)
    return torch.atan(imaginary / real) * (2 / FULL_TURN), dydx


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {
        MoebiusTransform.name: MoebiusTransform,
        MoebiusMixtureTransform.name: MoebiusMixtureTransform,
    }
