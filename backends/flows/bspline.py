"""Monotone non-uniform B-splines on the circle and the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError
from ...core.manifolds import Circle, Interval, Manifold
from ...core.plugins import hookimpl
from ...core.transforms import Transform


class BSplineTransform(Transform):
    r"""Monotone B-spline of degree p with non-uniform knots.

    .. math::
        f(x) = \sum_i \alpha_i B_{i,p}(x), \qquad f'(x) = \sum_i c_i B_{i,p-1}(x), \qquad
        c_i = p\, \frac{\alpha_{i+1} - \alpha_i}{u_{i+p+1} - u_{i+1}} > 0

    The interval's end knots are (p+1)-fold; on the circle knots and slopes c repeat with period one, and a rotation
    is added.

    C^(p-1): the default cubic has continuous forces whose derivative jumps at the knots. Inverted numerically.

    Parameters per element: n_bins widths (softmax), and the logarithms of the slopes c (bounded by a tanh, then
    normalized to f(1) - f(0) = 1): n_bins on the circle, n_bins + p - 1 on the interval; on the circle a rotation.
    Slopes that are all equal give the identity, whatever the knots.

    Args:
        manifold: The unit interval or the unit circle.
        n_bins: Number of bins.
        degree: p, at least 2.
        min_bin: Smallest width of a bin, as a fraction of the mean one.
        max_log_slope: Bound of the logarithms of the slopes before they are normalized, on both sides of 0.

    Reference: Hong and Chun, Neural Diffeomorphic Non-uniform B-spline Flows, AAAI 2023, arXiv 2304.04555.
    """

    name = "bspline"
    manifolds = frozenset({Circle, Interval})
    smoothness = 2

    def __init__(
        self,
        manifold: Manifold,
        n_bins: int = 8,
        degree: int = 3,
        min_bin: float = 0.1,
        max_log_slope: float = 4.0,
    ) -> None:
        super().__init__(manifold)
        if degree < 2:
            raise ConfigurationError(f"degree must be at least 2; it is {degree}.")
        if n_bins <= degree:
            raise ConfigurationError(f"n_bins must exceed the degree {degree}; it is {n_bins}.")
        if not 0 < min_bin < 1:
            raise ConfigurationError(f"min_bin must lie between 0 and 1; it is {min_bin}.")
        if not 0 < max_log_slope < math.inf:
            raise ConfigurationError(f"max_log_slope must be positive; it is {max_log_slope}.")
        self.n_bins = n_bins
        self.degree = degree
        self.min_bin = min_bin
        self.max_log_slope = max_log_slope
        self.smoothness = degree - 1
        self.on_circle = isinstance(manifold, Circle)
        self.sizes = [n_bins, n_bins if self.on_circle else n_bins + degree - 1, int(self.on_circle)]

    @property
    def n_params(self) -> int:
        return sum(self.sizes)

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        y, log_dydx = self._evaluate(x, self._shape(params))
        return (torch.remainder(y, 1.0) if self.on_circle else y), log_dydx

    def _lift(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._evaluate(x, self._shape(params))

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._invert(self._evaluate, y, self._shape(params), lifted=self.on_circle)

    def _shape(self, params: Float[Tensor, "*batch n_params"]) -> Tensor:
        """Knots u from the (p-1)-th before the first bin to the (p-1)-th after the last, slopes c and coefficients of
        all basis functions that meet them, and the rotation."""
        p, n = self.degree, self.n_bins
        widths, slopes, rotation = torch.split(params, self.sizes, dim=-1)
        widths = torch.softmax(widths, dim=-1) * (1 - self.min_bin) + self.min_bin / n
        edges = widths.cumsum(-1)[..., :-1]
        low, high = torch.zeros_like(edges[..., :1]), torch.ones_like(edges[..., :1])
        if self.on_circle:
            turn = torch.cat([low, edges], dim=-1)
            knots = torch.cat([turn[..., n - p + 1 :] - 1, turn, 1 + turn[..., :p]], dim=-1)
        else:
            knots = torch.cat([low.expand(*low.shape[:-1], p), edges, high.expand(*high.shape[:-1], p)], dim=-1)
        # slope i belongs to the span of p bins from knot i
        n_slopes = slopes.shape[-1]
        spans = (knots[..., p : p + n_slopes] - knots[..., :n_slopes]) / p
        slopes = torch.exp(self.max_log_slope * torch.tanh(slopes / self.max_log_slope))
        slopes = slopes / (slopes * spans).sum(-1, keepdim=True)
        increments = slopes * spans
        # from the mean of the first function's knots (Greville), so that equal slopes give f(x) = x
        start = knots[..., :p].mean(-1, keepdim=True)
        coefficients = start + torch.cat([low, increments.cumsum(-1)], dim=-1)
        if self.on_circle:
            # the functions that reach over the seam come again, one turn up
            slopes = torch.cat([slopes, slopes[..., : p - 1]], dim=-1)
            coefficients = torch.cat([coefficients, 1 + coefficients[..., 1:p]], dim=-1)
            rotation = torch.remainder(rotation, 1.0)
        return torch.cat([knots, slopes, coefficients, rotation], dim=-1)

    def _evaluate(self, x: Float[Tensor, "*batch"], shape: Tensor) -> tuple[Float[Tensor, "*batch"], Tensor]:
        """The image, on the circle not wrapped, and the log-derivative."""
        p, n = self.degree, self.n_bins
        sizes = [n + 2 * p - 1, n + p - 1, n + p, int(self.on_circle)]
        knots, slopes, coefficients, rotation = torch.split(shape, sizes, dim=-1)
        turns = torch.floor(x).detach()
        if self.on_circle:
            x = x - turns
        index = (x.unsqueeze(-1) >= knots[..., p : n + p - 1]).sum(-1, keepdim=True)
        u = _window(knots, index, 2 * p)
        c = _window(slopes, index, p)
        a = _window(coefficients, index, p + 1)
        # de Boor's recursion; knots u[p-1] <= x <= u[p]
        for degree in range(p, 0, -1):
            fractions = [(x - u[p - j - 1]) / (u[p - j - 1 + degree] - u[p - j - 1]) for j in range(degree)][::-1]
            a = [low + t * (high - low) for low, high, t in zip(a[:-1], a[1:], fractions, strict=True)]
            if degree < p:
                c = [low + t * (high - low) for low, high, t in zip(c[:-1], c[1:], fractions, strict=True)]
        y = a[0]
        if self.on_circle:
            y = y + rotation.squeeze(-1) + turns
        return y, torch.log(c[0])


def _window(table: Float[Tensor, "*batch n"], start: Tensor, length: int) -> list[Float[Tensor, "*batch"]]:
    """``length`` consecutive entries of the table of each element, from ``start``."""
    offsets = torch.arange(length, device=table.device)
    table = table.expand(*start.shape[:-1], -1)
    return list(table.gather(-1, start + offsets).unbind(-1))


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {BSplineTransform.name: BSplineTransform}
