"""From a few settings to a flow: which couplings, in which order, with which transforms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .charts import CumulativeNormal
from .conditioners import MLPConditioner
from .errors import ConfigurationError
from .flow import Flow
from .layers import Coupling, Layer, Sequential
from .manifolds import UNIT_MANIFOLDS, Arc, Circle, Interval, Line, Manifold, Product
from .plugins import registry
from .shear import Shear
from .transforms import Transform

DEFAULT_TRANSFORMS = MappingProxyType({"circle": "smooth", "interval": "smooth", "line": "affine"})

ARC_TRANSFORM = "affine"
"""The transform of arcs: as on lines, it carries the bulk of each conditional."""

SIZES = MappingProxyType(
    {
        "line_pairs": (0, 32),
        "interval_pairs": (0, 32),
        "circle_pairs": (0, 32),
        "hidden": (1, 2**16),
        "n_hidden_layers": (1, 8),
        "n_harmonics": (1, 1000),
        "context": (0, 1000),
        "seed": (0, 2**63 - 1),
    }
)
"""The smallest and the largest value of each whole number in `FlowSettings`; larger flows are mistakes, or attacks."""

LARGEST_OPTION = 10_000
"""Largest whole number among the options of transforms, such as a number of bins."""


@dataclass(frozen=True)
class FlowSettings:
    """The architecture of a flow.

    Data to latent: a shear and couplings of the lines and arcs, the map of lines onto intervals and of arcs onto
    circles, couplings of these, all conditioned on the other circles as well; then couplings of the other circles. So
    p = p(circles) p(lines, arcs | circles).

    Attributes:
        transforms: The transform of each kind of manifold, by name. Without one for the interval, lines stay lines.
        options: For each transform's name, arguments of its constructor, like ``{smooth: {n_components: 4}}``.
        line_pairs: Pairs of couplings over the lines (each half given the other).
        interval_pairs: Pairs of couplings over the intervals.
        circle_pairs: Pairs of couplings over the circles.
        hidden: Width of the conditioners' hidden layers.
        n_hidden_layers: Number of the conditioners' hidden layers.
        n_harmonics: Harmonics of each circle that enter the conditioners.
        tail_scale: Width of the cumulative normal that maps lines onto intervals, in standard deviations of the data.
        seed: Seed of the initial weights.
        narrow_torsions: Where torsions that keep to a small arc are charted: on the circle (``arc``), whose energy is
            smooth all around, or on the line, with a jump of the energy opposite to their mean, as in version 0.1.
        shear: Whether lines and arcs first pass through a `Shear`, whose coefficients depend on the other circles and
            which removes the correlations of vibrations.
        context: Number of features of a context, on which every coupling depends; 0 for none. In training it is 1 where
            frames are of several temperatures.
    """

    transforms: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_TRANSFORMS))
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    line_pairs: int = 1
    interval_pairs: int = 3
    circle_pairs: int = 3
    hidden: int = 96
    n_hidden_layers: int = 2
    n_harmonics: int = 3
    tail_scale: float = 1.5
    seed: int = 0
    narrow_torsions: Literal["arc", "line"] = "arc"
    shear: bool = True
    context: int = 0

    def __post_init__(self) -> None:
        for kind in self.transforms:
            if kind not in UNIT_MANIFOLDS:
                raise ConfigurationError(
                    f'Transforms are chosen for {", ".join(UNIT_MANIFOLDS)}; "{kind}" is not a kind of manifold.'
                )
        unused = sorted(set(self.options) - set(self.transforms.values()))
        if unused:
            raise ConfigurationError(f"Options are given for transforms that are not used: {', '.join(unused)}.")
        for name, (smallest, largest) in SIZES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not smallest <= value <= largest:
                raise ConfigurationError(f"{name} must be a whole number from {smallest} to {largest}; it is {value}.")
        for name, options in self.options.items():
            for option, value in options.items():
                if isinstance(value, int) and abs(value) > LARGEST_OPTION:
                    raise ConfigurationError(f"{option} of {name} must be at most {LARGEST_OPTION}; it is {value}.")
        if self.narrow_torsions not in ("arc", "line"):
            raise ConfigurationError(f'narrow_torsions must be "arc" or "line"; it is {self.narrow_torsions!r}.')
        if not 0 < self.tail_scale <= 1000:
            raise ConfigurationError(f"tail_scale must be positive and at most 1000; it is {self.tail_scale}.")

    @property
    def cuts_circles(self) -> bool:
        """Whether circles have to be cut open, for want of a transform that maps them."""
        return "circle" not in self.transforms

    def make_transforms(self) -> dict[type[Manifold], Transform]:
        """The transforms, one for each kind of manifold.

        Raises:
            UnknownNameError: If no plug-in offers a transform of that name.
            ManifoldError: If a transform does not map the kind of manifold it was chosen for.
            ConfigurationError: If a transform does not take an option.
        """
        made: dict[type[Manifold], Transform] = {}
        for kind, name in self.transforms.items():
            manifold = UNIT_MANIFOLDS[kind]
            options = self.options.get(name, {})
            try:
                made[type(manifold)] = registry().transform(name)(manifold, **options)
            except TypeError as error:
                raise ConfigurationError(
                    f'Transform "{name}" cannot take the options {dict(options)}: {error}.'
                ) from error
        return made


def transforms_for(name: str) -> dict[str, str]:
    """The transforms of a flow named after one transform: that one wherever it can be, well-tried ones elsewhere.

    A transform that maps lines and no interval gives a flow that leaves lines as they are. Otherwise an affine step on
    the lines carries the bulk of each conditional, and what the transform does not map is left to the smooth one.
    """
    kinds = {kind.__name__.lower() for kind in registry().transform(name).manifolds}
    if "line" in kinds and "interval" not in kinds:
        return {"circle": name if "circle" in kinds else "affine", "line": name}
    return {**DEFAULT_TRANSFORMS, **dict.fromkeys(sorted(kinds), name)}


def build_flow(settings: FlowSettings, start: Layer | Product) -> Flow:
    """The flow of these settings, with initial weights.

    Args:
        settings: The architecture.
        start: The chart of physical coordinates, or another first layer, or a product of unit manifolds to start from.

    Raises:
        ConfigurationError: If a column lives on a manifold for which no transform was chosen, or on none of the unit
            manifolds; names the columns.
    """
    transforms = settings.make_transforms()
    if isinstance(start, Product):
        _require_unit(start)
    domain = start if isinstance(start, Product) else start.codomain
    _require_transforms(settings, domain)
    layers: list[Layer] = [] if isinstance(start, Product) else [start]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        circles, lines, arcs = domain.indices(Circle), domain.indices(Line), domain.indices(Arc)
        has_intervals = Interval in transforms
        if lines or arcs:
            outer = dict(transforms)
            if arcs:
                outer[Arc] = registry().transform(ARC_TRANSFORM)(Circle())
            if settings.shear:
                layers.append(_shear(settings, domain, [*lines, *arcs], circles))
            n_pairs = settings.line_pairs + (0 if has_intervals else settings.interval_pairs)
            layers += _couplings(settings, outer, domain, sorted([*lines, *arcs]), circles, n_pairs)
        if arcs or (lines and has_intervals):
            to_unit = CumulativeNormal(domain, settings.tail_scale, lines=has_intervals)
            layers.append(to_unit)
            domain = to_unit.codomain
        if has_intervals:
            inner = dict(transforms)
            if arcs:
                inner[Arc] = transforms[Circle]
            members = sorted([*domain.indices(Interval), *arcs])
            layers += _couplings(settings, inner, domain, members, circles, settings.interval_pairs)
        layers += _couplings(settings, transforms, domain, circles, [], settings.circle_pairs)
    if not layers:
        raise ConfigurationError("These settings give a flow without a layer; ask for at least one pair of couplings.")
    flow = Flow(Sequential(layers), settings)
    if flow.n_context != settings.context:
        raise ConfigurationError("These settings give a flow without a coupling, which could depend on the context.")
    return flow


def _require_unit(domain: Product) -> None:
    """Raise a `ConfigurationError` that names the columns that need a chart before a transform can act on them."""
    units = UNIT_MANIFOLDS.values()
    others = [column for column in domain if column.manifold not in units and not isinstance(column.manifold, Arc)]
    if others:
        named = "; ".join(f'"{column.name}" on {column.manifold}' for column in others)
        raise ConfigurationError(
            "A flow starts from unit circles, unit intervals, lines and arcs, or from a chart onto them; these columns "
            f"are on others: {named}. Rescale them, or pass a chart."
        )


def _require_transforms(settings: FlowSettings, domain: Product) -> None:
    """Raise a `ConfigurationError` that names the columns that the settings would leave as they are."""
    for kind, manifold in UNIT_MANIFOLDS.items():
        columns = [column.name for column in domain if isinstance(column.manifold, type(manifold))]
        if not columns or kind in settings.transforms:
            continue
        # lines may go on to intervals as they are
        if kind == "line" and "interval" in settings.transforms and settings.line_pairs == 0:
            continue
        hint = ", or ask for no line_pairs" if kind == "line" and "interval" in settings.transforms else ""
        raise ConfigurationError(
            f"No transform was chosen for the {kind}, on which these columns live: {', '.join(columns)}. "
            f"Add one to the transforms, like {{{kind}: {DEFAULT_TRANSFORMS[kind]}}}{hint}."
        )


def _shear(settings: FlowSettings, domain: Product, moved: Sequence[int], context: Sequence[int]) -> Shear:
    """A shear that begins as the identity, up to small random coefficients."""
    n = len(moved)
    initial = torch.zeros(n + n * (n - 1) // 2)
    return Shear(domain, moved, context, _conditioner(settings, domain, context, initial))


def _couplings(
    settings: FlowSettings,
    transforms: Mapping[type[Manifold], Transform],
    domain: Product,
    members: Sequence[int],
    context: Sequence[int],
    n_pairs: int,
) -> list[Layer]:
    """Pairs of couplings over ``members``: each half is transformed given the other half and the context."""
    layers: list[Layer] = []
    n_bits = max(1, (len(members) - 1).bit_length())
    for pair in range(n_pairs):
        # halves by one bit of the rank: after n_bits pairs, every two columns have been apart
        halves = [[i for rank, i in enumerate(members) if (rank >> pair % n_bits) & 1 == side] for side in (0, 1)]
        for transformed, other in (halves, halves[::-1]):
            if not transformed:
                continue
            conditioning = [*other, *context]
            constants = _arc_constants(domain, transformed)
            initial = Coupling.initial_outputs(domain, transformed, transforms, constants.shape[1])
            conditioner = _conditioner(settings, domain, conditioning, initial)
            layers.append(Coupling(domain, transformed, conditioning, transforms, conditioner, arc_constants=constants))
    return layers


def _conditioner(
    settings: FlowSettings, domain: Product, conditioning: Sequence[int], initial: Float[Tensor, "n_outputs"]
) -> MLPConditioner:
    return MLPConditioner(
        domain.select(list(conditioning)),
        initial,
        settings.hidden,
        settings.n_hidden_layers,
        settings.n_harmonics,
        settings.context,
    )


def _arc_constants(domain: Product, transformed: Sequence[int]) -> Float[Tensor, "n_arcs n_constants"]:
    """The constant of the affine transform on each arc, its width; none on arcs of period one."""
    manifolds = [domain.columns[i].manifold for i in transformed]
    widths = [1 / manifold.period for manifold in manifolds if isinstance(manifold, Arc)]
    if set(widths) <= {1.0}:
        return torch.zeros(len(widths), 0)
    return torch.logit(torch.tensor(widths, dtype=torch.float64)).unsqueeze(-1)
