"""Smooth networks from conditioning columns to transform parameters."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .manifolds import Circle, Interval, Product


class Conditioner(nn.Module, ABC):
    """A C-infinity map from conditioning columns to unconstrained transform parameters."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "batch n_conditioning"]) -> Float[Tensor, "batch n_outputs"]:
        """The parameters given the conditioning columns."""


class CircularFeatures(nn.Module):
    r"""Features of unit coordinates that are smooth on their manifolds.

    A circle enters as :math:`\cos 2\pi k x, \sin 2\pi k x` for k = 1 .. ``n_harmonics``, an interval as 2x - 1, a line
    as itself.
    """

    def __init__(self, domain: Product, n_harmonics: int) -> None:
        super().__init__()
        circles = domain.indices(Circle)
        others = [i for i in range(len(domain)) if i not in circles]
        self.n_features = 2 * n_harmonics * len(circles) + len(others)
        self.n_circles = len(circles)
        is_interval = torch.tensor([isinstance(domain.columns[i].manifold, Interval) for i in others])
        self.register_buffer("circles", torch.tensor(circles, dtype=torch.long), persistent=False)
        self.register_buffer("others", torch.tensor(others, dtype=torch.long), persistent=False)
        self.register_buffer("scale", torch.where(is_interval, 2.0, 1.0), persistent=False)
        self.register_buffer("offset", torch.where(is_interval, -1.0, 0.0), persistent=False)
        self.register_buffer(
            "frequencies",
            2 * math.pi * torch.arange(1, n_harmonics + 1, dtype=torch.float64),
            persistent=False,
        )
        self.circles: Tensor
        self.others: Tensor
        self.scale: Tensor
        self.offset: Tensor
        self.frequencies: Tensor

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch n_features"]:
        features = [take_columns(x, self.others) * self.scale.to(x.dtype) + self.offset.to(x.dtype)]
        if self.n_circles:
            phases = (take_columns(x, self.circles)[:, :, None] * self.frequencies.to(x.dtype)).flatten(1)
            features += [phases.cos(), phases.sin()]
        return torch.cat(features, dim=-1)


class MLPConditioner(Conditioner):
    """A perceptron with SiLU activations on smooth features of the conditioning columns.

    Args:
        domain: The conditioning columns; may be empty, and then the parameters are learned constants.
        initial_outputs: What the network returns before training, up to small random weights.
        hidden: Width of each hidden layer.
        n_hidden_layers: Number of hidden layers.
        n_harmonics: Harmonics of each circle among the features.
    """

    def __init__(
        self,
        domain: Product,
        initial_outputs: Float[Tensor, "n_outputs"],
        hidden: int = 96,
        n_hidden_layers: int = 2,
        n_harmonics: int = 3,
    ) -> None:
        super().__init__()
        self.features = CircularFeatures(domain, n_harmonics)
        widths = [self.features.n_features, *[hidden] * n_hidden_layers]
        blocks: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            blocks += [nn.Linear(n_in, n_out), nn.SiLU()]
        last = nn.Linear(widths[-1], len(initial_outputs))
        with torch.no_grad():
            # small, so that training starts near the initial transform; not zero, so that every weight has a gradient
            last.weight.mul_(0.1)
            last.bias.copy_(initial_outputs)
        self.network = nn.Sequential(*blocks, last)

    def forward(self, x: Float[Tensor, "batch n_conditioning"]) -> Float[Tensor, "batch n_outputs"]:
        outputs: Tensor = self.network(self.features(x))
        return outputs


def take_columns(x: Float[Tensor, "batch dim"], indices: Tensor) -> Float[Tensor, "batch n_indices"]:
    """Columns of ``x`` in the order of ``indices``.

    By ``gather``: compilers have been seen to give wrong forward-over-reverse derivatives of ``x[:, indices]``.
    """
    return x.gather(-1, indices.expand(x.shape[0], -1))
