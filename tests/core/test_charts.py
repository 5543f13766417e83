"""Charts against closed forms, and there and back again wherever a coordinate may lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from smoothflow.core.charts import Chart, ColumnChart, CumulativeNormal, CutOpen, unbounded
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.layers import Layer
from smoothflow.core.manifolds import FULL_TURN, Arc, Circle, Column, Interval, Line, Product
from torch import Tensor

F64 = torch.float64
PHYSICAL = Product(
    (Column("bond", Interval(0, math.inf)), *(Column(name, Circle(FULL_TURN)) for name in ("cut", "round", "narrow")))
)
COLUMNS = (
    ColumnChart("standard", 0.15, 0.005),
    ColumnChart("cut", 2.5),
    ColumnChart("circle", -1.0),
    ColumnChart("standard", 3.0, 0.2),
)

lengths = st.floats(0.1, 0.2)
angles = st.floats(-math.pi, math.pi, exclude_min=True)
locations = st.floats(-10, 10)
turns = st.floats(0.001, 0.999)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=F64)


def log_determinant(layer: Layer, x: Tensor) -> Tensor:
    """Of the layer's encoding at one point, by autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda x: layer.encode(x)[0].sum(0), x)[:, 0]
    return torch.linalg.slogdet(jacobian)[1]


@given(lengths, angles, angles, angles, locations, st.floats(0.001, 10))
def test_physical_coordinates_come_back(
    bond: float, cut: float, circle: float, narrow: float, location: float, scale: float
) -> None:
    columns = (
        ColumnChart("standard", location, scale),
        ColumnChart("cut", location),
        ColumnChart("circle", location),
        ColumnChart("standard", location, scale),
    )
    chart = Chart(PHYSICAL, columns)
    x = row(bond, cut, circle, narrow)
    z, log_abs_det = chart.encode(x)
    # a cut torsion at its seam is carried to infinity
    assume(bool((z[:, 1].abs() < 7).all()))
    assert 0 <= z[0, 2] < 1
    back, log_back = chart.decode(z)
    # rounding of z near 0 or 1, where the normal distribution's quantile is steepest
    torch.testing.assert_close(back[:, :1], x[:, :1], rtol=0, atol=1e-12)
    assert Circle(FULL_TURN).difference(back[:, 1:], x[:, 1:]).abs().max() < 1e-10
    assert bool((back[:, 1:].abs() <= math.pi + 1e-12).all())
    torch.testing.assert_close(log_back, -log_abs_det, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_abs_det[0], log_determinant(chart, x), rtol=0, atol=1e-9)


def test_a_chart_is_its_closed_form() -> None:
    chart = Chart(PHYSICAL, COLUMNS)
    z, log_abs_det = chart.encode(row(0.16, -2.5, 2.0, -3.0))
    quantile = (-2.5 - 2.5 + FULL_TURN) / FULL_TURN + 0.5
    narrow = (-3.0 - 3.0 + FULL_TURN) / 0.2
    expected = [2.0, stats.norm.ppf(quantile), 3.0 / FULL_TURN, narrow]
    torch.testing.assert_close(z, row(*expected), rtol=1e-12, atol=0)
    density = stats.norm.logpdf(expected[1])
    log_slopes = -math.log(0.005) - math.log(0.2) - 2 * math.log(FULL_TURN) - density
    assert log_abs_det.item() == pytest.approx(log_slopes, rel=1e-13)
    back, _ = chart.decode(z)
    torch.testing.assert_close(back, row(0.16, -2.5, 2.0, -3.0), rtol=1e-12, atol=0)
    assert [type(column.manifold) for column in chart.codomain] == [Line, Line, Circle, Line]
    assert chart.codomain.names == PHYSICAL.names
    # written with the architecture, not with the weights
    assert chart.state_dict() == {}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (COLUMNS[:-1], "3 charts were given for 4 columns"),
        ((ColumnChart("circle", 0.0), *COLUMNS[1:]), '"bond" is not a torsion, so its chart cannot be "circle"'),
        ((ColumnChart("cut", 0.0), *COLUMNS[1:]), '"bond" is not a torsion, so its chart cannot be "cut"'),
        ((ColumnChart("standard", math.nan), *COLUMNS[1:]), '"bond" needs a finite place and a positive scale'),
        ((ColumnChart("standard", math.inf), *COLUMNS[1:]), '"bond" needs a finite place'),
        ((ColumnChart("standard", 0.1, 0.0), *COLUMNS[1:]), '"bond" needs .* a positive scale'),
        ((ColumnChart("standard", 0.1, math.inf), *COLUMNS[1:]), '"bond" needs .* a positive scale'),
        ((*COLUMNS[:-1], ColumnChart("circle", math.nan)), '"narrow" needs a finite place'),
        (
            (*COLUMNS[:-1], ColumnChart("arc", 0.0, 0.4)),
            '"narrow" is an arc of scale 0.4; arcs are narrower than 0.393',
        ),
        ((ColumnChart("arc", 0.1, 0.1), *COLUMNS[1:]), '"bond" is not a torsion, so its chart cannot be "arc"'),
        (
            (*COLUMNS[:-1], ColumnChart("standard", 3.0, 0.2, 0.1)),
            'softening of column "narrow" is 0.1; it must be zero',
        ),
        ((ColumnChart("standard", 0.1, 0.01, -1.0), *COLUMNS[1:]), 'softening of column "bond" is -1.0'),
    ],
)
def test_charts_that_cannot_be_say_why(columns: tuple[ColumnChart, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Chart(PHYSICAL, columns)


BENT = Product(
    (
        Column("bond", Interval(0, math.inf)),
        Column("angle", Interval(0, math.pi)),
        Column("improper", Circle(FULL_TURN)),
    )
)


@given(
    st.floats(1e-3, 1), st.floats(1e-2, math.pi - 1e-2), angles, locations, st.floats(0.01, 0.39), st.floats(0.002, 0.1)
)
def test_softened_columns_and_arcs_come_back(
    bond: float, angle: float, improper: float, location: float, scale: float, softening: float
) -> None:
    columns = (
        ColumnChart("standard", 0.1, 0.01, softening),
        ColumnChart("standard", 2.0, 0.1, softening),
        ColumnChart("arc", location, scale),
    )
    chart = Chart(BENT, columns)
    assert chart.codomain.columns[2].manifold == Arc(FULL_TURN / scale)
    x = row(bond, angle, improper)
    z, log_abs_det = chart.encode(x)
    back, log_back = chart.decode(z)
    torch.testing.assert_close(back[:, :2], x[:, :2], rtol=1e-12, atol=1e-13)
    assert Circle(FULL_TURN).difference(back[:, 2], x[:, 2]).abs() < 1e-12
    # decode rounds x, next to whose ends the slope changes by its own size over the distance to the end
    torch.testing.assert_close(log_back, -log_abs_det, rtol=0, atol=1e-9)
    torch.testing.assert_close(log_abs_det[0], log_determinant(chart, x), rtol=0, atol=1e-9)


def test_softening_is_the_identity_away_from_the_ends_and_infinite_at_them() -> None:
    upper, softening = torch.tensor(math.pi, dtype=F64), torch.tensor(0.05, dtype=F64)
    x = torch.linspace(1.0, 2.1, 12, dtype=F64)
    h, log_slope = unbounded(x, softening, upper)
    # exp(-1 / 0.05), which is 2e-9, is what is left of the ends
    torch.testing.assert_close(h, x, rtol=0, atol=0.05 * 2.1e-9)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=2.1e-9)
    ends = torch.tensor([1e-30, math.pi - 4e-16], dtype=F64)
    h, log_slope = unbounded(ends, softening, upper)
    # s log(q / s) next to 0
    assert h[0].item() == pytest.approx(0.05 * math.log(1e-30 / 0.05), rel=1e-12)
    assert h[1] > math.pi + 1.5
    assert log_slope[0].item() == pytest.approx(math.log(0.05 / 1e-30), rel=1e-12)


@pytest.mark.parametrize("column", [0, 1])
def test_a_standard_density_vanishes_at_the_ends_faster_than_the_volume_element(column: int) -> None:
    chart = Chart(BENT, (ColumnChart("standard", 0.1, 0.003, 0.0025), ColumnChart("standard", 2.0, 0.1, 0.09), ARC))
    distance = 10.0 ** torch.arange(-12, -2, dtype=F64)
    x = torch.tensor([[0.1, 2.0, 1.0]], dtype=F64).repeat(len(distance), 1)
    x[:, column] = distance
    z, log_abs_det = chart.encode(x)
    log_density = -0.5 * z[:, column] ** 2 / 1.5**2 + log_abs_det
    # -log [p / volume element] rises towards the end
    energy = -log_density + (2, 1)[column] * distance.log()
    assert bool((energy.diff() < 0).all())
    assert bool(energy.isfinite().all())


ARC = ColumnChart("arc", 3.0, 0.2)


def wrapped_normal(z: float, period: float, scale: float) -> tuple[float, float]:
    """Distribution function and density, from many turns."""
    turns = np.arange(-40, 41) * period
    below = stats.norm.cdf((z + turns) / scale) - stats.norm.cdf((turns - period / 2) / scale)
    return math.fsum(below) - 0.5, math.fsum(stats.norm.pdf((z + turns) / scale)) / scale


@pytest.mark.parametrize("scale", [0.7, 1.5, 6.0, 40.0])
@pytest.mark.parametrize("period", [16.0, 40.0])
def test_arcs_become_circles_by_the_wrapped_normal_distribution(period: float, scale: float) -> None:
    layer = CumulativeNormal(Product.of(Arc(period), ["a"]), scale)
    # as far as rounding hides the uniform share, e^-50
    places = [z for z in np.linspace(-period / 2, period / 2, 41) if abs(z) < 5 * scale]
    x = torch.tensor(places, dtype=F64)[:, None]
    u, log_abs_det = layer.encode(x)
    expected = np.array([wrapped_normal(z, period, scale) for z in places])
    assert Circle().difference(u[:, 0], torch.from_numpy(expected[:, 0])).abs().max() < 1e-13
    np.testing.assert_allclose(log_abs_det, np.log(expected[:, 1]), rtol=0, atol=1e-12)


@given(st.floats(0.5, 10), st.floats(16, 200), st.floats(-0.5, 0.5))
def test_arcs_come_back(scale: float, period: float, place: float) -> None:
    layer = CumulativeNormal(Product.of(Arc(period), ["a"]), scale)
    # where rounding of u leaves three digits and more of z
    x = row(place * min(period, 13 * scale))
    u, log_abs_det = layer.encode(x)
    assert -0.5 <= u.item() <= 0.5
    back, log_back = layer.decode(u)
    slope = log_abs_det.exp().item()
    assert Arc(period).difference(back, x).abs().item() < 1e-13 + 1e-15 / slope
    drift = abs(x.item()) / scale**2 * 1e-15 / slope
    assert abs((log_back + log_abs_det).item()) < 1e-12 + 10 * drift


@pytest.mark.parametrize("scale", [0.03, 0.39])
def test_densities_on_arcs_have_every_derivative_across_the_point_opposite_to_the_mean(scale: float) -> None:
    chart = Chart(Product.of(Circle(FULL_TURN), ["a"]), [ColumnChart("arc", 0.0, scale)])
    layer = CumulativeNormal(chart.codomain)
    derivatives = []
    for side in (-1, 1):
        x = torch.tensor([[math.pi + side * 1e-12]], dtype=F64, requires_grad=True)
        z, first = chart.encode(x)
        value = (first + layer.encode(z)[1]).sum()
        found = [value]
        for _ in range(4):
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            found.append(value)
        derivatives.append(torch.stack([one.detach().squeeze() for one in found]))
    before, after = derivatives
    # odd derivatives change by the next one times 2e-12
    step = torch.cat([after[1:].abs(), torch.zeros(1, dtype=F64)]) * 2e-12
    assert bool(((after - before).abs() <= 1.1 * step + 1e-9 * after.abs() + 1e-12).all()), (before, after)


def test_samples_of_arcs_stay_next_to_the_data_in_float32() -> None:
    layer = CumulativeNormal(Product.of(Arc(60.0), ["a"]))
    ends = torch.tensor([[0.5], [0.5 - 2.0**-25], [0.5 + 2.0**-24]])
    z, log_abs_det = layer.decode(ends)
    # the quantile of the last number before 1, in units of 1.5
    assert bool((z.abs() < 1.5 * 6).all())
    assert bool(log_abs_det.isfinite().all())


MIXED = Product((Column("a", Circle()), Column("b", Line()), Column("c", Interval()), Column("d", Line())))


@given(turns, st.floats(-8, 8), turns, st.floats(-8, 8), st.floats(0.5, 4))
def test_lines_become_intervals_and_come_back(a: float, b: float, c: float, d: float, scale: float) -> None:
    layer = CumulativeNormal(MIXED, scale)
    x = row(a, scale * b / 2, c, scale * d / 2)
    u, log_abs_det = layer.encode(x)
    assert [type(column.manifold) for column in layer.codomain] == [Circle, Interval, Interval, Interval]
    normal = stats.norm(scale=scale)
    expected = [a, normal.cdf(x[0, 1].item()), c, normal.cdf(x[0, 3].item())]
    torch.testing.assert_close(u, row(*expected), rtol=1e-12, atol=0)
    density = normal.logpdf(x[0, 1].item()) + normal.logpdf(x[0, 3].item())
    assert log_abs_det.item() == pytest.approx(density, rel=1e-12, abs=1e-12)
    back, log_back = layer.decode(u)
    # the rounding of u, 1e-16, over the density at 4 standard deviations, 1e-4
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
    torch.testing.assert_close(log_back, -log_abs_det, rtol=0, atol=1e-10)


@given(st.floats(-3, 3), turns)
def test_circles_are_cut_open(turn: float, x: float) -> None:
    domain = Product((Column("a", Circle()), Column("b", Interval())))
    inside = turn - math.floor(turn)
    flat, log_abs_det = CutOpen(domain, Interval()).encode(row(turn, x))
    # a tiny negative number is wrapped to 0
    torch.testing.assert_close(flat, row(inside if inside < 1 else 0.0, x), rtol=0, atol=1e-15)
    assert log_abs_det.tolist() == [0]
    layer = CutOpen(domain, Line())
    assert [column.manifold for column in layer.codomain] == [Line(), Line()]
    assume(1e-6 < inside < 1 - 1e-6)
    z, log_abs_det = layer.encode(row(turn, x))
    quantiles = [stats.norm.ppf(inside), stats.norm.ppf(x)]
    torch.testing.assert_close(z, row(*quantiles), rtol=1e-9, atol=1e-12)
    assert log_abs_det.item() == pytest.approx(-sum(stats.norm.logpdf(quantiles)), rel=1e-8)
    back, log_back = layer.decode(z)
    torch.testing.assert_close(back, row(inside, x), rtol=0, atol=1e-14)
    torch.testing.assert_close(log_back, -log_abs_det, rtol=0, atol=1e-12)
    back, log_back = CutOpen(domain, Interval()).decode(flat)
    assert (back.tolist(), log_back.tolist()) == (flat.tolist(), [0])


def test_what_cannot_be_cut_open_is_named() -> None:
    with pytest.raises(ConfigurationError, match='Column "b" cannot be cut open from Line'):
        CutOpen(MIXED, Line())
    with pytest.raises(ConfigurationError, match='Column "phi" cannot be cut open'):
        CutOpen(Product.of(Circle(FULL_TURN), ["phi"]), Interval())
    with pytest.raises(ConfigurationError, match=r'Column "a" cannot be cut open .* to Interval\(lower=0, upper=2\)'):
        CutOpen(Product.of(Circle(), ["a"]), Interval(0, 2))
