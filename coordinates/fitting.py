"""Charts fitted to data."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.charts import ColumnChart, unbounded
from ..core.errors import GeometryError
from ..core.manifolds import FULL_TURN, Circle, Interval, Product

NarrowChart = Literal["arc", "standard"]

MIN_WIDTHS_TO_SEAM = 8.0
"""A torsion is narrow if its data stay this many standard deviations away from the point opposite to their mean, which
is then at most `core.charts.WIDEST_ARC` wide."""

SEAM_BANDWIDTH = 0.15
"""Width (rad) of the kernel that smooths the density in which the seam of a cut torsion is sought."""


def fit_charts(
    q: Float[Tensor, "frames dim"], domain: Product, narrow: NarrowChart = "arc", cut_circles: bool = False
) -> tuple[ColumnChart, ...]:
    """The chart of each column, fitted to data.

    Lengths and angles become standardized lines with the data's mean and standard deviation, softened at the ends of
    their intervals. Narrow torsions become arcs or lines, standardized likewise: a torsion is narrow if the point
    opposite to its mean is more than 8 standard deviations away from every datum. Other torsions stay circles; with
    ``cut_circles`` they are cut open where the data are fewest.

    Args:
        q: Internal coordinates (nm, radians).
        domain: Their columns.
        narrow: What narrow torsions become: ``arc``, or ``standard`` for lines with a seam opposite to the mean.
        cut_circles: Carry wide torsions to the line too, for transforms that know no circle.

    Raises:
        GeometryError: If a column does not vary.
        ManifoldError: If ``q`` has values outside ``domain``.
    """
    domain.require_inside(q, "Internal coordinates")
    if len(q) < 2:
        raise GeometryError(f"Charts are fitted to 2 frames or more; got {len(q)}.")
    charts = []
    for column, values in zip(domain, q.detach().double().T, strict=True):
        if isinstance(column.manifold, Interval):
            charts.append(_fit_interval(column.name, values, column.manifold.upper))
        else:
            charts.append(_fit_torsion(column.name, values, narrow, cut_circles))
    return tuple(charts)


def _fit_interval(name: str, values: Float[Tensor, "frames"], upper: float) -> ColumnChart:
    mean = float(values.mean())
    scale = _scale(name, values - mean)
    edge = min(mean, upper - mean)
    # far below the distance to the end, so that the data see no softening; but such that the wall is steeper than the
    # volume element falls (r^2 at most), with the tails of `CumulativeNormal`
    softening = max(edge / 40, 10 * scale**2 / edge)
    h, _ = unbounded(values, torch.full_like(values, softening), torch.full_like(values, upper))
    return ColumnChart("standard", float(h.mean()), _scale(name, h - h.mean()), softening)


def _scale(name: str, deviations: Float[Tensor, "frames"]) -> float:
    std = float(deviations.square().mean().sqrt())
    if std < 1e-6:
        raise GeometryError(
            f'Column "{name}" does not vary in the data, so it has no density. Simulate without constraints, and give '
            "more than one configuration."
        )
    return std


def _fit_torsion(name: str, values: Float[Tensor, "frames"], narrow: NarrowChart, cut: bool) -> ColumnChart:
    circle = Circle(FULL_TURN)
    centre = torch.atan2(values.sin().mean(), values.cos().mean())
    # the mean of the deviations corrects the direction of the mean vector, which is only near it
    mean = centre + circle.difference(values, centre).mean()
    deviations = circle.difference(values, mean)
    std = float(deviations.square().mean().sqrt())
    if math.pi - float(deviations.abs().max()) > MIN_WIDTHS_TO_SEAM * std:
        location = float(circle.difference(mean, torch.zeros_like(mean)))
        return ColumnChart(narrow, location, _scale(name, deviations))
    if not cut:
        return ColumnChart("circle", 0.0)
    seam = least_populated(values)
    return ColumnChart("cut", math.remainder(seam + math.pi, FULL_TURN))


def least_populated(values: Float[Tensor, "frames"]) -> float:
    r"""The angle where the density of angular data, smoothed by a normal kernel, is least.

    .. math:: p(\theta) \propto 1 + 2 \sum_k e^{-k^2 h^2 / 2} \operatorname{Re}\, \overline{c_k} e^{i k \theta},
        \qquad c_k = \langle e^{i k \theta_j} \rangle
    """
    orders = torch.arange(1, math.ceil(6 / SEAM_BANDWIDTH), dtype=torch.float64, device=values.device)
    damping = torch.exp(-0.5 * (orders * SEAM_BANDWIDTH) ** 2)
    cosines = torch.stack([(k * values).cos().mean() for k in orders]) * damping
    sines = torch.stack([(k * values).sin().mean() for k in orders]) * damping
    grid = torch.arange(720, dtype=torch.float64, device=values.device) * (FULL_TURN / 720)
    phases = grid[:, None] * orders
    density = phases.cos() @ cosines + phases.sin() @ sines
    return float(grid[density.argmin()])
