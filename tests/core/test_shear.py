"""Shears: exact inverses, the density of correlated normal distributions, periodicity, and where flows have them."""

from __future__ import annotations

import pytest
import torch
from smoothflow.core.architecture import FlowSettings, build_flow
from smoothflow.core.conditioners import Conditioner, MLPConditioner
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.flow import Flow
from smoothflow.core.layers import Coupling, Sequential
from smoothflow.core.manifolds import FULL_TURN, Arc, Circle, Column, Line, Product
from smoothflow.core.shear import Shear
from torch import Tensor
from torch.distributions import MultivariateNormal

MIXED = Product(
    (
        Column("phi", Circle()),
        Column("bond", Line()),
        Column("improper", Arc(7.0)),
        Column("angle", Line()),
        Column("omega", Arc(9.0)),
        Column("psi", Circle()),
        Column("length", Line()),
    )
)
MOVED, CIRCLES = [1, 2, 3, 4, 6], [0, 5]
ARCS_FIRST = [2, 4, 1, 3, 6]
PERIODS = {2: 7.0, 4: 9.0}


class Constant(Conditioner):
    """The same outputs whatever the conditioning columns."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = torch.nn.Parameter(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs.expand(len(x), -1)


def mixed_shear(seed: int = 0) -> Shear:
    torch.manual_seed(seed)
    n = len(MOVED)
    conditioner = MLPConditioner(MIXED.select(CIRCLES), torch.randn(n + n * (n - 1) // 2), hidden=8)
    return Shear(MIXED, MOVED, CIRCLES, conditioner).double()


def points(n: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn((n, len(MIXED)), generator=generator, dtype=torch.float64)
    x[:, CIRCLES] = torch.rand((n, 2), generator=generator, dtype=torch.float64)
    return x


def test_a_shear_moves_each_column_by_its_formula() -> None:
    shear, x = mixed_shear(), points()
    z, _ = shear.encode(x)
    outputs = shear.conditioner(x[:, CIRCLES])
    pairs = [(i, j) for i in range(len(MOVED)) for j in range(i)]
    coefficients = dict(zip(pairs, outputs[:, len(MOVED) :].unbind(-1), strict=True))
    for i, column in enumerate(ARCS_FIRST):
        expected = x[:, column] - outputs[:, i]
        for j, source in enumerate(ARCS_FIRST[:i]):
            radius = PERIODS.get(source, 0.0) / FULL_TURN
            bent = radius * (x[:, source] / radius).sin() if source in PERIODS else 8 * (x[:, source] / 8).tanh()
            expected = expected - coefficients[i, j] * bent
        turns = (z[:, column] - expected) / PERIODS.get(column, 1.0)
        # arcs are the same up to whole turns, lines exactly; rounding of a sum of five terms
        torch.testing.assert_close(turns, turns.round() if column in PERIODS else 0 * turns, rtol=0, atol=1e-14)
    torch.testing.assert_close(z[:, CIRCLES], x[:, CIRCLES], rtol=0, atol=0)


def test_decoding_undoes_encoding_and_no_volume_changes() -> None:
    shear, x = mixed_shear(), points()
    z, log_abs_det = shear.encode(x)
    back, log_back = shear.decode(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-13)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda row: shear.encode(row[None])[0][0]))(x)
    torch.testing.assert_close(log_abs_det, torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-13)
    torch.testing.assert_close(log_back, -log_abs_det, rtol=0, atol=0)


def test_a_whole_turn_of_an_arc_or_a_circle_changes_nothing() -> None:
    shear, x = mixed_shear(), points()
    z, _ = shear.encode(x)
    for column, period in {**PERIODS, **dict.fromkeys(CIRCLES, 1.0)}.items():
        turned = x.clone()
        turned[:, column] += period
        moved, _ = shear.encode(turned)
        moved[:, column] -= period * torch.round((moved[:, column] - z[:, column]) / period)
        torch.testing.assert_close(moved, z, rtol=0, atol=1e-12)


def test_derivatives_of_both_directions_are_those_of_finite_differences() -> None:
    shear, x = mixed_shear(), points(3).requires_grad_(True)
    for direction in (shear.encode, shear.decode):
        assert torch.autograd.gradcheck(direction, (x,))
        assert torch.autograd.gradgradcheck(direction, (x,))


def test_a_shear_of_lines_makes_a_correlated_normal_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    # in the bulk, the map is linear up to x^3 / 3 w^2; here it is everywhere
    monkeypatch.setattr("smoothflow.core.shear.REACH", 1e8)
    n = 4
    domain = Product.of(Line(), [f"q{i}" for i in range(n)])
    torch.manual_seed(1)
    mean, lower = torch.randn(n, dtype=torch.float64), torch.randn((n, n), dtype=torch.float64).tril(-1)
    # x = b + M x + z with z standard normal
    coefficients = torch.stack([lower[i, j] for i in range(n) for j in range(i)])
    shear = Shear(domain, range(n), [], Constant(torch.cat([mean, coefficients])))
    flow = Flow(Sequential([shear])).double()
    inverse = torch.linalg.inv(torch.eye(n, dtype=torch.float64) - lower)
    exact = MultivariateNormal(inverse @ mean, inverse @ inverse.T)
    x, log_density = flow.sample(20_000, seed=2)
    torch.testing.assert_close(flow.log_prob(x), exact.log_prob(x), rtol=0, atol=1e-11)
    torch.testing.assert_close(log_density, exact.log_prob(x), rtol=0, atol=1e-11)
    # five standard errors of a variance and of a mean
    spread = exact.covariance_matrix.diagonal().sqrt()
    torch.testing.assert_close(x.mean(0), exact.loc, rtol=0, atol=5 * float(spread.max()) / 20_000**0.5)
    scaled = torch.cov(x.T) / spread[:, None] / spread
    expected = exact.covariance_matrix / spread[:, None] / spread
    torch.testing.assert_close(scaled, expected, rtol=0, atol=5 * (2 / 20_000) ** 0.5)


def test_a_line_far_outside_moves_others_no_further() -> None:
    shear, x = mixed_shear(), points()
    far, further = x.clone(), x.clone()
    far[:, 1], further[:, 1] = 100.0, 1000.0
    others = [i for i in range(len(MIXED)) if i != 1]
    # tanh of 12 is 1 to all digits
    torch.testing.assert_close(shear.encode(far)[0][:, others], shear.encode(further)[0][:, others], rtol=0, atol=1e-8)


def test_float32_is_as_near_to_float64_as_its_digits_allow() -> None:
    exact, single = mixed_shear(), mixed_shear().float()
    x = points(100)
    z = exact.encode(x)[0]
    # a sum of six terms of order one, each with 24 bits
    torch.testing.assert_close(single.encode(x.float())[0].double(), z, rtol=0, atol=1e-5)
    # each column is found from those found before: errors multiply with the coefficients
    torch.testing.assert_close(single.decode(z.float())[0].double(), exact.decode(z)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("moved", "conditioning"), [([1, 3], [3, 0]), ([0, 1], [5])])
def test_what_cannot_be_moved_is_refused(moved: list[int], conditioning: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="moves lines and arcs"):
        Shear(MIXED, moved, conditioning, Constant(torch.zeros(3)))


def test_a_flow_begins_with_a_shear_unless_it_is_told_otherwise() -> None:
    kinds = {
        shear: [type(layer) for layer in build_flow(FlowSettings(shear=shear, hidden=4), MIXED).layer.layers]
        for shear in (True, False)
    }
    assert kinds[True] == [Shear, *kinds[False]]
    assert Shear not in kinds[False]


def test_a_flow_of_circles_alone_has_no_shear() -> None:
    torus = Product.of(Circle(), ["a", "b"])
    assert {type(layer) for layer in build_flow(FlowSettings(hidden=4), torus).layer.layers} == {Coupling}
