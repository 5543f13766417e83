"""What the clauses of a transform's contract are checked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.manifolds import Circle, Interval, Manifold
from ..core.transforms import Transform

TransformFactory = Callable[[Manifold], Transform]
"""Makes a transform of a manifold: its class, or a `functools.partial` of it with options."""

DTYPES = (torch.float32, torch.float64)

N_PLACES = 128
"""Points of a structured grid for each vector of parameters: every percent of the manifold is visited."""

CORNERS = (3.0, 10.0)
"""Distances of single parameters, and of corners of all of them, from the initial values."""

N_CORNERS = 32
"""Corners of each distance: with random signs, each combination of two parameters' signs is among them."""


@dataclass(frozen=True)
class TransformCase:
    """A transform of one manifold, and a source of points and parameters.

    Attributes:
        factory: Made the transform.
        transform: Transform of ``manifold``.
        manifold: A unit manifold.
        seed: Seed of the random numbers; every clause starts anew from it.
        compile_backend: For the clause that compiles.
    """

    factory: TransformFactory
    transform: Transform
    manifold: Manifold
    seed: int
    compile_backend: str

    def generator(self) -> torch.Generator:
        """A fresh source of the same random numbers."""
        return torch.Generator().manual_seed(self.seed)

    def points(self, n: int, dtype: torch.dtype, generator: torch.Generator) -> Float[Tensor, "n"]:
        """Random points: uniform on circle and interval, normal with standard deviation 3 on the line."""
        if isinstance(self.manifold, Circle | Interval):
            # the same points in both dtypes
            return torch.rand(n, generator=generator, dtype=torch.float32).to(dtype)
        return (3 * torch.randn(n, generator=generator, dtype=torch.float32)).to(dtype)

    def structured(self, dtype: torch.dtype) -> tuple[Float[Tensor, "n"], Float[Tensor, "n n_params"]]:
        """Points and parameters that leave no corner out.

        Ordinary parameters, each parameter alone at large values, and corners of all of them, each with points in every
        percent of the manifold: of circle and interval, or between the quantiles of 1e-6 of a normal distribution with
        standard deviation 3.
        """
        generator = self.generator()
        n_params = self.transform.n_params
        initial = self.transform.initial_params()
        alone = torch.cat([sign * distance * torch.eye(n_params) for distance in CORNERS for sign in (-1, 1)])
        signs = 2.0 * torch.randint(0, 2, (N_CORNERS, n_params), generator=generator) - 1
        corners = torch.cat([distance * signs for distance in CORNERS])
        ordinary = torch.randn((N_CORNERS, n_params), generator=generator)
        # off the initial values, where what is kinked may be symmetric
        aside = 0.1 * torch.randn((len(alone) + len(corners), n_params), generator=generator)
        rows = initial + torch.cat([ordinary, torch.cat([alone, corners]) + aside])
        offsets = torch.rand((len(rows), 1), generator=generator)
        places = (torch.arange(N_PLACES) + offsets) / N_PLACES
        if not isinstance(self.manifold, Circle | Interval):
            places = 3 * torch.special.ndtri(1e-6 + (1 - 2e-6) * places.double()).float()
        return places.flatten().to(dtype), rows.repeat_interleave(N_PLACES, dim=0).to(dtype)

    def ordinary(self, n: int, dtype: torch.dtype, generator: torch.Generator) -> Float[Tensor, "n n_params"]:
        """Parameters at a standard normal distance from the initial ones; the first row is the initial ones."""
        return self._around(torch.ones(n), dtype, generator)

    def extreme(self, n: int, dtype: torch.dtype, generator: torch.Generator) -> Float[Tensor, "n n_params"]:
        """Parameters 4 to 50 standard deviations from the initial ones."""
        return self._around(torch.tensor([4.0, 12.0, 50.0]).repeat(n)[:n], dtype, generator)

    def _around(
        self, spread: Float[Tensor, "n"], dtype: torch.dtype, generator: torch.Generator
    ) -> Float[Tensor, "n n_params"]:
        noise = torch.randn((len(spread), self.transform.n_params), generator=generator)
        noise[0] *= spread[0] > 1
        return (self.transform.initial_params() + spread[:, None] * noise).to(dtype)

    def distance(self, a: Float[Tensor, "*batch"], b: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """How far apart points are."""
        return self.manifold.difference(a, b).abs()


def log_slope(
    function: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Float[Tensor, "n"], params: Tensor
) -> Float[Tensor, "n"]:
    """Log-derivative of an elementwise function by automatic differentiation; NaN where it is not increasing."""
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        y, _ = function(x, params)
        (dydx,) = torch.autograd.grad(y.sum(), x)
    return dydx.log()
