"""Smooth networks from conditioning columns to transform parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .manifolds import FULL_TURN, Arc, Circle, Interval, Line, Product


class Conditioner(nn.Module, ABC):
    """A C-infinity map from conditioning columns, and a context if it takes one, to unconstrained parameters."""

    n_context: int = 0
    """Number of features of the context, which is the second argument then; one that takes none is given none."""

    @abstractmethod
    def forward(self, x: Float[Tensor, "batch n_conditioning"]) -> Float[Tensor, "batch n_outputs"]:
        """The parameters given the conditioning columns."""


class CircularFeatures(nn.Module):
    r"""Features of unit coordinates that are smooth on their manifolds.

    A circle enters as :math:`\cos 2\pi k x, \sin 2\pi k x` for k = 1 .. ``n_harmonics``, an interval as 2x - 1, a line
    as itself, and an arc of period P, with :math:`\theta = 2\pi x / P`, as :math:`(P / 2\pi) \sin \theta`, which is x
    next to 0, and :math:`(P / 2\pi) (1 - \cos \theta)`.
    """

    def __init__(self, domain: Product, n_harmonics: int) -> None:
        super().__init__()
        circles = domain.indices(Circle)
        intervals = domain.indices(Interval)
        lines = domain.indices(Line)
        arcs = domain.indices(Arc)
        # without any column, a constant: the parameters are then learned constants
        self.n_features = max(1, 2 * n_harmonics * len(circles) + len(intervals) + len(lines) + 2 * len(arcs))
        self.n_circles, self.n_intervals, self.n_lines = len(circles), len(intervals), len(lines)
        self.n_arcs = len(arcs)
        radii = [cast("Arc", domain.columns[i].manifold).period / FULL_TURN for i in arcs]
        self.register_buffer("radii", torch.tensor(radii, dtype=torch.float64), persistent=False)
        for name, members in (("circles", circles), ("intervals", intervals), ("lines", lines), ("arcs", arcs)):
            self.register_buffer(name, torch.tensor(members, dtype=torch.long), persistent=False)
        harmonics = torch.arange(1, n_harmonics + 1, dtype=torch.float64)
        self.register_buffer("frequencies", FULL_TURN * harmonics, persistent=False)
        self.circles: Tensor
        self.intervals: Tensor
        self.lines: Tensor
        self.arcs: Tensor
        self.radii: Tensor
        self.frequencies: Tensor

    def forward(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch n_features"]:
        # by kind and only where there are any: at batch size one, every operation counts
        features = []
        if self.n_lines:
            features.append(take_columns(x, self.lines))
        if self.n_arcs:
            radii = self.radii.to(x.dtype)
            turns = take_columns(x, self.arcs) / radii
            features += [radii * turns.sin(), radii * (1 - turns.cos())]
        if self.n_intervals:
            features.append(2 * take_columns(x, self.intervals) - 1)
        if self.n_circles:
            angles = take_columns(x, self.circles)[:, :, None] * self.frequencies.to(x.dtype)
            phases = angles.flatten(1)
            features += [phases.cos(), phases.sin()]
        return torch.cat(features, dim=-1) if features else x.new_ones(x.shape[0], 1)


class MLPConditioner(Conditioner):
    """A perceptron with SiLU activations on smooth features of the conditioning columns.

    Args:
        domain: The conditioning columns; may be empty, and then the parameters are learned constants.
        initial_outputs: What the network returns before training, up to small random weights.
        hidden: Width of each hidden layer.
        n_hidden_layers: Number of hidden layers.
        n_harmonics: Harmonics of each circle among the features.
        n_context: Number of features of the context, which are features of the network as they are.
    """

    def __init__(
        self,
        domain: Product,
        initial_outputs: Float[Tensor, "n_outputs"],
        hidden: int = 96,
        n_hidden_layers: int = 2,
        n_harmonics: int = 3,
        n_context: int = 0,
    ) -> None:
        super().__init__()
        self.n_context = n_context
        self.features = CircularFeatures(domain, n_harmonics)
        widths = [self.features.n_features + n_context, *[hidden] * n_hidden_layers]
        blocks: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            blocks += [nn.Linear(n_in, n_out), nn.SiLU()]
        last = nn.Linear(widths[-1], len(initial_outputs))
        with torch.no_grad():
            # small, so that training starts near the initial transform; not zero, so that every weight has a gradient
            last.weight.mul_(0.1)
            last.bias.copy_(initial_outputs)
        self.network = nn.Sequential(*blocks, last)

    def forward(
        self, x: Float[Tensor, "batch n_conditioning"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> Float[Tensor, "batch n_outputs"]:
        features: Tensor = self.features(x)
        outputs: Tensor = self.network(features if context is None else torch.cat([features, context], dim=-1))
        return outputs


def take_columns(x: Float[Tensor, "batch dim"], indices: Tensor) -> Float[Tensor, "batch n_indices"]:
    """Columns of ``x`` in the order of ``indices``.

    By ``gather``: compilers have been seen to give wrong forward-over-reverse derivatives of ``x[:, indices]``.
    """
    return x.gather(-1, indices.expand(x.shape[0], -1))
