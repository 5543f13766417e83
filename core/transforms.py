"""The contract of a one-dimensional conditional bijection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ManifoldError
from .inversion import invert
from .manifolds import Manifold


class Transform(ABC):
    r"""A monotone bijection of one unit manifold onto itself, element by element.

    .. math:: y = f(x; p), \qquad f' > 0

    A transform holds no trainable state: a conditioner gives it one vector of unconstrained real parameters per
    element, and every real vector is a valid one. An instance serves one manifold. On the interval f fixes both
    ends; on the circle it has degree one; on the line it is onto.

    Subclasses set the class attributes, give `n_params` and `forward`, and override `inverse` where a closed
    form exists; otherwise it is found numerically, with derivatives of any order up to the third (`invert`).
    """

    name: ClassVar[str]
    """The name by which configurations ask for it."""

    manifolds: ClassVar[frozenset[type[Manifold]]]
    """The kinds of manifold that it maps."""

    smoothness: float
    """``math.inf`` for C-infinity, or the k of C^k, of f as a function of x."""

    def __init__(self, manifold: Manifold) -> None:
        if type(manifold) not in self.manifolds:
            able = ", ".join(sorted(kind.__name__.lower() for kind in self.manifolds))
            raise ManifoldError(
                f'Transform "{self.name}" cannot map the {manifold.name}; it maps: {able}. '
                f"Choose another transform for the {manifold.name} columns."
            )
        if manifold != type(manifold)():
            raise ManifoldError(f"Transforms act on unit manifolds, not on {manifold}; put a chart before them.")
        self.manifold = manifold

    @property
    @abstractmethod
    def n_params(self) -> int:
        """Number of parameters per element."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The analytic direction: the image of ``x`` and ``log |df/dx|``."""

    def inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The preimage of ``y`` and ``log |dx/dy|``.

        Raises:
            InversionError: If the numerical root finder does not converge.
        """
        return invert(self.forward, y, params, self.manifold)

    def require_valid(self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]) -> None:
        """Raise a `ManifoldError` unless dtype and shapes are those of this transform; values are not looked at.

        ``params`` may have a batch shape that broadcasts to that of ``x``.
        """
        if x.dtype not in (torch.float32, torch.float64) or params.dtype != x.dtype:
            raise ManifoldError(
                f'Transform "{self.name}" works in float32 or float64, the same for values and parameters; '
                f"got {x.dtype} and {params.dtype}. Convert them with .to()."
            )
        if params.ndim != x.ndim + 1 or params.shape[-1] != self.n_params:
            raise ManifoldError(
                f'Transform "{self.name}" takes {self.n_params} parameters per element, in a last dimension of their '
                f"own; got values of shape {tuple(x.shape)} and parameters of shape {tuple(params.shape)}."
            )

    def initial_params(self) -> Float[Tensor, "n_params"]:
        """The parameters from which training starts; a transform near the identity there trains best."""
        return torch.zeros(self.n_params)
