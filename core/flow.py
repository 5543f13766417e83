"""A normalizing flow: a base distribution and layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .charts import LOG_SQRT_FULL_TURN
from .conditioners import take_columns
from .display import counted, described, html_table, n_weights
from .errors import ConfigurationError
from .inversion import generated
from .layers import Coupling, Layer, Sequential, given
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

    A flow whose layers depend on a context c is a conditional density, :math:`p(x | c)`. The context is given with
    every x, or bound once by `at`.

    Args:
        layer: The invertible map, usually a `Sequential`; the base lives on its codomain.
        settings: The architecture that `build_flow` made it of; a flow without cannot be saved.

    Attributes:
        n_context: Number of features of the context; 0 for none.
        context: The context to which the flow is bound, (n_context,), or None.
    """

    def __init__(self, layer: Layer, settings: FlowSettings | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.settings = settings
        self.base = Base(layer.codomain)
        self.n_context = layer.n_context
        self.register_buffer("context", None, persistent=False)
        self.context: Tensor | None

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
            *([("context", self._bound_to())] if self.n_context else []),
            ("weights", n_weights(self)),
        ]

    def _bound_to(self) -> str:
        """The context, for people."""
        values = "" if self.context is None else f" ({', '.join(f'{value:.4g}' for value in self.context.tolist())})"
        return f"{self.n_context} feature{'s' if self.n_context > 1 else ''}{values}"

    @property
    def domain(self) -> Product:
        """The columns on the data side."""
        return self.layer.domain

    def at(self, context: Float[Tensor, "n_context"] | Sequence[float]) -> Flow:
        """The flow in one context: the density of x alone, with the same weights, which are shared.

        Args:
            context: Its features.

        Raises:
            ConfigurationError: If these are not `n_context` finite numbers, or the flow takes none.
        """
        values = torch.as_tensor(context, dtype=torch.float64).detach().to(next(self.parameters()).device)
        if self.n_context == 0 or values.shape != (self.n_context,) or not bool(values.isfinite().all()):
            raise self._refused(f"{values.tolist()} was given")
        bound = Flow(self.layer, self.settings)
        bound.base, bound.context = self.base, values
        bound.training = self.training
        return bound

    def _refused(self, what: str) -> ConfigurationError:
        if self.n_context == 0:
            return ConfigurationError(f"The flow does not depend on a context, and {what}. Leave it out.")
        return ConfigurationError(
            f"The flow depends on a context of {self.n_context} finite features, and {what}. Give context with every "
            f"configuration, (batch, {self.n_context}), or bind the flow to one: flow.at(context)."
        )

    def _contexts(
        self, x: Float[Tensor, "batch dim"], context: Tensor | None
    ) -> Float[Tensor, "batch n_context"] | None:
        """The context of each configuration: what is given, or what the flow is bound to; None if it takes none."""
        if context is None:
            if self.n_context == 0:
                return None
            context = self.context
        if context is None:
            raise self._refused("none was given")
        n = context.shape[-1] if context.dim() in (1, 2) else 0
        if self.n_context == 0 or n != self.n_context or (context.dim() == 2 and context.shape[0] != x.shape[0]):
            raise self._refused(f"one of shape {tuple(context.shape)} was given with {x.shape[0]} configurations")
        return context.to(x).expand(x.shape[0], -1)

    def encode(
        self, x: Float[Tensor, "batch dim"], context: Float[Tensor, "*batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Data to latent, and log|det dz/dx|."""
        return self.layer.encode(x, *given(self.layer, self._contexts(x, context)))

    def decode(
        self, z: Float[Tensor, "batch dim"], context: Float[Tensor, "*batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Latent to data, and log|det dx/dz|."""
        return self.layer.decode(z, *given(self.layer, self._contexts(z, context)))

    def log_prob(
        self, x: Float[Tensor, "batch dim"], context: Float[Tensor, "*batch n_context"] | None = None
    ) -> Float[Tensor, "batch"]:
        """Log-density with respect to the domain's coordinates; minus infinity outside of its intervals.

        Args:
            x: Coordinates.
            context: Features of the context, of each or of all of them; by default what the flow is bound to.

        Raises:
            ConfigurationError: If the context is of another shape, or missing.
        """
        z, log_abs_det = self.encode(x, context)
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
        self,
        n_samples: int,
        generator: torch.Generator | None = None,
        *,
        seed: int | None = None,
        context: Float[Tensor, "*n_samples n_context"] | None = None,
    ) -> tuple[Float[Tensor, "n_samples dim"], Float[Tensor, "n_samples"]]:
        """Samples and their log-densities, differentiable with respect to the flow's parameters.

        Args:
            n_samples: How many to draw.
            generator: Generator of the random numbers; by default a new one.
            seed: Seed of the new generator; without it the numbers are different at every call.
            context: Features of the context, of each or of all of them; by default what the flow is bound to.

        Raises:
            ConfigurationError: If there is both a generator and a seed, or a number is not one that can be used; or if
                the context is of another shape, or missing.
        """
        return self.generate(self.latent(n_samples, generator, seed=seed), context)

    def latent(
        self, n_samples: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> Float[Tensor, "n_samples dim"]:
        """Latent vectors, drawn as `sample` draws them, on the flow's device; raises as it does."""
        generator = generator_of(n_samples, generator, seed)
        parameter = next(self.parameters())
        return self.base.sample(n_samples, generator, parameter.dtype).to(parameter.device)

    def generate(
        self, z: Float[Tensor, "batch dim"], context: Float[Tensor, "*batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """The samples of latent vectors, and their log-densities; the context as in `sample`."""
        contexts = None if context is None else self._contexts(z, context)
        if contexts is None:
            return generated(self._generate, z)
        n = z.shape[-1]
        # side by side, so that a sample that is generated again keeps its context
        return generated(lambda both: self._generate(both[:, :n], both[:, n:]), torch.cat([z, contexts], dim=-1))

    def _generate(
        self, z: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        x, log_abs_det = self.decode(z, context)
        return x, self.base.log_prob(z) - log_abs_det
