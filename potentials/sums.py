"""Weighted sums of potentials."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.errors import ConfigurationError, TopologyError
from ..core.potential import Potential


class SumPotential(Potential):
    r"""A weighted sum of potentials of the same system: a flow and a prior, or an interpolation between two.

    .. math:: U(x) = \sum_i w_i U_i(x)

    Args:
        potentials: At least one; all of one shape and, where they have a topology, of the same elements.
        weights: One for each; all 1 if left out.

    Raises:
        ConfigurationError: If there is none, or the numbers of potentials and weights differ.
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
        for i, potential in enumerate(potentials):
            if potential.shape != self.shape:
                raise TopologyError(
                    f"Potential {i} of a sum takes configurations of shape {potential.shape}, and the first one of "
                    f"shape {self.shape}. Add potentials of one system."
                )
            if self.topology is None:
                self.topology = potential.topology
            elif potential.topology is not None:
                self.topology.require_elements(
                    potential.topology.elements, "the first potential", f"potential {i} of the sum"
                )
        self.potentials = nn.ModuleList(potentials)

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        return torch.stack([w * p(positions) for w, p in zip(self.weights, self.potentials, strict=True)]).sum(0)
