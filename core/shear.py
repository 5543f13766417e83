"""A map that takes correlations away, with coefficients that are learned functions of other columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from .conditioners import Conditioner, take_columns
from .display import n_weights
from .errors import ConfigurationError
from .layers import Layer, conditioned
from .manifolds import FULL_TURN, Arc, Line, Product

REACH = 8.0
"""Bound w of what a line moves others by: in the bulk, where lines are about standard normal, they do so linearly."""


class Shear(Layer):
    r"""Each column is moved by a combination of those before it, with coefficients that a network computes.

    .. math:: z_i = x_i - b_i(x_C) - \sum_{j < i} M_{ij}(x_C) \, s_j(x_j), \qquad
        s_j(x) = w \tanh \frac{x}{w} \text{ on lines}, \quad
        s_j(x) = \frac{P}{2 \pi} \sin \frac{2 \pi x}{P} \text{ on arcs of period } P

    Both s are the column itself where there are data, so that columns which are normal and correlated given the columns
    C, such as the vibrations of a molecule given its slow torsions, become uncorrelated in one such map. Far outside
    they are bounded: a bond that is torn moves others no further than one that is stretched. The Jacobian is triangular
    with a unit diagonal, so that log|det| is zero. Arcs come first and are rotated; back from z, columns are found one
    after another.

    Args:
        domain: All columns; a shear maps this product onto itself.
        moved: Indices of the moved columns, lines and arcs.
        conditioning: Indices of the conditioning columns C.
        conditioner: From columns C (in the order given) to b for all moved columns, arcs first, then to the
            coefficients of all pairs j < i, row after row.

    Raises:
        ConfigurationError: If a moved column is neither line nor arc, or is a conditioning one.

    Reference: Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, NeurIPS 2016, appendix A
        (the linear map), arXiv 1606.04934.
    """

    def __init__(
        self,
        domain: Product,
        moved: Sequence[int],
        conditioning: Sequence[int],
        conditioner: Conditioner,
    ) -> None:
        super().__init__()
        self.domain = self.codomain = domain
        self.conditioner = conditioner
        self.n_context = int(getattr(conditioner, "n_context", 0))
        members = _order(domain, moved)
        both = sorted(set(moved) & set(conditioning))
        if both or len(members) < len(moved):
            raise ConfigurationError("A shear moves lines and arcs that are not among its conditioning columns.")
        n = len(members)
        self.n_arcs = len(domain.select(members).indices(Arc))
        # where each element of the matrix is among the coefficients; one more stands for zero
        places = torch.full((n, n), n * (n - 1) // 2, dtype=torch.long)
        rows, columns = torch.tril_indices(n, n, -1)
        places[rows, columns] = torch.arange(len(rows))
        kept = [i for i in range(len(domain)) if i not in set(members)]
        periods = [cast("Arc", domain.columns[i].manifold).period for i in members[: self.n_arcs]]
        self._add("members", torch.tensor(members, dtype=torch.long))
        self._add("kept", torch.tensor(kept, dtype=torch.long))
        self._add("order", torch.argsort(torch.tensor([*kept, *members], dtype=torch.long)))
        self._add("conditioning", torch.tensor(conditioning, dtype=torch.long))
        self._add("places", places.flatten())
        self._add("periods", torch.tensor(periods, dtype=torch.float64))
        self.members: Tensor
        self.kept: Tensor
        self.order: Tensor
        self.conditioning: Tensor
        self.places: Tensor
        self.periods: Tensor

    def _add(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def extra_repr(self) -> str:
        return f"{len(self.members)} moved given {len(self.conditioning)}, {n_weights(self)}"

    def encode(
        self, x: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        shift, matrix = self._coefficients(x, context)
        values = take_columns(x, self.members)
        arcs, lines = values[:, : self.n_arcs], values[:, self.n_arcs :]
        sources = torch.cat([_of_arcs(arcs, self.periods.to(x.dtype)), _of_lines(lines)], dim=-1)
        moved = values - shift - (matrix @ sources[:, :, None]).squeeze(-1)
        return self._assembled(x, moved), x.new_zeros(x.shape[0])

    def decode(
        self, z: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        shift, matrix = self._coefficients(z, context)
        periods = self.periods.to(z.dtype)
        values = take_columns(z, self.members) + shift
        found: list[Tensor] = []
        sources = values[:, :0]
        for i in range(len(self.members)):
            column = values[:, i] + (matrix[:, i, :i] * sources).sum(-1)
            found.append(column)
            source = _of_arcs(column, periods[i]) if i < self.n_arcs else _of_lines(column)
            sources = torch.cat([sources, source[:, None]], dim=-1)
        return self._assembled(z, torch.stack(found, dim=-1)), z.new_zeros(z.shape[0])

    def _coefficients(
        self, x: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None
    ) -> tuple[Float[Tensor, "batch moved"], Float[Tensor, "batch moved moved"]]:
        """The shifts b and the matrix M."""
        outputs = conditioned(self.conditioner, take_columns(x, self.conditioning), context)
        n = len(self.members)
        padded = torch.cat([outputs[:, n:], outputs.new_zeros(outputs.shape[0], 1)], dim=-1)
        return outputs[:, :n], take_columns(padded, self.places).reshape(-1, n, n)

    def _assembled(
        self, x: Float[Tensor, "batch dim"], moved: Float[Tensor, "batch moved"]
    ) -> Float[Tensor, "batch dim"]:
        """All columns in order, arcs next to 0."""
        if self.n_arcs:
            periods = self.periods.to(x.dtype)
            arcs = moved[:, : self.n_arcs]
            arcs = arcs - periods * torch.round((arcs / periods).detach())
            moved = torch.cat([arcs, moved[:, self.n_arcs :]], dim=-1)
        return take_columns(torch.cat([take_columns(x, self.kept), moved], dim=-1), self.order)


def _order(domain: Product, moved: Sequence[int]) -> list[int]:
    """The moved columns in the order in which a shear takes them: arcs, then lines."""
    return [i for kind in (Arc, Line) for i in moved if isinstance(domain.columns[i].manifold, kind)]


def _of_arcs(x: Float[Tensor, "*batch"], periods: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """What arcs move others by: themselves next to 0, and periodic."""
    turns = FULL_TURN / periods
    return (x * turns).sin() / turns


def _of_lines(x: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """What lines move others by: themselves next to 0, and bounded."""
    return REACH * torch.tanh(x / REACH)
