"""Conditional flows: densities that depend on a context, given with every configuration or bound once."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy import stats
from smoothflow.core.architecture import FlowSettings, build_flow
from smoothflow.core.conditioners import Conditioner, MLPConditioner
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.flow import Flow
from smoothflow.core.layers import Coupling, Layer, Sequential
from smoothflow.core.manifolds import Circle, Column, Interval, Line, Product
from smoothflow.core.plugins import registry
from smoothflow.core.torch_internals import traced
from smoothflow.testing import check_layer, examine_layer
from torch import Tensor

F64 = torch.float64
COLUMNS = Product((Column("r", Line()), Column("s", Line()), Column("phi", Circle()), Column("psi", Circle())))
LINES = Product((Column("x", Line()),))


class Width(Conditioner):
    """The log-scale of an affine step that makes a normal distribution of variance exp(2 c) of the standard one."""

    n_context = 1

    def __init__(self) -> None:
        super().__init__()
        # a weight, by which the flow knows its precision
        self.weight = torch.nn.Parameter(torch.ones(1, dtype=F64))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        # the transform bounds its log-scale by tanh
        return torch.cat([torch.atanh(-self.weight * context), torch.zeros_like(context)], dim=-1)


class Mirror(Layer):
    """A layer of a third party, which was written before there were contexts."""

    def __init__(self, domain: Product) -> None:
        super().__init__()
        self.domain = self.codomain = domain

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return -x, x.new_zeros(len(x))

    def decode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return -z, z.new_zeros(len(z))


def normal_flow() -> Flow:
    affine = registry().transform("affine")(Line())
    coupling = Coupling(LINES, [0], [], {Line: affine}, Width())
    return Flow(Sequential([Mirror(LINES), coupling]))


@pytest.fixture(scope="module")
def flow() -> Flow:
    settings = FlowSettings(hidden=16, interval_pairs=1, circle_pairs=1, context=2, seed=1)
    made = build_flow(settings, COLUMNS).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=F64))
    return made


def configurations(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.cat(
        [torch.randn(n, 2, generator=generator, dtype=F64), torch.rand(n, 2, generator=generator, dtype=F64)], 1
    )
    return x, 2 * torch.rand(n, 2, generator=generator, dtype=F64) - 1


def test_the_density_in_a_context_is_that_of_the_closed_form() -> None:
    flow = normal_flow()
    x = torch.linspace(-2, 2, 5, dtype=F64)[:, None]
    context = torch.tensor([[-0.8], [-0.3], [0.0], [0.4], [0.9]], dtype=F64)
    expected = stats.norm(scale=context.exp()).logpdf(x.numpy())[:, 0]
    torch.testing.assert_close(flow.log_prob(x, context), torch.tensor(expected), rtol=1e-14, atol=0)
    # half the context, half the logarithm of the width
    drawn, log_prob = flow.at([-0.5]).sample(4000, seed=0)
    assert float(drawn.detach().std()) == pytest.approx(math.exp(-0.5), rel=0.05)  # 1.1 % expected
    torch.testing.assert_close(
        log_prob.detach(),
        torch.tensor(stats.norm(scale=math.exp(-0.5)).logpdf(drawn[:, 0].detach())),
        rtol=1e-12,
        atol=0,
    )


def test_each_configuration_has_the_density_of_its_own_context(flow: Flow) -> None:
    x, contexts = configurations(6)
    together = flow.log_prob(x, contexts)
    apart = torch.cat([flow.at(c).log_prob(one[None]) for one, c in zip(x, contexts, strict=True)])
    # batches of another size round in another order
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-12)
    assert torch.equal(flow.log_prob(x, contexts[0]), flow.at(contexts[0]).log_prob(x))
    # the context counts
    assert float((flow.log_prob(x, contexts.flip(0)) - together).detach().abs().min()) > 1e-3


def test_encode_and_decode_are_inverse_in_every_context(flow: Flow) -> None:
    x, contexts = configurations(50)
    z, log_abs_det = flow.encode(x, contexts)
    back, log_back = flow.decode(z, contexts)
    # rounding of the roots, seen through slopes of the transforms, which random weights make steep
    torch.testing.assert_close(back, x, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_back, -log_abs_det, rtol=0, atol=1e-6)
    drawn, log_prob = flow.sample(20, seed=3, context=contexts[:20])
    torch.testing.assert_close(flow.log_prob(drawn, contexts[:20]), log_prob, rtol=0, atol=1e-6)


def test_a_bound_flow_shares_the_weights_and_binds_anew(flow: Flow) -> None:
    bound = flow.at([0.2, -0.4])
    assert [id(p) for p in bound.parameters()] == [id(p) for p in flow.parameters()]
    assert bound.state_dict().keys() == flow.state_dict().keys()
    assert bound.settings == flow.settings
    x, _ = configurations(3)
    again = bound.at([0.7, 0.1])
    assert torch.equal(again.log_prob(x), flow.log_prob(x, torch.tensor([0.7, 0.1], dtype=F64)))
    assert torch.equal(copy.deepcopy(bound).log_prob(x), bound.log_prob(x))
    assert copy.deepcopy(bound).float().log_prob(x.float()).dtype == torch.float32
    assert "context: 2 features (0.2, -0.4)" in repr(bound)


def test_derivatives_with_respect_to_the_context_are_those_of_differences(flow: Flow) -> None:
    x, contexts = configurations(1)

    def log_prob(c: Tensor) -> Tensor:
        return flow.log_prob(x, c)[0]

    c, step = contexts[0], 1e-4
    gradient = torch.func.grad(log_prob)(c)
    hessian = torch.func.hessian(log_prob)(c)
    differences, second = [], []
    for e in torch.eye(2, dtype=F64):
        differences.append((log_prob(c + step * e) - log_prob(c - step * e)) / (2 * step))
        second.append((torch.func.grad(log_prob)(c + step * e) - torch.func.grad(log_prob)(c - step * e)) / (2 * step))
    # the error of central differences, step^2 / 6 times third derivatives of some thousands
    torch.testing.assert_close(gradient, torch.stack(differences).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hessian, torch.stack(second).detach(), rtol=1e-4, atol=1e-4)
    everywhere = torch.vmap(log_prob)(configurations(5)[1])
    torch.testing.assert_close(everywhere, torch.stack([log_prob(c) for c in configurations(5)[1]]), rtol=0, atol=1e-12)


def test_a_traced_and_an_exported_flow_are_of_the_context_it_was_bound_to(flow: Flow) -> None:
    x, _ = configurations(4)
    bound = flow.at([0.3, -0.6])

    def forces(y: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            y = y.detach().requires_grad_(True)
            log_prob = bound.log_prob(y)
            return log_prob.detach(), *torch.autograd.grad(log_prob.sum(), y)

    graph = traced(forces, [x.clone()], symbolic=False)
    for found, expected in zip(graph(x), forces(x), strict=True):
        assert torch.equal(found, expected)
    exported = torch.export.export(Encoding(bound), (x,)).module()
    torch.testing.assert_close(exported(x), bound.encode(x)[0], rtol=0, atol=1e-13)


class Encoding(torch.nn.Module):
    """What is exported."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor) -> Tensor:
        return self.flow.encode(x)[0]


def test_a_context_that_is_missing_or_of_another_shape_is_refused(flow: Flow) -> None:
    x, contexts = configurations(3)
    with pytest.raises(ConfigurationError, match=r"a context of 2 finite features, and none was given.*flow\.at"):
        flow.log_prob(x)
    for wrong in (contexts[:2], contexts[:, :1], contexts[0, 0], contexts[None]):
        with pytest.raises(ConfigurationError, match="a context of 2 finite features"):
            flow.log_prob(x, wrong)
    for wrong in ([0.1], [0.1, math.nan], [[0.1, 0.2]]):
        with pytest.raises(ConfigurationError, match="was given"):
            flow.at(wrong)  # type: ignore[arg-type]
    plain = build_flow(FlowSettings(hidden=8, interval_pairs=1, circle_pairs=1), COLUMNS).double()
    with pytest.raises(ConfigurationError, match="does not depend on a context"):
        plain.at([0.1])
    with pytest.raises(ConfigurationError, match="does not depend on a context"):
        plain.log_prob(x, contexts)


def test_layers_of_different_contexts_do_not_go_together() -> None:
    affine = registry().transform("affine")(Line())
    other = Coupling(LINES, [0], [], {Line: affine}, MLPConditioner(LINES.select([]), torch.zeros(2), 4, n_context=3))
    with pytest.raises(ConfigurationError, match="contexts of 1 and of 3 features"):
        Sequential([Coupling(LINES, [0], [], {Line: affine}, Width()), other])
    with pytest.raises(ConfigurationError, match="takes a context of 3 features, and none was given"):
        other.encode(torch.zeros(2, 1))


def test_settings_of_a_context_without_a_coupling_are_refused() -> None:
    settings = FlowSettings(line_pairs=0, interval_pairs=0, circle_pairs=0, context=1, shear=False)
    domain = Product((Column("x", Line()), Column("u", Interval())))
    with pytest.raises(ConfigurationError, match="without a coupling"):
        build_flow(settings, domain)


class Forgetful(Layer):
    """A stretch by the context that forgets it in its Jacobian."""

    n_context = 1

    def __init__(self) -> None:
        super().__init__()
        self.domain = self.codomain = LINES

    def encode(self, x: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return x * context.exp(), x.new_zeros(len(x))

    def decode(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return z * (-context).exp(), z.new_zeros(len(z))


def test_the_conformance_kit_holds_layers_of_a_context_to_the_contract(flow: Flow) -> None:
    coupling = next(layer for layer in flow.modules() if isinstance(layer, Coupling))
    check_layer(coupling)
    broken = [result.clause for result in examine_layer(Forgetful()).results if result.error is not None]
    assert broken != []
    assert "pickling" not in broken
