"""Monotone rational-quadratic splines on the circle and the interval."""

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

BIN = Interval()
"""A bin, in units of its width."""


class SplineTransform(Transform):
    r"""Monotone rational-quadratic spline.

    .. math::
        f(x) = y_k + \frac{h_k [s_k \xi^2 + d_k \xi (1 - \xi)]}{s_k + (d_{k+1} + d_k - 2 s_k)\, \xi (1 - \xi)},
        \qquad \xi = \frac{x - x_k}{w_k}, \quad s_k = \frac{h_k}{w_k}

    in the k-th bin, of width w_k and height h_k, with derivatives d_k at its ends. On the circle the derivatives at
    both ends of the period are one parameter, and a rotation is added.

    C^1: the second derivative jumps at the knots, and with it the force of the density. Closed inverse.

    Parameters per element: n_bins widths and n_bins heights (softmax), the log-derivatives (bounded by a tanh):
    n_bins + 1 on the interval, n_bins on the circle; on the circle a rotation.

    Args:
        manifold: The unit interval or the unit circle.
        n_bins: Number of bins.
        min_bin: Smallest width and height of a bin, as a fraction of the mean one.
        max_log_derivative: Bound of the log-derivatives at the knots, on both sides of 0.

    Reference: Durkan et al., Neural Spline Flows, NeurIPS 2019, arXiv 1906.04032; on circles Rezende et al.,
    Normalizing Flows on Tori and Spheres, ICML 2020, arXiv 2002.02428.
    """

    name = "spline"
    manifolds = frozenset({Circle, Interval})
    smoothness = 1

    def __init__(
        self, manifold: Manifold, n_bins: int = 8, min_bin: float = 0.01, max_log_derivative: float = 4.0
    ) -> None:
        super().__init__(manifold)
        if n_bins < 1:
            raise ConfigurationError(f"n_bins must be at least 1; it is {n_bins}.")
        if not 0 < min_bin < 1:
            raise ConfigurationError(f"min_bin must lie between 0 and 1; it is {min_bin}.")
        if not 0 < max_log_derivative < math.inf:
            raise ConfigurationError(f"max_log_derivative must be positive; it is {max_log_derivative}.")
        self.n_bins = n_bins
        self.min_bin = min_bin
        self.max_log_derivative = max_log_derivative
        self.on_circle = isinstance(manifold, Circle)
        self.sizes = [n_bins, n_bins, n_bins + (not self.on_circle), int(self.on_circle)]

    @property
    def n_params(self) -> int:
        return sum(self.sizes)

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        x_knots, y_knots, derivatives, rotation = self._knots(params)
        if self.on_circle:
            x = torch.remainder(x, 1.0)
        x_low, width, y_low, height, d_low, d_high = _bin_of(x, x_knots, x_knots, y_knots, derivatives)
        slope = height / width
        xi = (x - x_low) / width
        both = xi * (1 - xi)
        curvature = d_low + d_high - 2 * slope
        denominator = slope + curvature * both
        y = y_low + height * (slope * xi**2 + d_low * both) / denominator
        if self.on_circle:
            y = torch.remainder(y + rotation.squeeze(-1), 1.0)
        return y, _log_derivative(xi, both, slope, d_low, d_high, denominator)

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        x_knots, y_knots, derivatives, rotation = self._knots(params)
        if self.on_circle:
            y = torch.remainder(y - rotation.squeeze(-1), 1.0)
        x_low, width, y_low, height, d_low, d_high = _bin_of(y, y_knots, x_knots, y_knots, derivatives)
        slope = height / width
        curvature = d_low + d_high - 2 * slope
        eta = (y - y_low) / height
        # y in the bin is a quotient of quadratics, so xi is a root of one, in the form that does not cancel
        a = slope - d_low + eta * curvature
        b = d_low - eta * curvature
        c = -slope * eta
        # rounding must not make it negative where the derivatives at both ends are extreme
        root = torch.sqrt((b**2 - 4 * a * c).clamp(min=torch.finfo(y.dtype).tiny))
        positive = b >= 0
        xi = torch.where(positive, -2 * c, root - b) / torch.where(positive, b + root, 2 * a)
        # nor take it out of its bin, and a sample out of the interval
        xi = BIN.project(xi)
        x = x_low + width * xi
        both = xi * (1 - xi)
        log_derivative = _log_derivative(xi, both, slope, d_low, d_high, slope + curvature * both)
        return torch.remainder(x, 1.0) if self.on_circle else x, -log_derivative

    def _knots(self, params: Float[Tensor, "*batch n_params"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        widths, heights, derivatives, rotation = torch.split(params, self.sizes, dim=-1)
        lengths = torch.softmax(torch.stack([widths, heights]), dim=-1)
        lengths = lengths * (1 - self.min_bin) + self.min_bin / self.n_bins
        # the last knot is 1 exactly
        knots = torch.nn.functional.pad(lengths.cumsum(-1)[..., :-1], (1, 0))
        knots = torch.nn.functional.pad(knots, (0, 1), value=1.0)
        bound = self.max_log_derivative
        derivatives = torch.exp(bound * torch.tanh(derivatives / bound))
        if self.on_circle:
            derivatives = torch.cat([derivatives, derivatives[..., :1]], dim=-1)
        return knots[0], knots[1], derivatives, rotation


def _bin_of(
    value: Float[Tensor, "*batch"],
    edges: Float[Tensor, "*batch knots"],
    x_knots: Float[Tensor, "*batch knots"],
    y_knots: Float[Tensor, "*batch knots"],
    derivatives: Float[Tensor, "*batch knots"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, width, y, height and both derivatives of the bin between whose ``edges`` each value lies."""
    index = (value.unsqueeze(-1) >= edges[..., 1:-1]).sum(-1, keepdim=True)
    table = torch.stack([x_knots, y_knots, derivatives], dim=-1)
    table = table.expand(*value.shape, *table.shape[-2:])
    index = index.unsqueeze(-1).expand(*index.shape, 3)
    x_low, y_low, d_low = table.gather(-2, index).squeeze(-2).unbind(-1)
    x_high, y_high, d_high = table.gather(-2, index + 1).squeeze(-2).unbind(-1)
    return x_low, x_high - x_low, y_low, y_high - y_low, d_low, d_high


def _log_derivative(
    xi: Tensor, both: Tensor, slope: Tensor, d_low: Tensor, d_high: Tensor, denominator: Tensor
) -> Tensor:
    numerator = d_high * xi**2 + 2 * slope * both + d_low * (1 - xi) ** 2
    return torch.log(numerator) + 2 * torch.log(slope / denominator)


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {SplineTransform.name: SplineTransform}
