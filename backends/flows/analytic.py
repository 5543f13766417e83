"""Analytic bijections of the line with closed inverses."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError
from ...core.inversion import attach_derivatives
from ...core.manifolds import Line, Manifold
from ...core.plugins import hookimpl
from ...core.transforms import Transform

FAR = 20.0
"""Beyond it sinh and asinh are replaced by exponentials, to which they are equal to rounding."""


class CubicRationalTransform(Transform):
    r"""A bump of density on the line, algebraic in both directions.

    .. math:: y = x + \frac{a u}{1 + b u^2}, \qquad u = x - t

    Increasing for -1 < a < 8. C-infinity; the inverse is the real root of a cubic (Cardano).

    Parameters per element: a in ``amplitude_bounds`` and log b in ``log_width_bounds`` (sigmoids), and
    t = max_shift tanh(p).

    Args:
        manifold: The line.
        amplitude_bounds: Bounds of a.
        log_width_bounds: Bounds of log b.
        max_shift: Largest shift of the bump's centre.

    Reference: Analytic bijections for normalizing flows, arXiv 2601.10774.
    """

    name = "cubic-rational"
    manifolds = frozenset({Line})
    smoothness = math.inf
    n_params = 3

    def __init__(
        self,
        manifold: Manifold,
        amplitude_bounds: tuple[float, float] = (-0.8, 4.0),
        log_width_bounds: tuple[float, float] = (-2.0, 2.0),
        max_shift: float = 3.0,
    ) -> None:
        super().__init__(manifold)
        if not -1 < amplitude_bounds[0] < 0 < amplitude_bounds[1] < 8:
            raise ConfigurationError(f"amplitude_bounds must enclose 0 inside (-1, 8); they are {amplitude_bounds}.")
        if not -math.inf < log_width_bounds[0] < log_width_bounds[1] < math.inf:
            raise ConfigurationError(f"log_width_bounds must be two increasing numbers; they are {log_width_bounds}.")
        self.amplitude_bounds = amplitude_bounds
        self.log_width_bounds = log_width_bounds
        self.max_shift = _positive("max_shift", max_shift)

    def initial_params(self) -> Float[Tensor, "n_params"]:
        low, high = self.amplitude_bounds
        params = torch.zeros(self.n_params)
        # a = 0: the identity
        params[0] = math.log(-low / high)
        return params

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return _cubic_rational(x, self._shape(params))

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        shape = self._shape(params)
        a, b, t = shape.detach().unbind(-1)
        root = b.sqrt()
        # s^3 - v s^2 + (1 + a) s - v = 0 for s = sqrt(b) u and v = sqrt(b) (y - t); depressed: s = z + v/3
        v = root * (y.detach() - t)
        third_p = (1 + a) / 3 - v * v / 9
        half_q = v * ((1 + a) / 6 - 0.5 - v * v / 27)
        discriminant = (half_q * half_q + third_p**3).clamp(min=0)
        sign = torch.where(half_q > 0, -1.0, 1.0).to(v.dtype)
        cube_root = sign * (half_q.abs() + discriminant.sqrt()) ** (1 / 3)
        x = t + (cube_root - third_p / cube_root + v / 3) / root
        return attach_derivatives(_cubic_rational, x, y, shape, self.manifold, self.n_newton_steps)

    def _shape(self, params: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """a, b and t."""
        amplitude, log_width, shift = params.unbind(-1)
        a = _between(amplitude, self.amplitude_bounds)
        b = _between(log_width, self.log_width_bounds).exp()
        return torch.stack([a, b, self.max_shift * torch.tanh(shift)], dim=-1)


def _cubic_rational(
    x: Float[Tensor, "*batch"], shape: Float[Tensor, "*batch 3"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    a, b, t = shape.unbind(-1)
    u = x - t
    square = b * u * u
    denominator = 1 + square
    return x + a * u / denominator, torch.log1p(a * (1 - square) / denominator**2)


class SinhTransform(Transform):
    r"""Scale, shift and skewness of the core of a density, with the line's far ends only shifted.

    .. math:: y = a\, \mathrm{asinh}\!\left(e^\mu \left[e^\nu \sinh(x / a) + b\right]\right)

    C-infinity. The inverse is of the same form, with (b, mu, nu) replaced by (-b, -nu, -mu).

    Parameters per element: b, mu and nu, each a bound times a tanh.

    Args:
        manifold: The line.
        width: a; where the core ends and the ends begin.
        max_shift: Largest shift of b.
        max_log_scale: Largest log scale of mu and of nu.

    Reference: Analytic bijections for normalizing flows, arXiv 2601.10774.
    """

    name = "sinh"
    manifolds = frozenset({Line})
    smoothness = math.inf
    n_params = 3

    def __init__(
        self, manifold: Manifold, width: float = 1.0, max_shift: float = 3.0, max_log_scale: float = 1.0
    ) -> None:
        super().__init__(manifold)
        self.width = _positive("width", width)
        self.max_shift = _positive("max_shift", max_shift)
        self.max_log_scale = _positive("max_log_scale", max_log_scale)

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        b, mu, nu = self._bounded(x, params)
        return self._sinh(x, b, mu, nu)

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        b, mu, nu = self._bounded(y, params)
        return self._sinh(y, -b, -nu, -mu)

    def _bounded(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, mu, nu = torch.tanh(params).unbind(-1)
        return self.max_shift * b, self.max_log_scale * mu, self.max_log_scale * nu

    def _sinh(
        self, x: Float[Tensor, "*batch"], b: Tensor, mu: Tensor, nu: Tensor
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        u = x / self.width
        far = u.abs() > FAR
        # each branch only sees arguments at which it is finite, so that no derivative is NaN
        near_u = torch.where(far, 0.0, u)
        scaled = torch.exp(nu) * torch.sinh(near_u) + b
        s = torch.exp(mu) * scaled
        near = torch.asinh(s)
        near_log = mu + nu + torch.log(torch.cosh(near_u)) - 0.5 * torch.log1p(s * s)
        side = torch.sign(u.detach())
        outward = torch.where(far, side * u, FAR)
        offset = torch.log1p(2 * side * b * torch.exp(-nu - outward))
        beyond = side * (outward + mu + nu + offset)
        y = self.width * torch.where(far, beyond, near)
        return y, torch.where(far, -offset, near_log)


class CubicConjugationTransform(Transform):
    r"""A shift seen through a cubic: the density moves, and deforms as it does.

    .. math:: y = t + g^{-1}(g(x - t) + b), \qquad g(u) = u + B u^3

    C-infinity; :math:`g^{-1}(v) = 2 \sqrt{p} \sinh(\tfrac13 \mathrm{asinh}(\tfrac{v}{2 B p^{3/2}}))` with p = 1 / 3B,
    and the inverse is the same with -b. A linear coefficient of g other than one would only rescale b and B.

    Parameters per element: b = max_shift tanh(p_1), B in ``cubic_bounds`` (sigmoid), t = max_shift tanh(p_3).

    Args:
        manifold: The line.
        cubic_bounds: Bounds of B; small ones keep the curvature of the log-density small.
        max_shift: Largest shift of b and of t.

    Reference: Analytic bijections for normalizing flows, arXiv 2601.10774.
    """

    name = "cubic-conjugation"
    manifolds = frozenset({Line})
    smoothness = math.inf
    n_params = 3

    def __init__(
        self, manifold: Manifold, cubic_bounds: tuple[float, float] = (0.01, 0.5), max_shift: float = 2.0
    ) -> None:
        super().__init__(manifold)
        if not 0 < cubic_bounds[0] < cubic_bounds[1] < math.inf:
            raise ConfigurationError(f"cubic_bounds must be two increasing positive numbers; they are {cubic_bounds}.")
        self.cubic_bounds = cubic_bounds
        self.max_shift = _positive("max_shift", max_shift)

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._conjugate(x, params, 1.0)

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._conjugate(y, params, -1.0)

    def _conjugate(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch 3"], direction: float
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        shift, cubic, centre = params.unbind(-1)
        b = direction * self.max_shift * torch.tanh(shift)
        cubic = _between(cubic, self.cubic_bounds)
        t = self.max_shift * torch.tanh(centre)
        u = x - t
        v = u + cubic * u**3 + b
        # in units of sqrt(p) the cubic is sinh(3 w) = 4 sinh(w)^3 + 3 sinh(w)
        unit = torch.rsqrt(3 * cubic)
        image = 2 * unit * torch.sinh(torch.asinh(1.5 * v / unit) / 3)
        log_slope = torch.log1p(3 * cubic * u**2) - torch.log1p(3 * cubic * image**2)
        return t + image, log_slope


def _between(parameter: Tensor, bounds: tuple[float, float]) -> Tensor:
    return torch.sigmoid(parameter) * (bounds[1] - bounds[0]) + bounds[0]


def _positive(name: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise ConfigurationError(f"{name} must be positive; it is {value}.")
    return value


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    offered = (CubicRationalTransform, SinhTransform, CubicConjugationTransform)
    return {transform.name: transform for transform in offered}
