"""Charts: elementwise maps that carry physical coordinates to the unit manifolds on which transforms act."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .conditioners import take_columns
from .errors import ConfigurationError
from .layers import Layer
from .manifolds import FULL_TURN, Circle, Interval, Line, Manifold, Product

LOG_SQRT_FULL_TURN = 0.5 * math.log(FULL_TURN)

ChartKind = Literal["standard", "circle", "cut"]


@dataclass(frozen=True)
class ColumnChart:
    r"""How one physical column q, with location :math:`\mu` and scale :math:`\sigma`, is charted.

    - ``standard``: a length, an angle or a narrow torsion to the line, :math:`z = (q - \mu) / \sigma`; a torsion's
      difference is taken the shorter way around, so that its seam lies opposite to :math:`\mu`;
    - ``circle``: a torsion to the unit circle, :math:`z = (q - \mu) / 2\pi \bmod 1`;
    - ``cut``: a torsion, cut open opposite to :math:`\mu`, to the line, :math:`z = \Phi^{-1}((q - \mu) / 2\pi + 1/2)`.
    """

    kind: ChartKind
    location: float
    scale: float = 1.0

    @property
    def manifold(self) -> Manifold:
        """The unit manifold that the chart maps onto."""
        return Circle() if self.kind == "circle" else Line()


class Chart(Layer):
    """From physical coordinates (nm, radians) to unit circles and standardized lines, column by column."""

    def __init__(self, domain: Product, columns: Sequence[ColumnChart]) -> None:
        super().__init__()
        if len(columns) != len(domain):
            raise ConfigurationError(f"{len(columns)} charts were given for {len(domain)} columns.")
        for column, chart in zip(domain, columns, strict=True):
            if chart.kind != "standard" and column.manifold != Circle(FULL_TURN):
                raise ConfigurationError(
                    f'Column "{column.name}" is no torsion, so its chart cannot be "{chart.kind}"; use "standard".'
                )
            if not (math.isfinite(chart.location) and 0 < chart.scale < math.inf):
                raise ConfigurationError(
                    f'The chart of column "{column.name}" needs a finite place and a positive scale.'
                )
        self.columns = tuple(columns)
        self.domain = domain
        self.codomain = domain.replace({i: chart.manifold for i, chart in enumerate(columns)})
        scales = [FULL_TURN if chart.kind != "standard" else chart.scale for chart in columns]
        periods = [column.manifold.period if isinstance(column.manifold, Circle) else math.inf for column in domain]
        by_kind = {kind: [i for i, c in enumerate(columns) if c.kind == kind] for kind in ("standard", "circle", "cut")}
        grouped = [i for members in by_kind.values() for i in members]
        self.sizes = [len(members) for members in by_kind.values()]
        self._add("location", torch.tensor([chart.location for chart in columns], dtype=torch.float64))
        self._add("scale", torch.tensor(scales, dtype=torch.float64))
        self._add("period", torch.tensor(periods, dtype=torch.float64))
        self._add("grouped", torch.tensor(grouped, dtype=torch.long))
        self._add("order", torch.argsort(torch.tensor(grouped, dtype=torch.long)))
        self.location: Tensor
        self.scale: Tensor
        self.period: Tensor
        self.grouped: Tensor
        self.order: Tensor

    def _add(self, name: str, values: Tensor) -> None:
        # not part of the weights: the charts are written with the architecture, in float64
        self.register_buffer(name, values, persistent=False)

    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        scale = self.scale.to(x.dtype)
        delta = x - self.location.to(x.dtype)
        period = self.period.to(x.dtype)
        delta = torch.where(period.isfinite(), delta - FULL_TURN * torch.round(delta / FULL_TURN), delta)
        standard, circle, cut = torch.split(take_columns(delta / scale, self.grouped), self.sizes, dim=-1)
        log_abs_det = -scale.log().sum().expand(x.shape[0])
        line = torch.special.ndtri(cut + 0.5)
        log_abs_det = log_abs_det + (0.5 * line**2 + LOG_SQRT_FULL_TURN).sum(-1)
        z = torch.cat([standard, Circle().wrap(circle), line], dim=-1)
        return take_columns(z, self.order), log_abs_det

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        scale = self.scale.to(z.dtype)
        standard, circle, line = torch.split(take_columns(z, self.grouped), self.sizes, dim=-1)
        log_abs_det = scale.log().sum().expand(z.shape[0])
        log_abs_det = log_abs_det - (0.5 * line**2 + LOG_SQRT_FULL_TURN).sum(-1)
        delta = torch.cat([standard, circle, torch.special.ndtr(line) - 0.5], dim=-1)
        x = take_columns(delta, self.order) * scale + self.location.to(z.dtype)
        period = self.period.to(z.dtype)
        # torsions are given in (-pi, pi]
        x = torch.where(period.isfinite(), x - FULL_TURN * torch.round(x / FULL_TURN), x)
        return x, log_abs_det


class NormalInterval(Layer):
    r"""From lines to unit intervals by the cumulative normal distribution.

    .. math:: u = \Phi(z / s), \qquad \log |du/dz| = -z^2 / 2 s^2 - \log (s \sqrt{2\pi})

    It has full support: no geometry falls off the edge in molecular dynamics, and the energy keeps growing smoothly
    outside the data. ``scale`` s > 1 makes the tails of the density heavier than those of the data.
    """

    def __init__(self, domain: Product, scale: float = 1.5) -> None:
        super().__init__()
        lines = domain.indices(Line)
        self.domain = domain
        self.codomain = domain.replace({i: Interval() for i in lines})
        self.width = scale
        kept = [i for i in range(len(domain)) if i not in set(lines)]
        self.register_buffer("lines", torch.tensor(lines, dtype=torch.long), persistent=False)
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.long), persistent=False)
        self.register_buffer("order", torch.argsort(torch.tensor([*lines, *kept], dtype=torch.long)), persistent=False)
        self.lines: Tensor
        self.kept: Tensor
        self.order: Tensor

    def encode(self, x: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        scaled = take_columns(x, self.lines) / self.width
        z = torch.cat([torch.special.ndtr(scaled), take_columns(x, self.kept)], dim=-1)
        return take_columns(z, self.order), self._log_density(scaled)

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        scaled = torch.special.ndtri(take_columns(z, self.lines))
        x = torch.cat([scaled * self.width, take_columns(z, self.kept)], dim=-1)
        return take_columns(x, self.order), -self._log_density(scaled)

    def _log_density(self, scaled: Float[Tensor, "batch n_lines"]) -> Float[Tensor, "batch"]:
        return (-0.5 * scaled**2 - LOG_SQRT_FULL_TURN - math.log(self.width)).sum(-1)


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
            return x, x.new_zeros(len(x))
        z = torch.special.ndtri(x)
        return z, (0.5 * z**2 + LOG_SQRT_FULL_TURN).sum(-1)

    def decode(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        if not self.onto_line:
            return z, z.new_zeros(len(z))
        return torch.special.ndtr(z), -(0.5 * z**2 + LOG_SQRT_FULL_TURN).sum(-1)
