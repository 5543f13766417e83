"""What every transform inherits: what it refuses, and its inverse where it gives none."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.core.errors import InversionError, ManifoldError, PluginError
from smoothflow.core.inversion import DEFAULT_SOLVER
from smoothflow.core.manifolds import Circle, Interval, Line
from smoothflow.core.plugins import registry
from smoothflow.core.solvers import Bisection, RootProblem, RootResult, Solver
from smoothflow.core.transforms import Transform
from torch import Tensor


class Sinh(Transform):
    """y = sinh(exp(p_0) x) + p_1."""

    name = "sinh-shift"
    manifolds = frozenset({Line, Circle})
    smoothness = math.inf

    @property
    def n_params(self) -> int:
        return 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_rate, shift = params.unbind(-1)
        scaled = log_rate.exp() * x
        return torch.sinh(scaled) + shift, log_rate + torch.log(torch.cosh(scaled))


def test_the_inverse_is_found_numerically() -> None:
    generator = torch.Generator().manual_seed(0)
    y = 10 * torch.randn(100, generator=generator, dtype=torch.float64)
    params = torch.randn((100, 2), generator=generator, dtype=torch.float64)
    x, log_dxdy = Sinh(Line()).inverse(y, params)
    expected = torch.asinh(y - params[:, 1]) * (-params[:, 0]).exp()
    torch.testing.assert_close(x, expected, rtol=1e-13, atol=1e-15)
    slope = -params[:, 0] - 0.5 * torch.log1p((y - params[:, 1]) ** 2)
    torch.testing.assert_close(log_dxdy, slope, rtol=0, atol=1e-13)


def test_training_starts_from_zeros() -> None:
    assert Sinh(Line()).initial_params().tolist() == [0, 0]


def test_other_manifolds_are_refused() -> None:
    assert Sinh(Circle()).manifold == Circle()
    with pytest.raises(ManifoldError, match=r'"sinh-shift" cannot map the interval; it maps: circle, line\.'):
        Sinh(Interval())
    with pytest.raises(ManifoldError, match=r"unit manifolds, not on Circle\(period=2\.0\)"):
        Sinh(Circle(2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (1,)])
def test_parameters_may_broadcast(dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    x = torch.zeros(batch, dtype=dtype)
    Sinh(Line()).require_valid(x, torch.zeros((*batch, 2), dtype=dtype))
    Sinh(Line()).require_valid(x, torch.zeros((*[1] * len(batch), 2), dtype=dtype))


@pytest.mark.parametrize(
    ("x", "params", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 2).double(), r"got torch\.float32 and torch\.float64"),
        (torch.zeros(3).half(), torch.zeros(3, 2).half(), r"works in float32 or float64.*got torch\.float16"),
        (torch.zeros(3), torch.zeros(3, 1), r"takes 2 parameters per element.*\(3,\) .* shape \(3, 1\)"),
        (torch.zeros(3), torch.zeros(2), r"parameters of shape \(2,\)"),
        (torch.zeros(()), torch.zeros(3, 2), r"values of shape \(\)"),
    ],
)
def test_other_dtypes_and_shapes_are_refused(x: Tensor, params: Tensor, message: str) -> None:
    with pytest.raises(ManifoldError, match=message):
        Sinh(Line()).require_valid(x, params)


class Turning(Transform):
    """x + p_1 + a sin(2 pi x) / 2 pi on the circle, by its lift alone."""

    name = "turning"
    manifolds = frozenset({Circle})
    smoothness = math.inf
    n_params = 2  # type: ignore[assignment]

    def _lift(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        assert params.shape == (*x.shape, 2)
        a, shift = params.unbind(-1)
        a = 0.9 * torch.tanh(a)
        angle = 2 * math.pi * x
        return x + shift + a / (2 * math.pi) * torch.sin(angle), torch.log1p(a * torch.cos(angle))


class Squaring(Transform):
    """(1 - a) x + a x^2 on the interval, by the hook alone, with parameters of one vector per element."""

    name = "squaring"
    manifolds = frozenset({Interval})
    smoothness = math.inf
    n_params = 1  # type: ignore[assignment]

    def _forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        assert params.shape == (*x.shape, 1)
        a = 0.5 * torch.sigmoid(params[..., 0])
        return (1 - a) * x + a * x**2, torch.log(1 - a + 2 * a * x)


class NoHook(Transform):
    name = "no-hook"
    manifolds = frozenset({Line, Circle})
    smoothness = math.inf
    n_params = 1  # type: ignore[assignment]


BROADCASTS = [((4,), ()), ((3, 4), (4,)), ((3, 4), (1, 4)), ((3, 4), (3, 1)), ((3, 4), ()), ((), ()), ((0, 4), (4,))]


@pytest.mark.parametrize(("shape", "batch"), BROADCASTS)
@pytest.mark.parametrize("transform", [Turning(Circle()), Squaring(Interval())])
def test_the_hooks_see_one_vector_of_parameters_per_element(
    transform: Transform, shape: tuple[int, ...], batch: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    params = torch.randn((*batch, transform.n_params), generator=generator, dtype=torch.float64)
    whole = params.expand(*shape, -1)
    for direction in (transform.forward, transform.inverse):
        for value, expected in zip(direction(x, params), direction(x, whole), strict=True):
            assert value.shape == shape
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("shape", "batch"), [((4,), (3,)), ((4,), (2, 4)), ((), (4,)), ((3, 4), (3,))])
def test_parameters_of_other_elements_are_refused(shape: tuple[int, ...], batch: tuple[int, ...]) -> None:
    transform = Squaring(Interval())
    for direction in (transform.forward, transform.inverse):
        with pytest.raises(ManifoldError, match="takes 1 parameters per element"):
            direction(torch.zeros(shape), torch.zeros((*batch, 1)))
        with pytest.raises(ManifoldError, match="float32 or float64"):
            direction(torch.zeros(shape).half(), torch.zeros((*shape, 1)).half())


def test_a_lift_is_wrapped_and_inverted() -> None:
    transform = Turning(Circle())
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(200, generator=generator, dtype=torch.float64)
    params = 3 * torch.randn((200, 2), generator=generator, dtype=torch.float64)
    y, log_dydx = transform.forward(x, params)
    assert bool(((y >= 0) & (y < 1)).all())
    back, log_dxdy = transform.inverse(y, params)
    assert float(Circle().difference(back, x).abs().max()) < 1e-13
    torch.testing.assert_close(log_dxdy, -log_dydx, rtol=0, atol=1e-11)


def test_a_transform_without_hooks_says_so() -> None:
    x, params = torch.zeros(3), torch.zeros((3, 1))
    with pytest.raises(PluginError, match='"no-hook" does not map the line: it has no _forward'):
        NoHook(Line()).forward(x, params)
    with pytest.raises(PluginError, match="neither _lift nor _forward"):
        NoHook(Circle()).inverse(x, params)


class Counted(Solver):
    """Counts its problems, and whether they were of a lift."""

    def __init__(self) -> None:
        self.lifted: list[bool] = []

    def solve(self, problem: RootProblem) -> RootResult:
        self.lifted.append(problem.cut is None)
        return Bisection().solve(problem)


class Overridden(Turning):
    """As before there were hooks: it overrides the public method."""

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        y, log_dydx = super().forward(x, params)
        return torch.remainder(y + 0.25, 1.0), log_dydx


def test_a_transform_has_the_solver_that_it_is_given() -> None:
    y = torch.tensor([0.1, 0.6], dtype=torch.float64)
    params = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
    for kind, lifted in ((Turning, True), (Overridden, False)):
        transform = kind(Circle())
        transform.solver = counted = Counted()
        x, _ = transform.inverse(y, params)
        assert counted.lifted == [lifted]
        # what was overridden is what is inverted
        torch.testing.assert_close(transform.forward(x, params)[0], y, rtol=0, atol=1e-14)
    assert Turning(Circle()).solver is DEFAULT_SOLVER


def test_one_newton_step_makes_first_derivatives_exact_and_not_second_ones() -> None:
    errors = []
    for n_steps in (1, 2):
        transform = Squaring(Interval())
        transform.n_newton_steps = n_steps
        y = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
        x, _ = transform.inverse(y, torch.zeros(1, dtype=torch.float64))
        (first,) = torch.autograd.grad(x, y, create_graph=True)
        # after one step the first one is a number
        (second,) = torch.autograd.grad(first + 0 * y, y)
        # a = 1/4: x = (-3 + sqrt(9 + 16 y)) / 2
        root = math.sqrt(9 + 16 * 0.3)
        assert first.item() == pytest.approx(4 / root, rel=1e-12)
        errors.append(abs(second.item() + 32 / root**3))
    assert errors[0] > 0.1
    assert errors[1] < 1e-12


INTERVAL = [name for name in registry().names("transform") if Interval in registry().transform(name).manifolds]


@pytest.mark.parametrize("name", INTERVAL)
def test_there_is_no_density_outside_of_the_interval(name: str) -> None:
    transform = registry().transform(name)(Interval())
    params = torch.randn(transform.n_params, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = torch.tensor([-1e9, -0.5, -1e-3, 1 + 1e-3, 1.5, math.inf], dtype=torch.float64)
    _, log_dydx = transform.forward(x, params)
    assert log_dydx.tolist() == 6 * [-math.inf]
    # by the midpoint rule over more than the interval
    grid = (torch.arange(30_000, dtype=torch.float64) + 0.5) / 10_000 - 1
    density = transform.forward(grid, params)[1].exp()
    assert float(density.sum() / 10_000) == pytest.approx(1, abs=1e-5)
    # what rounding carries past an end is not lost
    assert bool(transform.forward(torch.tensor([-1e-16, 1 + 4e-16]).double(), params)[1].isfinite().all())
    if name == "spline":
        back, log_dxdy = transform.inverse(x, params)
        assert bool((back.isnan() & log_dxdy.isnan()).all())
    else:
        with pytest.raises(InversionError, match="not a point of Interval"):
            transform.inverse(x, params)
