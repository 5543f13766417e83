"""Charts fitted to data."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.charts import ColumnChart
from ..core.errors import GeometryError
from ..core.manifolds import FULL_TURN, Circle, Product

MIN_WIDTHS_TO_SEAM = 8.0
"""A torsion is narrow if its data stay this many standard deviations away from the point opposite to their mean."""

SEAM_BANDWIDTH = 0.15
"""Width (rad) of the kernel that smooths the density in which the seam of a cut torsion is sought."""


def fit_charts(q: Float[Tensor, "frames dim"], domain: Product, cut_circles: bool = False) -> tuple[ColumnChart, ...]:
    """The chart of each column, fitted to data.

    Lengths, angles and narrow torsions become standardized lines with the data's mean and standard deviation. A torsion
    is narrow if the seam, opposite to its mean, is more than 8 standard deviations away from every datum. Other
    torsions stay circles; with ``cut_circles`` they are cut open where the data are fewest.

    Args:
        q: Internal coordinates (nm, radians).
        domain: Their columns.
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
        if isinstance(column.manifold, Circle):
            charts.append(_fit_torsion(column.name, values, cut_circles))
        else:
            charts.append(_standard(column.name, float(values.mean()), values - values.mean()))
    return tuple(charts)


def _standard(name: str, mean: float, deviations: Float[Tensor, "frames"]) -> ColumnChart:
    std = float(deviations.square().mean().sqrt())
    if std < 1e-6:
        raise GeometryError(
            f'Column "{name}" does not vary in the data, so it has no density. Simulate without constraints, and give '
            "more than one configuration."
        )
    return ColumnChart("standard", mean, std)


def _fit_torsion(name: str, values: Float[Tensor, "frames"], cut: bool) -> ColumnChart:
    circle = Circle(FULL_TURN)
    centre = torch.atan2(values.sin().mean(), values.cos().mean())
    # the mean of the deviations corrects the direction of the mean vector, which is only near it
    mean = centre + circle.difference(values, centre).mean()
    deviations = circle.difference(values, mean)
    std = float(deviations.square().mean().sqrt())
    if math.pi - float(deviations.abs().max()) > MIN_WIDTHS_TO_SEAM * std:
        return _standard(name, float(circle.difference(mean, torch.zeros_like(mean))), deviations)
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
