"""Weighted sums of potentials."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.committee import common_topology
from ..core.errors import ConfigurationError
from ..core.identity import Geometry
from ..core.potential import Potential


class SumPotential(Potential):
    r"""A weighted sum of potentials of the same system: a flow and a prior, or an interpolation between two.

    .. math:: U(x) = \sum_i w_i U_i(x)

    Args:
        potentials: At least one; all of one shape, on one device and, where they have a topology, of one molecule. The
            sum is in the widest precision of theirs.
        weights: One for each; all 1 if left out.

    Raises:
        ConfigurationError: If there is none, the numbers of potentials and weights differ, or they are on several
            devices.
        TopologyError: If the potentials are of different systems.
    """

    def __init__(self, potentials: Sequence[Potential], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.weights = [1.0] * len(potentials) if weights is None else list(weights)
        if not potentials or len(self.weights) != len(potentials):
            raise ConfigurationError(
                f"A sum needs potentials, and one weight for each; got {len(potentials)} and {len(self.weights)}."
            )
        self.shape = potentials[0].shape
        self.topology = common_topology(potentials, "sum")
        self.potentials = nn.ModuleList(potentials)
        self.dtype = functools.reduce(torch.promote_types, (potential.dtype for potential in potentials))
        self.device = potentials[0].device

    def extra_repr(self) -> str:
        return " + ".join(f"{w:g} {type(p).__name__}" for w, p in zip(self.weights, self._parts, strict=True))

    @property
    def geometry(self) -> Geometry | None:
        """That of the first potential that knows one."""
        return next((p.geometry for p in self._parts if p.geometry is not None), None)

    @property
    def _parts(self) -> list[Potential]:
        return cast("list[Potential]", list(self.potentials))

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        # each in its own precision
        terms = [w * p(positions).to(self.dtype) for w, p in zip(self.weights, self.potentials, strict=True)]
        return torch.stack(terms).sum(0)
