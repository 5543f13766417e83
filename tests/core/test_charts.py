"""Charts against closed forms, and there and back again wherever a coordinate may lie."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from smoothflow.core.charts import Chart, ColumnChart, CutOpen, NormalInterval
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.layers import Layer
from smoothflow.core.manifolds import FULL_TURN, Circle, Column, Interval, Line, Product
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
        ((ColumnChart("circle", 0.0), *COLUMNS[1:]), '"bond" is no torsion, so its chart cannot be "circle"'),
        ((ColumnChart("cut", 0.0), *COLUMNS[1:]), '"bond" is no torsion, so its chart cannot be "cut"'),
        ((ColumnChart("standard", math.nan), *COLUMNS[1:]), '"bond" needs a finite place and a positive scale'),
        ((ColumnChart("standard", math.inf), *COLUMNS[1:]), '"bond" needs a finite place'),
        ((ColumnChart("standard", 0.1, 0.0), *COLUMNS[1:]), '"bond" needs .* a positive scale'),
        ((ColumnChart("standard", 0.1, math.inf), *COLUMNS[1:]), '"bond" needs .* a positive scale'),
        ((*COLUMNS[:-1], ColumnChart("circle", math.nan)), '"narrow" needs a finite place'),
    ],
)
def test_charts_that_cannot_be_say_why(columns: tuple[ColumnChart, ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Chart(PHYSICAL, columns)


MIXED = Product((Column("a", Circle()), Column("b", Line()), Column("c", Interval()), Column("d", Line())))


@given(turns, st.floats(-8, 8), turns, st.floats(-8, 8), st.floats(0.5, 4))
def test_lines_become_intervals_and_come_back(a: float, b: float, c: float, d: float, scale: float) -> None:
    layer = NormalInterval(MIXED, scale)
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
