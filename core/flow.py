"""A normalizing flow: a base distribution and layers."""

from __future__ import annotations

import math
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .charts import LOG_SQRT_FULL_TURN
from .conditioners import take_columns
from .display import counted, described, html_table, n_weights
from .inversion import generated
from .layers import Coupling, Layer, Sequential
from .manifolds import Interval, Line, Product
from .randomness import generator_of

if TYPE_CHECKING:
    from .architecture import FlowSettings


class Base(nn.Module):
    """The base distribution: uniform on unit circles and unit intervals, standard normal on lines."""

    def __init__(self, domain: Product) -> None:
        super().__init__()
        self.domain = domain
        lines = domain.indices(Line)
        self.register_buffer("lines", torch.tensor(lines, dtype=torch.long), persistent=False)
        self.lines: Tensor

    def log_prob(self, z: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        """Log-density of latent vectors."""
        return (-0.5 * take_columns(z, self.lines) ** 2 - LOG_SQRT_FULL_TURN).sum(-1)

    def sample(self, n_samples: int, generator: torch.Generator, dtype: torch.dtype) -> Float[Tensor, "n_samples dim"]:
        """Latent vectors, drawn on the generator's device."""
        z = torch.rand((n_samples, len(self.domain)), generator=generator, dtype=dtype, device=generator.device)
        # random numbers lie on a grid of eps / 2 that begins with 0, the end of an interval, where lines are infinite;
        # in float32 that is drawn once in 17 million: the middle of the grid's first cell stands for it
        z.clamp_(min=torch.finfo(dtype).eps / 4)
        normal = torch.randn((n_samples, len(self.lines)), generator=generator, dtype=dtype, device=generator.device)
        return z.index_copy(-1, self.lines.to(z.device), normal)


class Flow(nn.Module):
    r"""A normalizing flow on a product of manifolds.

    .. math:: \log p(x) = \log p_0(z) + \log |\det \partial z / \partial x|, \qquad z = \mathrm{encode}(x)

    Args:
        layer: The invertible map, usually a `Sequential`; the base lives on its codomain.
        settings: The architecture that `build_flow` made it of; a flow without cannot be saved.
    """

    def __init__(self, layer: Layer, settings: FlowSettings | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.settings = settings
        self.base = Base(layer.codomain)

    def __repr__(self) -> str:
        return described(self, *(f"{name}: {value}" for name, value in self._rows()))

    def _repr_html_(self) -> str:
        layers = self.layer.layers if isinstance(self.layer, Sequential) else [self.layer]
        return html_table("Flow", [*self._rows(), *((f"layer {i}", repr(layer)) for i, layer in enumerate(layers))])

    def _rows(self) -> list[tuple[str, str]]:
        """What the flow is, by name."""
        couplings = [layer for layer in self.layer.modules() if isinstance(layer, Coupling)]
        used = dict.fromkeys(
            f"{group.transform.name} on {'arc' if group.on_arcs else group.transform.manifold.name}"
            for coupling in couplings
            for group in coupling.groups
        )
        layers = list(self.layer.layers) if isinstance(self.layer, Sequential) else [self.layer]
        return [
            ("columns", f"{len(self.domain)} ({self.domain.kinds})"),
            ("layers", f"{len(layers)} ({counted(type(layer).__name__ for layer in layers)})"),
            ("transforms", ", ".join(used) or "none"),
            ("weights", n_weights(self)),
        ]

    @property
    def domain(self) -> Product:
        """The columns on the data side."""
        return self.layer.domain

    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Data to latent, and log|det dz/dx|."""
        return self.layer.encode(x)

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Latent to data, and log|det dx/dz|."""
        return self.layer.decode(z)

    def log_prob(self, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        """Log-density with respect to the domain's coordinates; minus infinity outside of its intervals."""
        z, log_abs_det = self.encode(x)
        log_prob = self.base.log_prob(z) + log_abs_det
        outside = self._outside_intervals(x)
        return log_prob if outside is None else torch.where(outside, -torch.inf, log_prob)

    def _outside_intervals(self, x: Float[Tensor, "batch dim"]) -> Bool[Tensor, "batch"] | None:
        """Where a column lies outside its interval (not where it is NaN); None without intervals."""
        beyond = []
        # neighbours on one interval are compared at once, with numbers that need no place on a device
        for manifold, group in groupby(enumerate(self.domain), key=lambda item: item[1].manifold):
            if isinstance(manifold, Interval):
                places = [place for place, _ in group]
                columns = x[:, places[0] : places[-1] + 1]
                if manifold.lower > -math.inf:
                    beyond.append((columns < manifold.lower).any(-1))
                if manifold.upper < math.inf:
                    beyond.append((columns > manifold.upper).any(-1))
        return reduce(torch.logical_or, beyond) if beyond else None

    def sample(
        self, n_samples: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n_samples dim"], Float[Tensor, "n_samples"]]:
        """Samples and their log-densities, differentiable with respect to the flow's parameters.

        Args:
            n_samples: How many to draw.
            generator: Generator of the random numbers; by default a new one.
            seed: Seed of the new generator; without it the numbers are different at every call.

        Raises:
            ConfigurationError: If there is both a generator and a seed, or a number is not one that can be used.
        """
        return self.generate(self.latent(n_samples, generator, seed=seed))

    def latent(
        self, n_samples: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> Float[Tensor, "n_samples dim"]:
        """Latent vectors, drawn as `sample` draws them, on the flow's device; raises as it does."""
        generator = generator_of(n_samples, generator, seed)
        parameter = next(self.parameters())
        return self.base.sample(n_samples, generator, parameter.dtype).to(parameter.device)

    def generate(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """The samples of latent vectors, and their log-densities."""
        return generated(self._generate, z)

    def _generate(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        x, log_abs_det = self.decode(z)
        return x, self.base.log_prob(z) - log_abs_det
