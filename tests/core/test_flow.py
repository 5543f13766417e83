"""Flows and their base distribution."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from smoothflow.core.charts import CumulativeNormal
from smoothflow.core.flow import Base, Flow
from smoothflow.core.layers import Layer
from smoothflow.core.manifolds import UNIT_MANIFOLDS, Circle, Column, Interval, Line, Product
from torch import Tensor, nn

F64 = torch.float64
MIXED = Product((Column("z", Line()), Column("a", Circle()), Column("w", Line()), Column("u", Interval())))


class Stretch(Layer):
    """Lines times a trainable factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.domain = self.codomain = MIXED
        self.log_factor = nn.Parameter(torch.tensor(factor, dtype=F64).log())
        self.stretched = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=F64)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * (self.log_factor * self.stretched).exp(), 2 * self.log_factor.expand(len(x))

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z * (-self.log_factor * self.stretched).exp(), -2 * self.log_factor.expand(len(z))


def test_the_base_is_uniform_and_normal() -> None:
    base = Base(MIXED)
    z = torch.tensor([[1.5, 0.2, -0.5, 0.9], [0.0, 0.7, 3.0, 0.1]], dtype=F64)
    expected = stats.norm.logpdf(z[:, [0, 2]].numpy()).sum(1)
    torch.testing.assert_close(base.log_prob(z), torch.tensor(expected), rtol=1e-14, atol=0)
    n = 20_000
    drawn = base.sample(n, torch.Generator().manual_seed(0), F64)
    assert (drawn.shape, drawn.dtype) == ((n, 4), F64)
    for column, name in enumerate(("norm", "uniform", "norm", "uniform")):
        # one in a thousand seeds would give less
        assert stats.kstest(drawn[:, column].numpy(), name).pvalue > 1e-3
    assert abs(float(torch.corrcoef(drawn.T)[0, 2])) < 4 / n**0.5


def test_the_density_of_a_stretched_normal_distribution() -> None:
    flow = Flow(Stretch(4.0))
    assert flow.domain == MIXED
    x = torch.tensor([[0.3, 0.2, -0.1, 0.9]], dtype=F64)
    expected = stats.norm(scale=0.25).logpdf([0.3, -0.1]).sum()
    assert flow.log_prob(x).item() == pytest.approx(expected, rel=1e-14)
    z, log_abs_det = flow.encode(x)
    back, log_back = flow.decode(z)
    torch.testing.assert_close(back, x, rtol=1e-14, atol=0)
    assert log_abs_det.item() == -log_back.item() == pytest.approx(4 * math.log(2), rel=1e-14)


def test_samples_have_the_density_that_comes_with_them() -> None:
    flow = Flow(Stretch(4.0))
    x, log_prob = flow.sample(1000, torch.Generator().manual_seed(0))
    assert x.dtype == F64
    torch.testing.assert_close(log_prob, flow.log_prob(x), rtol=1e-13, atol=0)
    assert float(x[:, 0].detach().std()) == pytest.approx(0.25, rel=0.1)  # 2 % expected
    assert torch.equal(x, flow.sample(1000, torch.Generator().manual_seed(0))[0])
    (gradient,) = torch.autograd.grad(log_prob.mean(), flow.layer.log_factor)
    # each of two lines is narrower by the factor
    assert gradient.item() == pytest.approx(2, rel=1e-12)


def test_the_base_lives_on_the_codomain() -> None:
    flow = Flow(CumulativeNormal(MIXED))
    assert flow.base.domain == flow.layer.codomain != flow.domain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_of_an_interval_are_never_its_ends(dtype: torch.dtype) -> None:
    """Of 2^24 numbers in float32 one is expected to be 0, and with this seed it is."""
    interval = UNIT_MANIFOLDS["interval"]
    base = Base(Product.of(interval, [f"x{i}" for i in range(64)]))
    n = 2**18
    raw = torch.rand((n, 64), generator=torch.Generator().manual_seed(1), dtype=dtype)
    z = base.sample(n, torch.Generator().manual_seed(1), dtype)
    assert float(z.min()) > 0
    assert float(z.max()) < 1
    if dtype == torch.float32:
        assert float(raw.min()) == 0
    torch.testing.assert_close(z, raw, rtol=0, atol=torch.finfo(dtype).eps / 4)


class Same(Layer):
    """The identity."""

    def __init__(self, domain: Product) -> None:
        super().__init__()
        self.domain = self.codomain = domain

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x.sum(-1) * 0

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z, z.sum(-1) * 0


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_there_is_no_density_outside_of_the_intervals(dtype: torch.dtype) -> None:
    bond, angle = Interval(0, math.inf), Interval(0, math.pi)
    manifolds = {"b": bond, "c": bond, "t": Circle(2 * math.pi), "a": angle, "d": Line(), "e": Interval(-math.inf, 1)}
    flow = Flow(Same(Product(tuple(Column(name, manifold) for name, manifold in manifolds.items()))))
    inside = torch.tensor([0.1, 0.2, -3.0, math.pi, 0.0, -1e9], dtype=dtype)
    expected = stats.norm.logpdf(0)
    assert flow.log_prob(inside[None]).item() == pytest.approx(expected, rel=1e-6)
    wrong = {0: -1e-3, 1: -math.inf, 3: math.pi + 1e-3, 5: 1.001}
    x = inside.repeat(len(wrong) + 2, 1)
    for row, (column, value) in enumerate(wrong.items()):
        x[row, column] = value
    # circles and lines have no outside, and what is not a number stays so
    x[-2, 2] = 1e9
    x[-1, 0] = math.nan
    x.requires_grad_(True)
    log_prob = flow.log_prob(x)
    assert log_prob[:4].tolist() == 4 * [-math.inf]
    assert log_prob[4].item() == pytest.approx(expected, rel=1e-6)
    assert bool(log_prob[5].isnan())
    # nor do they spoil the gradient of the rows beside them
    (gradient,) = torch.autograd.grad(log_prob[:5].sum(), x)
    assert bool(gradient[4].isfinite().all())
