"""Root finders, and the differentiable inverse built on them."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor

from .manifolds import Manifold

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def invert(
    forward: Forward, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"], manifold: Manifold
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    raise NotImplementedError
