"""Mixtures of C-infinity bumps on the circle and the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError
from ...core.manifolds import Circle, Interval, Manifold
from ...core.plugins import hookimpl
from ...core.transforms import Transform

EDGE = 0.499
"""Where a bump is cut, in units of its width: its sigmoid has underflowed to exactly 0 or 1 there, even for the
smallest alpha and in float64, so that the cut is seen by no derivative."""

SMALLEST_ALPHA = 0.75
"""Below it the sigmoid would not underflow before the cut."""


class SmoothTransform(Transform):
    r"""Mixture of smooth compactly supported bumps, blended with the identity.

    .. math::
        f(x) = c\,x + (1 - c) \frac{S(x) - S(0)}{S(1) - S(0)}, \qquad
        S(x) = \sum_k w_k\, g\big((x - \mu_k) s_k + \tfrac12; \alpha_k\big)

        g(t; \alpha) = \frac{\rho(t)}{\rho(t) + \rho(1 - t)}
        = \sigma\!\left(\alpha\, \frac{2^{1-\beta}}{\beta} \left[(1 - t)^{-\beta} - t^{-\beta}\right]\right),
        \qquad \rho(t) = e^{-\alpha\, 2^{1-\beta} t^{-\beta} / \beta}

    on the interval; g is 0 below t = 0 and 1 above t = 1. On the circle each bump is wrapped with period one, as a
    deviation from the identity that is periodic in x and in mu, and a learned rotation r is added:

    .. math::
        f(x) = x + r + (1 - c) \sum_k w_k \left[g(\delta_k s_k + \tfrac12; \alpha_k) - \delta_k - \tfrac12\right]
        \bmod 1, \qquad \delta_k = x - \mu_k - \mathrm{round}(x - \mu_k)

    The factor in front of the bracket keeps the slope at a bump's centre, 2 alpha s, the same for every beta.

    C-infinity. Scale, alpha and c are bounded: the curvature of the log-density, which limits the time step of
    molecular dynamics, is bounded with them.

    Parameters per element: K weights (softmax), K locations (the interval: through a sigmoid), K scales and K alphas
    (sigmoids between their bounds), c (likewise); on the circle a rotation; with ``beta="trainable"``, beta in [1, 2].

    Args:
        manifold: The unit interval or the unit circle.
        n_components: The number K.
        beta: Exponent of the ramp.
        scale_bounds: Bounds of s, inverse widths; by default [1, 5] on the circle and exp(0.3 -+ 1.2) on the interval.
        alpha_bounds: Bounds of the bumps' steepness.
        identity_bounds: Bounds of c.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, section 3.1, arXiv 2110.00351.
    """

    name = "smooth"
    manifolds = frozenset({Circle, Interval})
    smoothness = math.inf

    def __init__(
        self,
        manifold: Manifold,
        n_components: int = 8,
        beta: Literal[1, 2, "trainable"] = 1,
        scale_bounds: tuple[float, float] | None = None,
        alpha_bounds: tuple[float, float] = (0.87, 5.9),
        identity_bounds: tuple[float, float] = (0.02, 0.98),
    ) -> None:
        super().__init__(manifold)
        self.on_circle = isinstance(manifold, Circle)
        if scale_bounds is None:
            scale_bounds = (1.0, 5.0) if self.on_circle else (math.exp(-0.9), math.exp(1.5))
        if n_components < 1:
            raise ConfigurationError(f"n_components must be at least 1; it is {n_components}.")
        if beta not in (1, 2, "trainable"):
            raise ConfigurationError(f'beta must be 1, 2 or "trainable"; it is {beta!r}.')
        lowest_scale = 1.0 if self.on_circle else 0.0
        _require_bounds("scale_bounds", scale_bounds, lowest_scale, math.inf)
        _require_bounds("alpha_bounds", alpha_bounds, SMALLEST_ALPHA, math.inf)
        _require_bounds("identity_bounds", identity_bounds, 0.0, 1.0)
        self.n_components = n_components
        self.beta = beta
        self.scale_bounds = (float(scale_bounds[0]), float(scale_bounds[1]))
        self.alpha_bounds = (float(alpha_bounds[0]), float(alpha_bounds[1]))
        self.identity_bounds = (float(identity_bounds[0]), float(identity_bounds[1]))
        # weights, locations, scales, alphas, identity, rotation, beta
        self.sizes = [n_components] * 4 + [1, int(self.on_circle), int(beta == "trainable")]

    @property
    def n_params(self) -> int:
        return sum(self.sizes)

    def initial_params(self) -> Float[Tensor, "n_params"]:
        params = torch.zeros(self.n_params)
        _, location, scale, alpha, *_ = torch.split(params, self.sizes)
        places = (torch.arange(self.n_components) + 0.5) / self.n_components
        location.copy_(places if self.on_circle else torch.logit(places))
        # wide, soft bumps that add up to a nearly constant density
        scale.fill_(-0.5 if self.on_circle else 0.0)
        alpha.fill_(-1.5 if self.on_circle else -1.0)
        return params

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._mix(x, *self._shape(params))

    def _lift(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._mix_lifted(x, *self._shape(params))

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        # the bounded parameters, computed once instead of in every step of the root finder
        shape = self._shape(params)
        sizes = [piece.shape[-1] for piece in shape]

        def function(x: Tensor, packed: Tensor) -> tuple[Tensor, Tensor]:
            return self._mix_lifted(x, *torch.split(packed, sizes, dim=-1))

        return self._invert(function, y, torch.cat(shape, dim=-1), lifted=self.on_circle)

    def _shape(self, params: Float[Tensor, "*batch n_params"]) -> tuple[Tensor, ...]:
        """What `_mix` needs: locations, scales, steepness, weights, slopes, c, shift, and beta if it is trainable."""
        k = self.n_components
        weight, location, scale, alpha, identity, rotation, beta = torch.split(params, self.sizes, dim=-1)
        scale, alpha, identity = torch.split(
            torch.sigmoid(torch.cat([scale, alpha, identity], dim=-1)), [k, k, 1], dim=-1
        )
        if self.on_circle:
            scale = _between(scale, self.scale_bounds)
        else:
            scale = _between(scale, (math.log(self.scale_bounds[0]), math.log(self.scale_bounds[1]))).exp()
            location = torch.sigmoid(location)
        steepness = _between(alpha, self.alpha_bounds)
        exponents: tuple[Tensor, ...] = ()
        if self.beta == 2:
            steepness = steepness / 4
        elif self.beta == "trainable":
            exponents = (1 + torch.sigmoid(beta),)
            steepness = steepness * torch.exp2(1 - exponents[0]) / exponents[0]
        identity = _between(identity, self.identity_bounds)
        weight = torch.softmax(weight, dim=-1) * (1 - identity)
        if self.on_circle:
            # whole turns change nothing, and would cost digits
            location = torch.remainder(location, 1.0)
            shift = torch.remainder(rotation, 1.0) - 0.5 * (1 - identity)
        else:
            ends = torch.stack([-location, 1 - location], dim=-2) * scale.unsqueeze(-2)
            u, _ = self._argument(ends, steepness.unsqueeze(-2), tuple(b.unsqueeze(-2) for b in exponents))
            below, above = (torch.sigmoid(u) * weight.unsqueeze(-2)).sum(-1, keepdim=True).unbind(-2)
            # the weights add up to 1 - c before and after
            factor = (1 - identity) / (above - below)
            weight = weight * factor
            shift = -below * factor
        return location, scale, steepness, weight, weight * scale * steepness, identity, shift, *exponents

    def _steps(
        self, t: Float[Tensor, "*batch k"], steepness: Float[Tensor, "*batch k"], exponents: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """The smooth step at ``t`` (0 at its centre, its support is [-1/2, 1/2]), and 4 times its slope over
        ``steepness``.

        The slope of a sigmoid is s(u) s(-u): s(u) (1 - s(u)) has no digits left where s(u) is next to 1, and its
        derivatives have none long before.
        """
        u, slope = self._argument(t, steepness, exponents)
        step = torch.sigmoid(u)
        return step, step * torch.sigmoid(-u) * slope

    def _argument(
        self, t: Float[Tensor, "*batch k"], steepness: Float[Tensor, "*batch k"], exponents: tuple[Tensor, ...]
    ) -> tuple[Float[Tensor, "*batch k"], Float[Tensor, "*batch k"]]:
        """What the sigmoid of a smooth step is taken of, and 4 times its slope over ``steepness``."""
        t = t.clamp(-EDGE, EDGE)
        if exponents:
            (beta,) = exponents
            left, right = 0.5 + t, 0.5 - t
            falling, rising = left**-beta, right**-beta
            return steepness * (rising - falling), 4 * beta * (falling / left + rising / right)
        # 1/t + 1/(1-t) = 1/(t (1-t)) = p/2 turns both powers into polynomials of p
        p = torch.reciprocal(torch.rsub(t * t, 0.125, alpha=0.5))
        if self.beta == 1:
            return steepness * t * p, p * (p - 4)
        square = p * p
        return steepness * (0.5 * t) * square, square * (p - 6)

    def _mix(self, x: Float[Tensor, "*batch"], *shape: Tensor) -> tuple[Float[Tensor, "*batch"], Tensor]:
        """The image and the log-derivative, from what `_shape` gives."""
        y, log_dydx = self._mix_lifted(x, *shape)
        return (torch.remainder(y, 1.0) if self.on_circle else y), log_dydx

    def _mix_lifted(
        self,
        x: Float[Tensor, "*batch"],
        location: Float[Tensor, "*batch k"],
        scale: Float[Tensor, "*batch k"],
        steepness: Float[Tensor, "*batch k"],
        weight: Float[Tensor, "*batch k"],
        slope_weight: Float[Tensor, "*batch k"],
        identity: Float[Tensor, "*batch 1"],
        shift: Float[Tensor, "*batch 1"],
        *exponents: Float[Tensor, "*batch 1"],
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """As `_mix`, on the circle not wrapped."""
        distance = x.unsqueeze(-1) - location
        if self.on_circle:
            distance = distance - distance.detach().round()
        step, slope = self._steps(distance * scale, steepness, exponents)
        dydx = torch.add(identity.squeeze(-1), (slope_weight * slope).sum(-1), alpha=0.25)
        if self.on_circle:
            y = x + (weight * (step - distance)).sum(-1) + shift.squeeze(-1)
        else:
            y = identity.squeeze(-1) * x + (weight * step).sum(-1) + shift.squeeze(-1)
        return y, torch.log(dydx)


def _between(fraction: Tensor, bounds: tuple[float, float]) -> Tensor:
    return fraction * (bounds[1] - bounds[0]) + bounds[0]


def _require_bounds(name: str, bounds: tuple[float, float], lowest: float, highest: float) -> None:
    # nothing of the density may vanish, so c = 0 and a scale of 0 are out
    if not (max(lowest, 1e-6) <= bounds[0] <= bounds[1] <= highest and math.isfinite(bounds[1])):
        raise ConfigurationError(
            f"{name} must be two increasing positive numbers between {lowest:g} and {highest:g}; they are {bounds}."
        )


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {SmoothTransform.name: SmoothTransform}
