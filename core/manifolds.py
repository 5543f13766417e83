"""The manifolds that coordinates live on, and their products."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .display import counted, described
from .errors import ManifoldError, UnknownNameError


class Manifold(ABC):
    """A connected one-dimensional manifold; instances compare equal when they are the same set."""

    @property
    def name(self) -> str:
        """The manifold's name in configurations and messages: ``circle``, ``interval``, ``line`` or ``arc``."""
        return type(self).__name__.lower()

    @abstractmethod
    def contains(self, x: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        """True where ``x`` is a point of the manifold."""

    def difference(self, a: Float[Tensor, "*batch"], b: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The signed displacement from ``b`` to ``a``; on a circle the shorter way around."""
        return a - b

    def project(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The point of the manifold that ``x`` is but for rounding; derivatives are those of ``x``."""
        return x


@dataclass(frozen=True)
class Interval(Manifold):
    """The interval [lower, upper]; the unit interval unless said otherwise."""

    lower: float = 0.0
    upper: float = 1.0

    def contains(self, x: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        return (x >= self.lower) & (x <= self.upper)

    def project(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return x + (x.clamp(self.lower, self.upper) - x).detach()


@dataclass(frozen=True)
class Circle(Manifold):
    """The circle of a given period, as [0, period) with its ends glued; any real number names a point of it."""

    period: float = 1.0

    def contains(self, x: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        return torch.isfinite(x)

    def wrap(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """The representative of ``x`` in [0, period)."""
        wrapped = x - self.period * torch.floor(x / self.period)
        # a quotient just below a whole number rounds up to it
        wrapped = torch.where(wrapped < 0, wrapped + self.period, wrapped)
        # a tiny negative x rounds up to the period itself, which is the point 0
        return torch.where(wrapped >= self.period, wrapped - self.period, wrapped)

    def project(self, x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        return self.wrap(x)

    def difference(self, a: Float[Tensor, "*batch"], b: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        delta = a - b
        return delta - self.period * torch.round(delta / self.period)


@dataclass(frozen=True)
class Arc(Circle):
    """A circle of which data cover an arc about 0: the period is that of the circle in units of the arc's width, or one
    where the arc was spread over the whole circle."""


@dataclass(frozen=True)
class Line(Manifold):
    """The real line."""

    def contains(self, x: Float[Tensor, "*batch"]) -> Bool[Tensor, "*batch"]:
        return torch.isfinite(x)


UNIT_MANIFOLDS: dict[str, Manifold] = {"circle": Circle(), "interval": Interval(), "line": Line()}
"""The manifolds on which transforms act, by name."""

FULL_TURN = 2 * math.pi
"""The period of a torsion, radians."""


@dataclass(frozen=True)
class Column:
    """One named coordinate and the manifold it lives on."""

    name: str
    manifold: Manifold


@dataclass(frozen=True)
class Product:
    """A product of one-dimensional manifolds: the named columns of a coordinate vector."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ManifoldError(f"Column names must be unique; these occur more than once: {', '.join(twice)}.")

    @classmethod
    def of(cls, manifold: Manifold, names: list[str]) -> Product:
        """The product of copies of one manifold."""
        return cls(tuple(Column(name, manifold) for name in names))

    def __len__(self) -> int:
        return len(self.columns)

    def __repr__(self) -> str:
        return described(self, f"{len(self)} columns: {self.kinds}" if self.columns else "no columns")

    @property
    def kinds(self) -> str:
        """How many columns live on each kind of manifold, like ``39 interval, 21 circle``."""
        return counted(column.manifold.name for column in self)

    def first_difference(self, other: Product) -> str:
        """Where another product differs first, as part of a sentence; empty if it is equal."""
        for mine, theirs in zip_longest(self.columns, other.columns):
            if mine != theirs:
                return " and ".join("nothing" if c is None else f'"{c.name}" on {c.manifold}' for c in (mine, theirs))
        return ""

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)

    def index(self, name: str) -> int:
        """The position of the column of that name.

        Raises:
            UnknownNameError: If there is none; names those that there are.
        """
        if name not in self.names:
            raise UnknownNameError("column", name, self.names)
        return self.names.index(name)

    def indices(self, kind: type[Manifold]) -> list[int]:
        """Positions of the columns that live on manifolds of one kind; an arc is a kind of its own."""
        return [i for i, column in enumerate(self.columns) if type(column.manifold) is kind]

    def select(self, indices: list[int]) -> Product:
        """The product of some of the columns, in the order given."""
        return Product(tuple(self.columns[i] for i in indices))

    def replace(self, manifolds: dict[int, Manifold]) -> Product:
        """The same columns with some manifolds exchanged."""
        return Product(
            tuple(Column(column.name, manifolds.get(i, column.manifold)) for i, column in enumerate(self.columns))
        )

    def require_inside(self, x: Float[Tensor, "batch dim"], what: str) -> None:
        """Raise a `ManifoldError` that names the first row and column of ``x`` outside the product."""
        if x.ndim != 2 or x.shape[-1] != len(self):
            raise ManifoldError(
                f"{what} must have shape (batch, {len(self)}), one column per coordinate; got {tuple(x.shape)}."
            )
        for i, column in enumerate(self.columns):
            outside = ~column.manifold.contains(x[:, i])
            if bool(outside.any()):
                row = int(outside.nonzero()[0])
                raise ManifoldError(
                    f'{what}: row {row}, column {i} ("{column.name}") is {x[row, i].item():.6g}, '
                    f"outside {column.manifold}."
                )
