"""Monotone Bernstein polynomials on the interval."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError
from ...core.manifolds import Interval, Manifold
from ...core.plugins import hookimpl
from ...core.transforms import Transform


class BernsteinTransform(Transform):
    r"""Bernstein polynomial with increasing coefficients.

    .. math::
        f(x) = \sum_{i=0}^n \alpha_i \binom{n}{i} x^i (1 - x)^{n-i},
        \qquad 0 = \alpha_0 < \alpha_1 < \dots < \alpha_n = 1

    C-infinity, and evaluated by de Casteljau's recursion, which only averages. Inverted numerically.

    Parameters per element: the n increments of the coefficients (softmax, with a floor).

    Args:
        manifold: The unit interval.
        degree: The degree n.
        min_derivative: Smallest derivative of f.

    Reference: Ramasinghe et al., Robust normalizing flows using Bernstein-type polynomials, BMVC 2022,
    arXiv 2102.03509.
    """

    name = "bernstein"
    manifolds = frozenset({Interval})
    smoothness = math.inf

    def __init__(self, manifold: Manifold, degree: int = 8, min_derivative: float = 0.01) -> None:
        super().__init__(manifold)
        if degree < 1:
            raise ConfigurationError(f"degree must be at least 1; it is {degree}.")
        if not 0 < min_derivative < 1:
            raise ConfigurationError(f"min_derivative must lie between 0 and 1; it is {min_derivative}.")
        self.degree = degree
        self.min_derivative = min_derivative

    @property
    def n_params(self) -> int:
        return self.degree

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._polynomial(x, self._increments(params))

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        return self._invert(self._polynomial, y, self._increments(params))

    def _increments(self, params: Float[Tensor, "*batch n_params"]) -> Float[Tensor, "*batch n_params"]:
        return torch.softmax(params, dim=-1) * (1 - self.min_derivative) + self.min_derivative / self.degree

    def _polynomial(
        self, x: Float[Tensor, "*batch"], increments: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        # of degree n - 1: all coefficients but the last, and the increments
        coefficients = torch.stack([increments.cumsum(-1) - increments, increments], dim=-2)
        t = x[..., None, None]
        for _ in range(self.degree - 1):
            coefficients = coefficients[..., :-1] + t * (coefficients[..., 1:] - coefficients[..., :-1])
        low, step = coefficients.squeeze(-1).unbind(-1)
        return low + x * step, torch.log(self.degree * step)


@hookimpl
def smoothflow_transforms() -> Mapping[str, type[Transform]]:
    return {BernsteinTransform.name: BernsteinTransform}
