"""Invertible maps of a coordinate vector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .conditioners import Conditioner, take_columns
from .display import counted, described, n_weights
from .errors import ConfigurationError, ManifoldError
from .manifolds import Arc, Manifold, Product
from .transforms import Transform


class Layer(nn.Module, ABC):
    r"""An invertible map from a product of manifolds (data side) to another (latent side).

    `encode` goes from data to latent, `decode` back; both return the image and the logarithm of the absolute
    Jacobian determinant of the map applied.
    """

    domain: Product
    """The columns on the data side."""

    codomain: Product
    """The columns on the latent side."""

    n_context: int = 0
    """Number of features of a context on which the map depends: `encode` and `decode` then take it, (batch, n_context),
    as their second argument. A layer that takes none is given none."""

    def __repr__(self) -> str:
        if not (hasattr(self, "domain") and hasattr(self, "codomain")):  # not made yet
            return described(self, self.extra_repr())
        ends = self.domain.kinds if self.domain == self.codomain else f"{self.domain.kinds} to {self.codomain.kinds}"
        return described(self, f"{len(self.domain)} columns: {ends}", self.extra_repr())

    @abstractmethod
    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Data to latent, and log|det dz/dx|."""

    @abstractmethod
    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Latent to data, and log|det dx/dz|."""


class Sequential(Layer):
    """Layers one after another, the first nearest to the data."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        if not layers:
            raise ConfigurationError("A sequence of layers needs at least one layer.")
        for first, second in pairwise(layers):
            if first.codomain != second.domain:
                raise ManifoldError(
                    f"{type(first).__name__} maps onto other columns than those from which the next layer, "
                    f"{type(second).__name__}, starts: first {first.codomain.first_difference(second.domain)}."
                )
        contexts = sorted({layer.n_context for layer in layers} - {0})
        if len(contexts) > 1:
            raise ConfigurationError(
                f"The layers of a sequence have one context; these take contexts of {contexts[0]} and of {contexts[1]} "
                "features."
            )
        self.n_context = contexts[0] if contexts else 0
        self.layers = nn.ModuleList(layers)
        self.domain = layers[0].domain
        self.codomain = layers[-1].codomain

    def extra_repr(self) -> str:
        return f"{len(self.layers)} layers: {counted(type(layer).__name__ for layer in self.layers)}"

    def encode(
        self, x: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        total = x.new_zeros(x.shape[0])
        for layer in cast("Sequence[Layer]", self.layers):
            x, log_abs_det = layer.encode(x, *given(layer, context))
            total = total + log_abs_det
        return x, total

    def decode(
        self, z: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        total = z.new_zeros(z.shape[0])
        for layer in reversed(cast("Sequence[Layer]", self.layers)):
            z, log_abs_det = layer.decode(z, *given(layer, context))
            total = total + log_abs_det
        return z, total


def given(layer: Layer, context: Float[Tensor, "batch n_context"] | None) -> tuple[Tensor, ...]:
    """What a layer's map is given beside the coordinates: the context, if it depends on one."""
    return (context,) if context is not None and layer.n_context > 0 else ()


def conditioned(
    conditioner: nn.Module,
    columns: Float[Tensor, "batch n_conditioning"],
    context: Float[Tensor, "batch n_context"] | None,
) -> Float[Tensor, "batch n_outputs"]:
    """What a conditioner gives, with the context if it takes one.

    Raises:
        ConfigurationError: If it takes a context and there is none, or the other way around.
    """
    # any module does for a conditioner, if it takes no context
    n_context = int(getattr(conditioner, "n_context", 0))
    if (context is None) != (n_context == 0):
        raise ConfigurationError(
            f"The conditioner of this layer takes a context of {n_context} features, and "
            f"{'none' if context is None else 'one'} was given."
        )
    outputs: Tensor = conditioner(columns) if context is None else conditioner(columns, context)
    return outputs


class Group(NamedTuple):
    """Columns of a coupling that one transform maps.

    Attributes:
        transform: Maps them.
        n_columns: How many they are.
        n_outputs: Outputs of the conditioner for each.
        on_arcs: Whether they are arcs.
    """

    transform: Transform
    n_columns: int
    n_outputs: int
    on_arcs: bool


class Coupling(Layer):
    r"""Some columns are transformed, with parameters that a network computes from other columns, left as they are.

    .. math:: z_i = f(x_i; p_i(x_C)), \; i \in T, \qquad z_j = x_j, \; j \notin T, \qquad C \cap T = \emptyset

    Args:
        domain: All columns; a coupling maps this product onto itself.
        transformed: Indices of the transformed columns T.
        conditioning: Indices of the conditioning columns C.
        transforms: For each kind of manifold among T, the transform of its columns.
        conditioner: From columns C (in the order given) to the parameters of the columns T: all of the first manifold
            kind in ``transforms``, column after column, then of the next kind.
        analytic: Which direction uses the transforms' analytic one.
        arc_constants: The last parameters of the arcs' transform for each transformed arc, where these are not left to
            the conditioner.

    An arc of period P is mapped by a transform of the unit circle, in units of P. The parameters depend on a context as
    well if the conditioner takes one.

    Reference: Dinh et al., Density estimation using Real NVP, ICLR 2017, arXiv 1605.08803.
    """

    def __init__(
        self,
        domain: Product,
        transformed: Sequence[int],
        conditioning: Sequence[int],
        transforms: Mapping[type[Manifold], Transform],
        conditioner: Conditioner,
        analytic: Literal["encode", "decode"] = "encode",
        arc_constants: Float[Tensor, "n_arcs n_constants"] | None = None,
    ) -> None:
        super().__init__()
        both = sorted(set(transformed) & set(conditioning))
        if both:
            names = ", ".join(domain.names[i] for i in both)
            raise ConfigurationError(f"Columns cannot be both transformed and conditioning: {names}.")
        self.domain = self.codomain = domain
        self.conditioner = conditioner
        # any module does for a conditioner, if it takes no context
        self.n_context = int(getattr(conditioner, "n_context", 0))
        self.analytic = analytic
        self.groups: list[Group] = []
        grouped: list[int] = []
        arcs = [i for i in transformed if isinstance(domain.columns[i].manifold, Arc)]
        constants = torch.zeros(len(arcs), 0) if arc_constants is None else arc_constants
        for kind, transform in transforms.items():
            members = [i for i in transformed if type(domain.columns[i].manifold) is kind]
            if members:
                n_fixed = constants.shape[1] if kind is Arc else 0
                self.groups.append(Group(transform, len(members), transform.n_params - n_fixed, kind is Arc))
                grouped += members
        missing = sorted(set(transformed) - set(grouped))
        if missing:
            column = domain.columns[missing[0]]
            raise ConfigurationError(
                f'Column "{column.name}" lives on the {column.manifold.name}, for which no transform was given.'
            )
        kept = [i for i in range(len(domain)) if i not in set(transformed)]
        order = torch.argsort(torch.tensor([*kept, *grouped], dtype=torch.long))
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.long), persistent=False)
        self.register_buffer("grouped", torch.tensor(grouped, dtype=torch.long), persistent=False)
        self.register_buffer("conditioning", torch.tensor(conditioning, dtype=torch.long), persistent=False)
        self.register_buffer("order", order, persistent=False)
        periods = [cast("Arc", domain.columns[i].manifold).period for i in arcs]
        self.register_buffer("periods", torch.tensor(periods, dtype=torch.float64), persistent=False)
        self.register_buffer("arc_constants", constants.double(), persistent=False)
        self.kept: Tensor
        self.grouped: Tensor
        self.conditioning: Tensor
        self.order: Tensor
        self.periods: Tensor
        self.arc_constants: Tensor

    def extra_repr(self) -> str:
        parts = [
            f"{group.n_columns} {'arc' if group.on_arcs else group.transform.manifold.name} by {group.transform!r}"
            for group in self.groups
        ]
        others = f"{len(self.conditioning)}" + (f" and {self.n_context} of context" if self.n_context else "")
        return f"{' and '.join(parts)} given {others}, analytic {self.analytic}, {n_weights(self)}"

    @staticmethod
    def initial_outputs(
        domain: Product,
        transformed: Sequence[int],
        transforms: Mapping[type[Manifold], Transform],
        n_arc_constants: int = 0,
    ) -> Float[Tensor, "n_outputs"]:
        """The conditioner's outputs from which training starts, in the order that `Coupling` expects."""
        pieces = [
            transform.initial_params()[: transform.n_params - (n_arc_constants if kind is Arc else 0)]
            for kind, transform in transforms.items()
            for i in transformed
            if type(domain.columns[i].manifold) is kind
        ]
        return torch.cat(pieces)

    def encode(
        self, x: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        return self._apply_transforms(x, context, self.analytic == "encode")

    def decode(
        self, z: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        return self._apply_transforms(z, context, self.analytic == "decode")

    def _apply_transforms(
        self, x: Float[Tensor, "batch dim"], context: Float[Tensor, "batch n_context"] | None, analytically: bool
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        outputs = conditioned(self.conditioner, take_columns(x, self.conditioning), context)
        values = torch.split(take_columns(x, self.grouped), [group.n_columns for group in self.groups], dim=-1)
        params = torch.split(outputs, [group.n_columns * group.n_outputs for group in self.groups], dim=-1)
        pieces = [take_columns(x, self.kept)]
        log_derivatives = []
        for group, value, flat in zip(self.groups, values, params, strict=True):
            own = flat.reshape(-1, group.n_columns, group.n_outputs)
            if group.on_arcs:
                constants = self.arc_constants.to(x.dtype).expand(x.shape[0], -1, -1)
                periods = self.periods.to(x.dtype)
                own = torch.cat([own, constants], dim=-1)
                image, log_derivative = group.transform.apply(value / periods, own, analytically)
                image = image * periods
            else:
                image, log_derivative = group.transform.apply(value, own, analytically)
            pieces.append(image)
            log_derivatives.append(log_derivative)
        log_abs_det = torch.cat(log_derivatives, dim=-1).sum(-1)
        return take_columns(torch.cat(pieces, dim=-1), self.order), log_abs_det
