"""Charts fitted to data whose distribution is known."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.coordinates.fitting import fit_charts, least_populated
from smoothflow.core.charts import Chart
from smoothflow.core.errors import GeometryError, ManifoldError
from smoothflow.core.manifolds import FULL_TURN, Circle, Column, Interval, Product

N = 4000
DOMAIN = Product(
    (
        Column("bond", Interval(0.0, math.inf)),
        Column("angle", Interval(0.0, math.pi)),
        Column("narrow", Circle(FULL_TURN)),
        Column("across the seam", Circle(FULL_TURN)),
        Column("wide", Circle(FULL_TURN)),
        Column("two states", Circle(FULL_TURN)),
    )
)


def data(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn((N, 6), generator=generator, dtype=torch.float64)
    uniform = torch.rand(N, generator=generator, dtype=torch.float64)
    bond, angle = 0.11 + 0.003 * z[:, 0], 1.9 + 0.06 * z[:, 1]
    narrow, seam = 2.1 + 0.1 * z[:, 2], math.pi + 0.2 * z[:, 3]
    wide = 1.0 + 0.7 * z[:, 4]
    states = torch.where(uniform < 0.99, -1.5, 1.0) + 0.2 * z[:, 5]
    q = torch.stack([bond, angle, narrow, seam, wide, states], dim=-1)
    q[:, 2:] -= FULL_TURN * torch.round(q[:, 2:] / FULL_TURN)
    return q


def test_kinds_locations_and_scales() -> None:
    charts = fit_charts(data(), DOMAIN)
    assert [chart.kind for chart in charts] == ["standard"] * 2 + ["arc"] * 2 + ["circle"] * 2
    on_line = fit_charts(data(), DOMAIN, "standard")
    assert [chart.kind for chart in on_line[2:4]] == ["standard"] * 2
    assert [chart.softening > 0 for chart in charts] == [True] * 2 + [False] * 4
    for chart, location, scale in zip(charts, (0.11, 1.9, 2.1, math.pi), (0.003, 0.06, 0.1, 0.2), strict=False):
        error = math.remainder(chart.location - location, FULL_TURN)
        assert abs(error) < 5 * scale / math.sqrt(N)  # five standard errors
        assert chart.scale == pytest.approx(scale, rel=5 / math.sqrt(2 * N))
    assert all(chart.location == 0 for chart in charts[4:])


def test_standardized_data_have_mean_zero_and_width_one() -> None:
    q = data()
    z, _ = Chart(DOMAIN, fit_charts(q, DOMAIN)).encode(q)
    torch.testing.assert_close(z[:, :4].mean(0), torch.zeros(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(z[:, :4].std(0, correction=0), torch.ones(4).double(), rtol=0, atol=1e-9)


def test_cut_circles_leave_the_seam_empty() -> None:
    q = data()
    charts = fit_charts(q, DOMAIN, cut_circles=True)
    assert [chart.kind for chart in charts[4:]] == ["cut", "cut"]
    for column in (4, 5):
        seam = charts[column].location + math.pi
        away = Circle(FULL_TURN).difference(q[:, column], torch.tensor(seam, dtype=torch.float64)).abs()
        assert away.min() > 0.25
    z, _ = Chart(DOMAIN, charts).encode(q)
    assert z.isfinite().all()


def test_least_populated_place_of_a_known_density() -> None:
    # density 1 + 0.9 cos(2 theta - 1), by the inverse of its distribution function: least at 0.5 +- pi/2
    u = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000 * FULL_TURN
    theta = u.clone()
    for _ in range(50):
        theta -= (theta + 0.45 * ((2 * theta - 1).sin() + math.sin(1)) - u) / (1 + 0.9 * (2 * theta - 1).cos())
    found = least_populated(theta)
    assert abs(math.remainder(found - 0.5 - math.pi / 2, math.pi)) < FULL_TURN / 720  # one grid step


def test_a_narrow_torsion_needs_room_on_every_frame() -> None:
    q = data()
    q[17, 2] = 2.1 - math.pi + 0.5  # one datum nearer to the seam than eight widths
    assert fit_charts(q, DOMAIN)[2].kind == "circle"


def test_constrained_bonds_are_refused() -> None:
    q = data()
    q[:, 0] = 0.11
    with pytest.raises(GeometryError, match=r'Column "bond" does not vary.*without constraints'):
        fit_charts(q, DOMAIN)


def test_one_frame_is_refused() -> None:
    with pytest.raises(GeometryError, match="2 frames or more; got 1"):
        fit_charts(data()[:1], DOMAIN)


def test_data_outside_the_domain_are_refused() -> None:
    q = data()
    q[5, 1] = math.nan
    with pytest.raises(ManifoldError, match=r'row 5, column 1 \("angle"\)'):
        fit_charts(q, DOMAIN)


def test_float32_data_are_fitted_in_double_precision() -> None:
    single, double = fit_charts(data().float(), DOMAIN), fit_charts(data(), DOMAIN)
    for a, b in zip(single, double, strict=True):
        assert a.location == pytest.approx(b.location, abs=1e-6)
        assert a.scale == pytest.approx(b.scale, rel=1e-5)
