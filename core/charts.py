"""Charts: elementwise maps that carry physical coordinates to the unit manifolds on which transforms act."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .conditioners import take_columns
from .display import counted
from .errors import ConfigurationError
from .layers import Layer
from .manifolds import FULL_TURN, Arc, Circle, Column, Interval, Line, Manifold, Product

LOG_SQRT_FULL_TURN = 0.5 * math.log(FULL_TURN)

ChartKind = Literal["standard", "arc", "circle", "cut"]

WIDEST_ARC = FULL_TURN / 16
"""The largest scale of an arc, radians: the point opposite to its mean is then 8 scales away."""

LOG_FLOOR = -50.0
"""Logarithm of the share of the uniform distribution in that of an arc. It caps the wall between two turns at some
50 kT, where the wall of the normal distribution alone would have a sharp ridge; no sample ever comes from it."""

N_NEWTON = 8
"""Steps that find the quantile of a wrapped normal distribution from that of the normal one: where the two differ by
more than rounding, next to the point opposite to the mean, Newton's method takes one long step and then converges."""


@dataclass(frozen=True)
class ColumnChart:
    r"""How one physical column q, with location :math:`\mu` and scale :math:`\sigma`, is charted.

    - ``standard``: a length or an angle to the line, :math:`z = (h(q) - \mu) / \sigma`, where h is the identity but
      near the ends of the column's interval (0, b), which it carries to infinity,

      .. math:: h(q) = q + s \log(1 - e^{-q/s}) - s \log(1 - e^{-(b-q)/s}), \qquad
          h^{-1}(z) = s \log(1 + e^{z/s}) - s \log(1 + e^{(z-b)/s}),

      so that a density that is normal in z vanishes at the ends faster than any power, and its energy is a wall. With
      a softening s of 0, h is the identity; a torsion's difference is then taken the shorter way around, and there is
      a seam opposite to :math:`\mu` (models of version 0.1);
    - ``arc``: a narrow torsion to the circle in units of its width, :math:`z = (q - \mu) / \sigma \bmod 2\pi / \sigma`;
    - ``circle``: a torsion to the unit circle, :math:`z = (q - \mu) / 2\pi \bmod 1`;
    - ``cut``: a torsion, cut open opposite to :math:`\mu`, to the line, :math:`z = \Phi^{-1}((q - \mu) / 2\pi + 1/2)`.
    """

    kind: ChartKind
    location: float
    scale: float = 1.0
    softening: float = 0.0

    @property
    def manifold(self) -> Manifold:
        """The manifold that the chart maps onto."""
        if self.kind == "arc":
            return Arc(FULL_TURN / self.scale)
        return Circle() if self.kind == "circle" else Line()


class Chart(Layer):
    """From physical coordinates (nm, radians) to unit circles, arcs and standardized lines, column by column."""

    def __init__(self, domain: Product, columns: Sequence[ColumnChart]) -> None:
        super().__init__()
        if len(columns) != len(domain):
            raise ConfigurationError(f"{len(columns)} charts were given for {len(domain)} columns.")
        for column, chart in zip(domain, columns, strict=True):
            _require_chart(column, chart)
        self.columns = tuple(columns)
        self.domain = domain
        self.codomain = domain.replace({i: chart.manifold for i, chart in enumerate(columns)})
        softened = [i for i, c in enumerate(columns) if c.softening > 0]
        standard = [i for i, c in enumerate(columns) if c.kind == "standard" and c.softening == 0]
        by_kind = {kind: [i for i, c in enumerate(columns) if c.kind == kind] for kind in ("arc", "circle", "cut")}
        members = [softened, standard, *by_kind.values()]
        grouped = [i for group in members for i in group]
        self.sizes = [len(group) for group in members]
        manifolds = [domain.columns[i].manifold for i in grouped]
        periods = [manifold.period if isinstance(manifold, Circle) else math.inf for manifold in manifolds]
        uppers = [manifold.upper if isinstance(manifold, Interval) else math.inf for manifold in manifolds]
        scales = [FULL_TURN if columns[i].kind in ("circle", "cut") else columns[i].scale for i in grouped]
        self._add("location", torch.tensor([columns[i].location for i in grouped], dtype=torch.float64))
        self._add("scale", torch.tensor(scales, dtype=torch.float64))
        self._add("period", torch.tensor(periods, dtype=torch.float64))
        self._add("softening", torch.tensor([columns[i].softening for i in softened], dtype=torch.float64))
        self._add("upper", torch.tensor(uppers[: len(softened)], dtype=torch.float64))
        self._add("grouped", torch.tensor(grouped, dtype=torch.long))
        self._add("order", torch.argsort(torch.tensor(grouped, dtype=torch.long)))
        self.location: Tensor
        self.scale: Tensor
        self.period: Tensor
        self.softening: Tensor
        self.upper: Tensor
        self.grouped: Tensor
        self.order: Tensor

    def extra_repr(self) -> str:
        return counted(column.kind for column in self.columns) + " charts"

    def _add(self, name: str, values: Tensor) -> None:
        # not part of the weights: the charts are written with the architecture, in float64
        self.register_buffer(name, values, persistent=False)

    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        scale, period = self.scale.to(x.dtype), self.period.to(x.dtype)
        log_abs_det = -scale.log().sum().expand(x.shape[0])
        x = take_columns(x, self.grouped)
        if self.sizes[0]:
            softened, others = torch.split(x, [self.sizes[0], x.shape[1] - self.sizes[0]], dim=-1)
            softened, log_slope = unbounded(softened, self.softening.to(x.dtype), self.upper.to(x.dtype))
            log_abs_det = log_abs_det + log_slope.sum(-1)
            x = torch.cat([softened, others], dim=-1)
        delta = x - self.location.to(x.dtype)
        delta = torch.where(period.isfinite(), delta - FULL_TURN * torch.round(delta / FULL_TURN), delta)
        *unbent, circle, cut = torch.split(delta / scale, self.sizes, dim=-1)
        line = torch.special.ndtri(cut + 0.5)
        log_abs_det = log_abs_det + (0.5 * line**2 + LOG_SQRT_FULL_TURN).sum(-1)
        z = torch.cat([*unbent, Circle().wrap(circle), line], dim=-1)
        return take_columns(z, self.order), log_abs_det

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        scale, period = self.scale.to(z.dtype), self.period.to(z.dtype)
        *unbent, line = torch.split(take_columns(z, self.grouped), self.sizes, dim=-1)
        log_abs_det = scale.log().sum().expand(z.shape[0])
        log_abs_det = log_abs_det - (0.5 * line**2 + LOG_SQRT_FULL_TURN).sum(-1)
        x = torch.cat([*unbent, torch.special.ndtr(line) - 0.5], dim=-1) * scale + self.location.to(z.dtype)
        # torsions are given in (-pi, pi]
        x = torch.where(period.isfinite(), x - FULL_TURN * torch.round(x / FULL_TURN), x)
        if self.sizes[0]:
            softened, others = torch.split(x, [self.sizes[0], x.shape[1] - self.sizes[0]], dim=-1)
            ends = self.softening.to(z.dtype), self.upper.to(z.dtype)
            softened = bounded(softened, *ends)
            log_abs_det = log_abs_det - unbounded(softened, *ends)[1].sum(-1)
            x = torch.cat([softened, others], dim=-1)
        return take_columns(x, self.order), log_abs_det


def unbounded(
    x: Float[Tensor, "*batch"], softening: Float[Tensor, "*batch"], upper: Float[Tensor, "*batch"]
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """h of `ColumnChart`, which carries the interval (0, upper) to the line, and the logarithm of its slope."""
    below, above = -torch.expm1(-x / softening), -torch.expm1((x - upper) / softening)
    return x + softening * (below.log() - above.log()), torch.log(1 / below + 1 / above - 1)


def bounded(
    h: Float[Tensor, "*batch"], softening: Float[Tensor, "*batch"], upper: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """The inverse of `unbounded`."""
    zero = torch.zeros_like(h)
    return softening * (torch.logaddexp(h / softening, zero) - torch.logaddexp((h - upper) / softening, zero))


def _require_chart(column: Column, chart: ColumnChart) -> None:
    is_torsion = column.manifold == Circle(FULL_TURN)
    if chart.kind != "standard" and not is_torsion:
        raise ConfigurationError(
            f'Column "{column.name}" is not a torsion, so its chart cannot be "{chart.kind}"; use "standard".'
        )
    if not (math.isfinite(chart.location) and 0 < chart.scale < math.inf):
        raise ConfigurationError(f'The chart of column "{column.name}" needs a finite place and a positive scale.')
    if chart.kind == "arc" and chart.scale > WIDEST_ARC:
        raise ConfigurationError(
            f'The chart of column "{column.name}" is an arc of scale {chart.scale:g}; arcs are narrower than '
            f'{WIDEST_ARC:.3g} radians. Use "circle".'
        )
    soft = chart.kind == "standard" and not is_torsion
    if chart.softening != 0 and not (soft and 0 < chart.softening < math.inf):
        raise ConfigurationError(
            f'The softening of column "{column.name}" is {chart.softening}; it must be zero, or positive where a '
            "length or an angle has a standard chart."
        )


class CumulativeNormal(Layer):
    r"""From lines to unit intervals, and from arcs to arcs of period one, by the cumulative normal distribution.

    .. math:: u = \Phi(z / s), \qquad \log |du/dz| = -z^2 / 2 s^2 - \log (s \sqrt{2\pi})

    on lines. It has full support: no geometry falls off the edge in molecular dynamics, and the energy keeps growing
    smoothly outside the data. ``scale`` s > 1 makes the tails of the density heavier than those of the data. On an arc
    of period P the distribution is wrapped, and mixed with a tiny share c of the uniform one,

    .. math::
        u = c \frac{z}{P} + (1 - c) \sum_k \left[\Phi\!\left(\frac{z + k P}{s}\right) - \tfrac12\right]
        \qquad -P/2 < z \le P/2,

    which is C-infinity all around.

    Args:
        domain: Columns on any manifolds; lines and arcs are mapped.
        scale: s.
        lines: Whether lines are mapped; else arcs alone.
    """

    def __init__(self, domain: Product, scale: float = 1.5, lines: bool = True) -> None:
        super().__init__()
        on_lines = domain.indices(Line) if lines else []
        on_arcs = domain.indices(Arc)
        self.domain = domain
        self.codomain = domain.replace({**dict.fromkeys(on_lines, Interval()), **dict.fromkeys(on_arcs, Arc())})
        self.width = scale
        periods = [cast("Arc", domain.columns[i].manifold).period for i in on_arcs]
        self.n_turns = 1
        # turns on either side beyond which rounding hides the distribution's tails, where it is least
        while periods and self.n_turns * (self.n_turns + 1) * (min(periods) / scale) ** 2 < 74:
            self.n_turns += 1
        mapped = [*on_lines, *on_arcs]
        kept = [i for i in range(len(domain)) if i not in set(mapped)]
        self.sizes = [len(on_lines), len(on_arcs)]
        self.register_buffer("mapped", torch.tensor(mapped, dtype=torch.long), persistent=False)
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.long), persistent=False)
        self.register_buffer("order", torch.argsort(torch.tensor([*mapped, *kept], dtype=torch.long)), persistent=False)
        self.register_buffer("period", torch.tensor(periods, dtype=torch.float64), persistent=False)
        self.mapped: Tensor
        self.kept: Tensor
        self.order: Tensor
        self.period: Tensor

    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        lines, arcs = torch.split(take_columns(x, self.mapped), self.sizes, dim=-1)
        scaled = lines / self.width
        pieces, log_abs_det = [torch.special.ndtr(scaled)], self._log_density(scaled)
        if self.sizes[1]:
            image, log_slope = self._wrapped_normal(arcs)
            pieces.append(image)
            log_abs_det = log_abs_det + log_slope.sum(-1)
        z = torch.cat([*pieces, take_columns(x, self.kept)], dim=-1)
        return take_columns(z, self.order), log_abs_det

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        lines, arcs = torch.split(take_columns(z, self.mapped), self.sizes, dim=-1)
        scaled = torch.special.ndtri(lines)
        pieces, log_abs_det = [scaled * self.width], -self._log_density(scaled)
        if self.sizes[1]:
            arc = self._quantile(arcs)
            pieces.append(arc)
            log_abs_det = log_abs_det - self._wrapped_normal(arc)[1].sum(-1)
        x = torch.cat([*pieces, take_columns(z, self.kept)], dim=-1)
        return take_columns(x, self.order), log_abs_det

    def _log_density(self, scaled: Float[Tensor, "batch n_lines"]) -> Float[Tensor, "batch"]:
        return (-0.5 * scaled**2 - LOG_SQRT_FULL_TURN - math.log(self.width)).sum(-1)

    def _wrapped_normal(
        self, z: Float[Tensor, "batch n_arcs"]
    ) -> tuple[Float[Tensor, "batch n_arcs"], Float[Tensor, "batch n_arcs"]]:
        """The distribution function on arcs, from -1/2 to 1/2, and its log-density."""
        period = self.period.to(z.dtype)
        z = z - period * torch.round(z / period)
        turns = torch.stack([z + k * period for k in range(-self.n_turns, self.n_turns + 1)]) / self.width
        floor = math.exp(LOG_FLOOR)
        u = floor * z / period + 0.5 * (1 - floor) * torch.erf(turns * math.sqrt(0.5)).sum(0)
        normal, *others = -0.5 * turns**2
        for other in others:
            normal = _log_add(normal, other)
        normal = normal - LOG_SQRT_FULL_TURN - math.log(self.width)
        return u, _log_add(normal, LOG_FLOOR - period.log())

    def _quantile(self, u: Float[Tensor, "batch n_arcs"]) -> Float[Tensor, "batch n_arcs"]:
        """The point of each arc with the distribution function u, by Newton's method; the last steps in the graph."""
        half = 0.5 * self.period.to(u.dtype)
        eps = torch.finfo(u.dtype).eps
        with torch.no_grad():
            inside = u - torch.round(u)
            z = self.width * torch.special.ndtri((inside + 0.5).clamp(eps / 4, 1 - eps / 2))
            for _ in range(N_NEWTON):
                z = torch.maximum(torch.minimum(z, half), -half)
                image, log_slope = self._wrapped_normal(z)
                z = z - (image - inside) * torch.exp(-log_slope)
            z = torch.maximum(torch.minimum(z, half), -half)
        # two steps make derivatives exact up to the third order, as in `invert`
        for _ in range(2):
            image, log_slope = self._wrapped_normal(z)
            z = z - Circle().difference(image, u) * torch.exp(-log_slope)
        return z


def _log_add(a: Float[Tensor, "*batch"], b: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """log(exp(a) + exp(b)), of which every derivative is right; those of torch.logaddexp are nan from the second on."""
    return b - nn.functional.logsigmoid(b - a)


class CutOpen(Layer):
    r"""From unit circles and intervals to lines or intervals, for a transform that maps nothing else.

    .. math:: z = x \; (\text{onto the interval}), \qquad z = \Phi^{-1}(x) \; (\text{onto the line})

    Circles are cut open at 0: whatever density follows may jump there. Uniform columns stay uniform on the interval
    and become standard normal on the line, so that a flow that starts at the identity starts at the base.

    Args:
        domain: Unit circles and unit intervals.
        onto: The manifold of every column after the cut: the unit interval or the line.
    """

    def __init__(self, domain: Product, onto: Interval | Line) -> None:
        super().__init__()
        for column in domain:
            if column.manifold not in (Circle(), Interval()) or onto not in (Interval(), Line()):
                raise ConfigurationError(
                    f'Column "{column.name}" cannot be cut open from {column.manifold} to {onto}; unit circles and '
                    "unit intervals can, to the unit interval or the line."
                )
        self.domain = domain
        self.codomain = domain.replace(dict.fromkeys(range(len(domain)), onto))
        self.onto_line = isinstance(onto, Line)
        is_circle = torch.tensor([isinstance(column.manifold, Circle) for column in domain])
        self.register_buffer("is_circle", is_circle, persistent=False)
        self.is_circle: Tensor

    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        x = torch.where(self.is_circle, Circle().wrap(x), x)
        if not self.onto_line:
            return x, x.new_zeros(x.shape[0])
        z = torch.special.ndtri(x)
        return z, (0.5 * z**2 + LOG_SQRT_FULL_TURN).sum(-1)

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        if not self.onto_line:
            return z, z.new_zeros(z.shape[0])
        return torch.special.ndtr(z), -(0.5 * z**2 + LOG_SQRT_FULL_TURN).sum(-1)
