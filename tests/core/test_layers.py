"""Layers and flows: exact inverses, and log-determinants against autograd's Jacobian."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from smoothflow.core.architecture import FlowSettings, build_flow, transforms_for
from smoothflow.core.charts import Chart, ColumnChart, CumulativeNormal
from smoothflow.core.conditioners import Conditioner
from smoothflow.core.errors import ConfigurationError, ManifoldError, UnknownNameError
from smoothflow.core.flow import Flow
from smoothflow.core.layers import Coupling, Sequential
from smoothflow.core.manifolds import FULL_TURN, Circle, Column, Interval, Line, Product
from smoothflow.core.transforms import Transform

PHYSICAL = Product(
    (
        Column("bond", Interval(0, math.inf)),
        Column("angle", Interval(0, math.pi)),
        Column("improper", Circle(FULL_TURN)),
        Column("phi", Circle(FULL_TURN)),
        Column("psi", Circle(FULL_TURN)),
    )
)


def chart(cut: bool = False) -> Chart:
    kind = "cut" if cut else "circle"
    return Chart(
        PHYSICAL,
        [
            ColumnChart("standard", 0.15, 0.005),
            ColumnChart("standard", 1.9, 0.08),
            ColumnChart("standard", math.pi, 0.1),
            ColumnChart(kind, 0.3),
            ColumnChart(kind, -2.0),
        ],
    )


def physical_points(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((n, 5), generator=generator, dtype=torch.float64)
    turns = torch.rand((n, 2), generator=generator, dtype=torch.float64) * FULL_TURN - math.pi
    x = torch.tensor([0.15, 1.9, math.pi, 0, 0]) + noise * torch.tensor([0.005, 0.08, 0.1, 0, 0])
    x[:, 3:] = turns
    # torsions in (-pi, pi], as decode gives them; the improper's data lie across that seam
    x[:, 2] = torch.where(x[:, 2] > math.pi, x[:, 2] - FULL_TURN, x[:, 2])
    return x


def flow_named(name: str, seed: int = 0) -> Flow:
    settings = FlowSettings(
        transforms=transforms_for(name), line_pairs=1, interval_pairs=1, circle_pairs=1, hidden=8, seed=seed
    )
    flow = build_flow(settings, chart(settings.cuts_circles)).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            # away from the initial near-identity, where errors could hide
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return flow


@pytest.mark.parametrize("name", ["smooth", "spline", "affine"])
def test_flow_round_trip(name: str) -> None:
    x = physical_points(200)
    flow = flow_named(name)
    z, log_abs_det = flow.encode(x)
    back, log_abs_det_back = flow.decode(z)
    delta = back - x
    delta[:, 2:] = Circle(FULL_TURN).difference(back[:, 2:], x[:, 2:])
    assert delta.abs().max() < 1e-9
    # the same Jacobian, evaluated at points that differ by the round trip's error
    torch.testing.assert_close(log_abs_det_back, -log_abs_det, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["smooth", "spline", "affine"])
def test_flow_log_determinant_agrees_with_autograd(name: str) -> None:
    x = physical_points(20)
    flow = flow_named(name)
    _, log_abs_det = flow.encode(x)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow.encode(x)[0].sum(0), x).permute(1, 0, 2)
    torch.testing.assert_close(log_abs_det, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["smooth", "spline"])
def test_density_on_circles_integrates_to_one(name: str) -> None:
    torus = Product.of(Circle(), ["a", "b"])
    settings = FlowSettings(transforms=transforms_for(name), circle_pairs=2, hidden=8, seed=1)
    flow = build_flow(settings, torus).double()
    grid = torch.arange(400, dtype=torch.float64) / 400
    points = torch.cartesian_prod(grid, grid)
    # the trapezoidal rule on the torus: spectrally accurate for smooth densities, second order for C^1
    assert flow.log_prob(points).exp().mean().item() == pytest.approx(1, abs=1e-5)


def test_samples_have_the_density_that_is_stated() -> None:
    flow = flow_named("smooth")
    x, log_prob = flow.sample(100, torch.Generator().manual_seed(0))
    torch.testing.assert_close(log_prob, flow.log_prob(x), rtol=0, atol=1e-8)


def test_chart_of_lines_agrees_with_the_normal_distribution() -> None:
    domain = Product.of(Line(), ["z"])
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)[:, None]
    u, log_abs_det = CumulativeNormal(domain, scale=1.5).encode(x)
    expected = stats.norm(scale=1.5)
    torch.testing.assert_close(u[:, 0], torch.tensor(expected.cdf(x[:, 0].numpy())), rtol=1e-12, atol=0)
    torch.testing.assert_close(log_abs_det, torch.tensor(expected.logpdf(x[:, 0].numpy())), rtol=1e-12, atol=1e-13)


def test_chart_puts_the_seam_of_a_narrow_torsion_opposite_to_its_mean() -> None:
    q = torch.tensor(
        [[0.15, 1.9, -math.pi + 0.05, 0.0, 0.0], [0.15, 1.9, math.pi - 0.05, 0.0, 0.0]], dtype=torch.float64
    )
    z, _ = chart().encode(q)
    torch.testing.assert_close(z[:, 2], torch.tensor([0.5, -0.5], dtype=torch.float64))


def test_coupling_columns_cannot_condition_themselves() -> None:
    domain = Product.of(Circle(), ["a", "b"])
    with pytest.raises(ConfigurationError, match="both transformed and conditioning: b"):
        Coupling(domain, [0, 1], [1], {}, torch.nn.Identity())  # type: ignore[arg-type]


def test_coupling_without_a_transform_for_a_column_names_it() -> None:
    domain = Product((Column("a", Circle()), Column("r", Interval())))
    transforms = FlowSettings(transforms={"circle": "smooth"}).make_transforms()
    with pytest.raises(ConfigurationError, match='Column "r" lives on the interval'):
        Coupling(domain, [0, 1], [], transforms, torch.nn.Identity())  # type: ignore[arg-type]


class Given(Conditioner):
    """Outputs that say where they come from: sums of the conditioning columns, times 1, 2, 3, ..."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        self.factors = torch.arange(1, n_outputs + 1, dtype=torch.float64) / 10

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1, keepdim=True) * self.factors


class Affine(Transform):
    """y = exp(p_0) x + p_1."""

    name = "plain"
    manifolds = frozenset({Line, Interval})
    smoothness = math.inf
    n_params = 2

    def forward(self, x: torch.Tensor, params: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return params[..., 0].exp() * x + params[..., 1], params[..., 0]

    def initial_params(self) -> torch.Tensor:
        return torch.tensor([float(isinstance(self.manifold, Line)), 5.0])


MIXED = Product((Column("a", Line()), Column("r", Interval()), Column("b", Line()), Column("c", Line())))
AFFINE = {Interval: Affine(Interval()), Line: Affine(Line())}


@pytest.mark.parametrize("analytic", ["encode", "decode"])
def test_a_coupling_is_its_closed_form(analytic: str) -> None:
    # outputs belong to r, then to c and a, in the order of the columns given
    coupling = Coupling(MIXED, [3, 0], [2], AFFINE, Given(4), analytic)  # type: ignore[arg-type]
    x = torch.tensor([[0.5, 0.25, 2.0, -1.0], [0.1, 0.75, -1.0, 3.0]], dtype=torch.float64)
    analytically, back = (
        (coupling.encode, coupling.decode) if analytic == "encode" else (coupling.decode, coupling.encode)
    )
    z, log_abs_det = analytically(x)
    b = x[:, 2]
    expected = torch.stack([(0.3 * b).exp() * x[:, 0] + 0.4 * b, x[:, 1], b, (0.1 * b).exp() * x[:, 3] + 0.2 * b], -1)
    torch.testing.assert_close(z, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(log_abs_det, 0.4 * b, rtol=1e-14, atol=0)
    again, log_back = back(z)
    torch.testing.assert_close(again, x, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(log_back, -log_abs_det, rtol=1e-13, atol=0)
    both = Coupling(MIXED, [3, 1], [2], AFFINE, Given(4))
    assert both.grouped.tolist() == [1, 3]
    z, log_abs_det = both.encode(x)
    torch.testing.assert_close(z[:, 1], (0.1 * b).exp() * x[:, 1] + 0.2 * b, rtol=1e-14, atol=0)
    torch.testing.assert_close(z[:, 3], (0.3 * b).exp() * x[:, 3] + 0.4 * b, rtol=1e-14, atol=0)
    torch.testing.assert_close(z[:, [0, 2]], x[:, [0, 2]], rtol=0, atol=0)


def test_initial_outputs_are_in_the_order_of_the_couplings_columns() -> None:
    assert Coupling.initial_outputs(MIXED, [3, 1], AFFINE).tolist() == [0, 5, 1, 5]
    assert Coupling.initial_outputs(MIXED, [3, 0], AFFINE).tolist() == [1, 5, 1, 5]


def test_log_determinants_of_layers_add_up() -> None:
    coupling = Coupling(MIXED, [0], [2], AFFINE, Given(2))
    three = Sequential([coupling] * 3)
    x = torch.tensor([[0.5, 0.25, 2.0, -1.0]], dtype=torch.float64)
    z, total = three.encode(x)
    assert total.item() == pytest.approx(0.6, rel=1e-14)
    back, total_back = three.decode(z)
    assert total_back.item() == pytest.approx(-0.6, rel=1e-14)
    torch.testing.assert_close(back, x, rtol=1e-13, atol=0)
    assert (three.domain, three.codomain) == (MIXED, MIXED)
    with pytest.raises(ConfigurationError, match="at least one layer"):
        Sequential([])


def test_layers_that_do_not_fit_are_refused() -> None:
    first = CumulativeNormal(Product.of(Line(), ["z"]))
    with pytest.raises(ManifoldError, match="CumulativeNormal maps onto"):
        Sequential([first, first])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"transforms": {"sphere": "smooth"}}, ConfigurationError, '"sphere" is not a kind of manifold'),
        ({"options": {"spline": {"n_bins": 3}}}, ConfigurationError, "not used: spline"),
        ({"hidden": 0}, ConfigurationError, "hidden must be a whole number from 1 to 65536; it is 0"),
    ],
)
def test_settings_that_cannot_work_say_why(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        FlowSettings(**settings)


def test_transforms_are_refused_on_manifolds_they_do_not_map() -> None:
    with pytest.raises(ManifoldError, match='"bernstein" cannot map the circle; it maps: interval'):
        FlowSettings(transforms={"circle": "bernstein"}).make_transforms()
    with pytest.raises(UnknownNameError, match='Did you mean "smooth"'):
        FlowSettings(transforms={"circle": "smoth"}).make_transforms()
    with pytest.raises(ConfigurationError, match="cannot take the options"):
        FlowSettings(options={"smooth": {"n_knots": 3}}).make_transforms()


def test_the_initial_flow_depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = build_flow(FlowSettings(seed=1, hidden=8), chart()).state_dict()
    torch.manual_seed(6)
    second = build_flow(FlowSettings(seed=1, hidden=8), chart()).state_dict()
    other = build_flow(FlowSettings(seed=2, hidden=8), chart()).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
