"""The contract of a one-dimensional conditional bijection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .display import described
from .errors import ManifoldError, PluginError
from .inversion import DEFAULT_SOLVER, N_NEWTON_STEPS, invert
from .manifolds import Circle, Interval, Manifold
from .solvers import Forward, Solver

BEYOND = 1024.0
"""How far rounding may carry a point past an end of the interval, in units of epsilon: in a map with a steep end."""


class Transform(ABC):
    r"""A monotone bijection of one unit manifold onto itself, element by element.

    .. math:: y = f(x; p), \qquad f' > 0

    A transform holds no trainable state: a conditioner gives it one vector of unconstrained real parameters per
    element, and every real vector is a valid one. An instance serves one manifold. On the interval f fixes both
    ends; on the circle it has degree one; on the line it is onto.

    `forward` and `inverse` are what users call: they check dtypes and shapes, broadcast the parameters, and call the
    hooks that a subclass gives, which see parameters of one vector per element:

    - ``_forward(x, params)``, the image and log f'; or, on the circle, ``_lift(x, params)``, the same with an image
      that is not wrapped, :math:`L(x + 1) = L(x) + 1`, like x + shift + a periodic part: the image is then wrapped
      here, and roots are sought on the lift, where no turn can be lost;
    - ``_inverse(y, params)`` where a closed form exists; otherwise the inverse is found numerically, with derivatives
      of any order up to the third (`invert`), from the lift if there is one.

    Subclasses set the class attributes and give `n_params` and the hooks. A subclass that overrides `forward` or
    `inverse` themselves, as was done before there were hooks, makes those checks on its own (`require_valid`).
    """

    name: ClassVar[str]
    """The transform's name in configurations."""

    manifolds: ClassVar[frozenset[type[Manifold]]]
    """The kinds of manifold that it maps."""

    smoothness: float
    """``math.inf`` for C-infinity, or the k of C^k, of f as a function of x."""

    solver: Solver = DEFAULT_SOLVER
    """Finds the roots of a numerical inverse; an instance may have another one."""

    n_newton_steps: int = N_NEWTON_STEPS
    """Newton steps in the graph of a numerical inverse: 1 for exact first derivatives, 2 up to the third order."""

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

    def __repr__(self) -> str:
        return described(self, self.manifold.name, f"{self.n_params} parameters")

    @property
    @abstractmethod
    def n_params(self) -> int:
        """Number of parameters per element."""

    def forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*#batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The image of ``x`` and ``log |df/dx|``.

        Args:
            x: Points of the manifold, of any shape. Outside the interval, where there is no density, ``log |df/dx|`` is
                minus infinity.
            params: One vector per element; its batch shape may be any that broadcasts to that of ``x``.

        Raises:
            ManifoldError: If dtypes or shapes are others.
        """
        params = self._broadcast(x, params)
        y, log_dydx = self._forward(x, params)
        if isinstance(self.manifold, Interval):
            log_dydx = torch.where(_is_outside(x), -torch.inf, log_dydx)
        return y, log_dydx

    def inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*#batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """The preimage of ``y`` and ``log |dx/dy|``.

        Args:
            y: Points of the manifold, of any shape. What lies outside the interval has no preimage: an error where
                roots are found numerically, and NaN where there is a closed form.
            params: One vector per element; its batch shape may be any that broadcasts to that of ``y``.

        Raises:
            ManifoldError: If dtypes or shapes are others.
            InversionError: If the numerical root finder does not converge.
        """
        params = self._broadcast(y, params)
        x, log_dxdy = self._inverse(y, params)
        if isinstance(self.manifold, Interval):
            outside = _is_outside(y)
            x, log_dxdy = torch.where(outside, torch.nan, x), torch.where(outside, torch.nan, log_dxdy)
        return x, log_dxdy

    def _forward(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Hook of `forward`: image and log-derivative of valid input; by default, the wrapped lift."""
        if not isinstance(self.manifold, Circle):
            raise PluginError(f'Transform "{self.name}" does not map the {self.manifold.name}: it has no _forward.')
        y, log_dydx = self._lift(x, params)
        return self.manifold.wrap(y), log_dydx

    def _lift(
        self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Hook for the circle: the image, not wrapped, and the log-derivative; defined and increasing on all reals."""
        raise PluginError(f'Transform "{self.name}" does not map the circle: it has neither _lift nor _forward.')

    def _inverse(
        self, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """Hook of `inverse`: preimage and log-derivative of valid input; by default, found numerically."""
        kind = type(self)
        if kind.forward is not Transform.forward:
            # it knows no hooks, or changes what they give
            return self._invert(self.forward, y, params)
        if isinstance(self.manifold, Circle) and kind._lift is not Transform._lift:
            return self._invert(self._lift, y, params, lifted=True)
        return self._invert(self._forward, y, params)

    def _invert(
        self, function: Forward, y: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n"], lifted: bool = False
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """`invert` with this transform's manifold, solver and number of Newton steps."""
        return invert(function, y, params, self.manifold, self.solver, self.n_newton_steps, lifted)

    def apply(
        self, value: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"], analytically: bool
    ) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
        """`forward` or `inverse` inside a stack of maps, where an image that rounding carried past an end of the
        interval goes on to the next map: without the question whether values are outside."""
        kind = type(self)
        if kind.forward is not Transform.forward and analytically:
            return self.forward(value, params)
        if kind.inverse is not Transform.inverse and not analytically:
            return self.inverse(value, params)
        self.require_valid(value, params)
        return self._forward(value, params) if analytically else self._inverse(value, params)

    def _broadcast(self, x: Tensor, params: Tensor) -> Tensor:
        """The parameters, valid and one vector per element."""
        if params.ndim and params.shape[:-1] != x.shape and params.shape[-1] == self.n_params:
            try:
                params = params.expand(*x.shape, -1)
            except RuntimeError as error:
                raise self._wrong_shapes(x, params) from error
        self.require_valid(x, params)
        return params

    def require_valid(self, x: Float[Tensor, "*batch"], params: Float[Tensor, "*batch n_params"]) -> None:
        """Raise a `ManifoldError` unless dtype and shapes are those of this transform; values are not looked at.

        ``params`` may have a batch shape that broadcasts to that of ``x``, of as many dimensions.
        """
        if x.dtype not in (torch.float32, torch.float64) or params.dtype != x.dtype:
            raise ManifoldError(
                f'Transform "{self.name}" works in float32 or float64, the same for values and parameters; '
                f"got {x.dtype} and {params.dtype}. Convert them with .to()."
            )
        if params.ndim != x.ndim + 1 or params.shape[-1] != self.n_params:
            raise self._wrong_shapes(x, params)

    def _wrong_shapes(self, x: Tensor, params: Tensor) -> ManifoldError:
        return ManifoldError(
            f'Transform "{self.name}" takes {self.n_params} parameters per element, in a last dimension of their '
            f"own; got values of shape {tuple(x.shape)} and parameters of shape {tuple(params.shape)}."
        )

    def initial_params(self) -> Float[Tensor, "n_params"]:
        """The parameters from which training starts; a transform near the identity there trains best."""
        return torch.zeros(self.n_params)


def _is_outside(x: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
    """Where ``x`` is outside the unit interval by more than rounding of a map onto it; not where it is NaN."""
    return (x - 0.5).abs() > 0.5 + BEYOND * torch.finfo(x.dtype).eps
