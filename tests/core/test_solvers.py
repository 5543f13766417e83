"""Root problems: brackets, residuals on every manifold, and what solvers say of what they found."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.core import solvers
from smoothflow.core.manifolds import Circle, Interval, Line
from smoothflow.core.solvers import (
    QUEUED_STEPS,
    Bisection,
    MultiBinBisection,
    RootProblem,
    SafeguardedNewton,
    Solver,
)
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

F64 = torch.float64
NONE = torch.zeros((3, 1), dtype=F64)
Y = torch.tensor([0.2, 0.5, 0.9], dtype=F64)


def identity(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    return x + 0 * params[..., 0], 0 * x


def rotation(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """x + p on the circle, in another turn."""
    return x + params[..., 0] + 2, 0 * x


def cube(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """x^3 + p x."""
    p = params[..., 0]
    return x**3 + p * x, torch.log(3 * x**2 + p)


def test_an_interval_is_its_own_bracket() -> None:
    y = torch.tensor([-1.0, 0.5, 9.0], dtype=F64)
    problem = RootProblem.start(identity, y, NONE, Interval(0, 2))
    assert (problem.lower.tolist(), problem.upper.tolist()) == ([0, 0, 0], [2, 2, 2])
    assert problem.guess.tolist() == [0, 0.5, 2]
    residual, log_dydx = problem.residual(torch.tensor([0.0, 1.0, 2.0], dtype=F64))
    assert (residual.tolist(), log_dydx.tolist()) == ([1, 0.5, -7], [0, 0, 0])


def test_a_line_has_an_open_bracket() -> None:
    problem = RootProblem.start(identity, Y, NONE, Line())
    assert problem.lower.tolist() == 3 * [-math.inf]
    assert problem.upper.tolist() == 3 * [math.inf]
    assert torch.equal(problem.guess, Y)
    assert torch.equal(problem.size(torch.tensor([-3.0, 0.0, 2.0], dtype=F64)), torch.tensor([3.0, 0, 2], dtype=F64))


def test_a_circle_is_cut_open_at_zero() -> None:
    params = torch.tensor([[0.3], [0.7], [0.0]], dtype=F64)
    problem = RootProblem.start(rotation, Y, params, Circle())
    # right for rotations
    expected = torch.tensor([0.9, 0.8, 0.9], dtype=F64)
    torch.testing.assert_close(problem.guess, expected, rtol=0, atol=1e-15)
    assert (problem.lower.tolist(), problem.upper.tolist()) == ([0, 0, 0], [1, 1, 1])
    # over the whole bracket, in one piece, for several points of each element
    x = torch.linspace(0, 0.999, 50, dtype=F64)[:, None].expand(-1, 3)
    residual, _ = problem.residual(x)
    torch.testing.assert_close(residual, x - expected, rtol=0, atol=1e-14)
    # a whole turn is nothing
    sizes = problem.size(torch.tensor([1.0, -0.9, 0.25], dtype=F64))
    torch.testing.assert_close(sizes, torch.tensor([0, 0.1, 0.25], dtype=F64), rtol=0, atol=1e-15)


def steep(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """The lift x + p_1 + 0.98 sin(2 pi (x - p_0)) / 2 pi: steep or flat at the cut, depending on p_0."""
    phase, shift = params.unbind(-1)
    angle = 2 * math.pi * (x - phase)
    return x + shift + 0.98 / (2 * math.pi) * torch.sin(angle), torch.log1p(0.98 * torch.cos(angle))


def steep_wrapped(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    y, log_dydx = steep(x, params)
    return torch.remainder(y, 1.0), log_dydx


def next_to_the_cut(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Targets within some roundings of F(0), on both sides of it, for steep and flat cuts."""
    generator = torch.Generator().manual_seed(0)
    params = torch.rand((20_000, 2), generator=generator, dtype=dtype) * torch.tensor([1, 3], dtype=dtype)
    at_cut, _ = steep_wrapped(torch.zeros(len(params), dtype=dtype), params)
    off = torch.randint(-40, 41, (len(params),), generator=generator) * torch.finfo(dtype).eps / 4
    return Circle().wrap(at_cut + off), params


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("solver", [SafeguardedNewton(), Bisection(), MultiBinBisection(50, 1e-15)])
@pytest.mark.parametrize("lifted", [True, False])
def test_no_turn_is_lost_next_to_the_cut(lifted: bool, solver: Solver, dtype: torch.dtype) -> None:
    """Where rounding carries F past F(0), the root is next to the cut, on either side of it."""
    y, params = next_to_the_cut(dtype)
    result = solver.solve(RootProblem.start(steep if lifted else steep_wrapped, y, params, Circle(), lifted))
    assert bool(result.converged.all())
    # in float64: how far the root is from the cut is how far y is from F(0), over a slope of 0.02 at least
    image, _ = steep_wrapped(result.x.double(), params.double())
    assert float(Circle().difference(image, y.double()).abs().max()) < 40 * torch.finfo(dtype).eps
    distance = Circle().difference(result.x, torch.zeros_like(y)).abs()
    assert float(distance.max()) < 100 * torch.finfo(dtype).eps / 0.02


def test_a_lift_is_solved_over_more_than_a_turn_without_a_jump() -> None:
    y, params = next_to_the_cut(F64)
    problem = RootProblem.start(steep, y, params, Circle(), lifted=True)
    ends = [problem.residual(end)[0] for end in (problem.lower, problem.upper)]
    # the bracket holds the root whatever rounding does to F(0): its ends are an eighth of a turn farther
    assert float(ends[0].max()) < -1e-4
    assert float(ends[1].min()) > 1e-4
    assert bool((problem.upper - problem.lower == 1.25).all())
    x = torch.linspace(-0.125, 1.125, 100, dtype=F64)[:, None].expand(-1, len(y))
    assert bool((problem.residual(x)[0].diff(dim=0) > 0).all())
    part = problem.select(torch.tensor([3]))
    assert torch.equal(part.residual(x[:, :1])[0][:, 0], problem.residual(x)[0][:, 3])


@pytest.mark.parametrize("solver", [SafeguardedNewton(), Bisection()])
def test_a_circle_may_have_another_period(solver: Solver) -> None:
    params = torch.tensor([[0.3], [1.7], [0.0]], dtype=F64)
    problem = RootProblem.start(rotation, 2 * Y, params, Circle(2.0))
    expected = torch.tensor([0.1, 1.3, 1.8], dtype=F64)
    x = torch.linspace(0, 1.999, 50, dtype=F64)[:, None].expand(-1, 3)
    torch.testing.assert_close(problem.residual(x)[0], x - expected, rtol=0, atol=1e-14)
    result = solver.solve(problem)
    assert bool(result.converged.all())
    torch.testing.assert_close(result.x, expected, rtol=0, atol=1e-14)


def test_a_part_of_a_problem_has_its_own_elements() -> None:
    params = torch.tensor([[0.3], [0.7], [0.0]], dtype=F64)
    problem = RootProblem.start(rotation, Y, params, Circle())
    part = problem.select(torch.tensor([2, 0]))
    x = torch.tensor([0.1, 0.2], dtype=F64)
    whole, _ = problem.residual(torch.tensor([0.2, 0.0, 0.1], dtype=F64))
    assert torch.equal(part.residual(x)[0], whole[[2, 0]])
    assert part.manifold == Circle()


def test_rounding_is_that_of_the_image_and_of_the_slope() -> None:
    problem = RootProblem.start(cube, torch.tensor([0.5, -8.0, 1.0], dtype=F64), NONE + 1, Line())
    found = problem.rounding(torch.tensor([2.0, -3.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0, 5.0], dtype=F64))
    expected = 2.0**-52 * torch.tensor([1 + 2, 8 + 3 * math.e, 1], dtype=F64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    # on a circle, distances are taken from points all around: near 0 they are known no better than elsewhere
    circle = RootProblem.start(rotation, Y, NONE, Circle())
    found = circle.rounding(torch.zeros(3, dtype=F64), torch.tensor([0.0, 1.0, 2.0], dtype=F64))
    expected = 2.0**-52 * torch.tensor([2, 1 + math.e, 1 + math.e**2], dtype=F64)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("solver", [SafeguardedNewton(max_iterations=2), Bisection(max_iterations=2)])
def test_elements_that_did_not_converge_are_marked(solver: Solver) -> None:
    y = torch.tensor([0.0, 1e6, -1e6], dtype=F64)
    result = solver.solve(RootProblem.start(cube, y, NONE + 1, Line()))
    assert not bool(result.converged[1:].any())
    assert result.iterations == 2
    n_failed = int((~result.converged).sum())
    assert result.reason == f"{n_failed} of 3 elements did not converge in 2 iterations"
    assert bool((result.residual[1:] > 1).all())


@pytest.mark.parametrize("solver", [SafeguardedNewton(), Bisection(), MultiBinBisection(7, 1e-15)])
def test_roots_far_away_are_found_on_the_line(solver: Solver) -> None:
    x = torch.tensor([1e-3, -40.0, 1e4, -1e4, 0.0], dtype=F64)
    params = torch.full((5, 1), 0.5, dtype=F64)
    y, log_dydx = cube(x, params)
    result = solver.solve(RootProblem.start(cube, y, params, Line()))
    assert bool(result.converged.all())
    torch.testing.assert_close(result.x, x, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(result.log_dydx, log_dydx, rtol=0, atol=1e-12)
    torch.testing.assert_close(result.residual, (cube(result.x, params)[0] - y).abs(), rtol=0, atol=0)
    assert result.reason == f"all 5 elements converged in {result.iterations} iterations"


def step(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """x with a jump from 0.4 to 0.6 at 1/2, which holds no root in between."""
    return torch.where(x < 0.5, 0.8 * x, 0.2 + 0.8 * x) + 0 * params[..., 0], math.log(0.8) + 0 * x


@pytest.mark.parametrize("solver", [SafeguardedNewton(), Bisection(), MultiBinBisection(10, 1e-8)])
def test_a_jump_holds_no_root(solver: Solver) -> None:
    y = torch.tensor([0.2, 0.5, 0.9], dtype=F64)
    result = solver.solve(RootProblem.start(step, y, NONE, Interval()))
    assert result.converged.tolist() == [True, False, True]
    assert result.x[1].item() == pytest.approx(0.5, abs=1e-8)
    assert result.residual[1].item() == pytest.approx(0.1, abs=1e-7)
    torch.testing.assert_close(result.x[::2], torch.tensor([0.25, 0.875], dtype=F64), rtol=0, atol=1e-8)


def test_newton_needs_one_evaluation_where_its_guess_is_right() -> None:
    assert SafeguardedNewton().solve(RootProblem.start(identity, Y, NONE, Interval())).iterations == 1
    assert SafeguardedNewton().solve(RootProblem.start(rotation, Y, NONE + 0.3, Circle())).iterations == 1
    # quadratic: six halvings would give two digits
    params = torch.full((3, 1), 0.5, dtype=F64)
    assert SafeguardedNewton().solve(RootProblem.start(cube, Y, params, Line())).iterations <= 7


def test_brackets_end_as_wide_as_asked_for() -> None:
    # one decimal place of the bracket each round
    problem = RootProblem.start(cube, Y, NONE + 0.5, Interval(0, 1))
    assert MultiBinBisection(10, 1e-6).solve(problem).iterations in (6, 7)
    assert MultiBinBisection(100, 1e-6).solve(problem).iterations in (3, 4)
    # one bit each, of 52
    assert 50 <= Bisection().solve(problem).iterations <= 53
    assert Bisection(tolerance=2.0**12).solve(problem).iterations <= 41
    # no finer than the numbers are
    fine = MultiBinBisection(2, 0.0).solve(problem)
    assert bool(fine.converged.all())
    assert fine.iterations <= 53


def many(dtype: torch.dtype, n: int = 20_000) -> tuple[Tensor, Tensor]:
    """Targets all around the circle, of maps that are steep or flat at the cut."""
    generator = torch.Generator().manual_seed(3)
    params = torch.rand((n, 2), generator=generator, dtype=dtype) * torch.tensor([1, 3], dtype=dtype)
    return torch.rand(n, generator=generator, dtype=dtype), params


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("lifted", [True, False])
def test_a_fixed_number_of_steps_finds_the_roots_of_the_loop_that_asks(lifted: bool, dtype: torch.dtype) -> None:
    y, params = many(dtype)
    problem = RootProblem.start(steep if lifted else steep_wrapped, y, params, Circle(), lifted)
    solver = SafeguardedNewton()
    asked, fixed = solver.solve(problem), solver.solve_without_waiting(problem)
    assert bool(asked.converged.all())
    assert bool(fixed.converged.all())
    assert fixed.iterations == QUEUED_STEPS[dtype]
    # the same steps in every element; only the arithmetic of smaller batches may round otherwise
    torch.testing.assert_close(fixed.x, asked.x, rtol=0, atol=2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(fixed.log_dydx, asked.log_dydx, rtol=0, atol=1e3 * torch.finfo(dtype).eps)


def test_a_fixed_number_of_steps_depends_on_no_value() -> None:
    def solved(y: Tensor, params: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem = RootProblem.start(steep, y, params, Circle(), lifted=True)
        result = SafeguardedNewton().solve_without_waiting(problem)
        return result.x, result.log_dydx, result.converged

    y, params = many(F64, 50)
    graph = make_fx(solved)(y, params)
    # traced at some values, right at others
    other_y, other_params = y.flip(0), 1 - 0.9 * params
    for found, expected in zip(graph(other_y, other_params), solved(other_y, other_params), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)


def test_elements_that_need_more_steps_are_marked() -> None:
    y, params = many(F64)
    problem = RootProblem.start(steep, y, params, Circle(), lifted=True)
    few = SafeguardedNewton(queued_steps=4).solve_without_waiting(problem)
    assert 0 < int(few.converged.sum()) < len(y)
    exact = SafeguardedNewton().solve(problem)
    # no element that counts as converged is anything but the root
    torch.testing.assert_close(few.x[few.converged], exact.x[few.converged], rtol=0, atol=1e-13)


def test_on_a_device_with_a_queue_stragglers_are_solved_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "_has_queue", lambda _: True)
    y, params = many(F64)
    problem = RootProblem.start(steep, y, params, Circle(), lifted=True)
    result = SafeguardedNewton(queued_steps=4).solve(problem)
    assert bool(result.converged.all())
    assert result.iterations > 4
    torch.testing.assert_close(result.x, SafeguardedNewton()._solve_asking(problem).x, rtol=0, atol=1e-13)
    # and what has no root is still not one
    none = RootProblem.start(identity, torch.tensor([0.5, 1.5], dtype=F64), NONE[:2], Interval())
    assert SafeguardedNewton().solve(none).converged.tolist() == [True, False]


def test_a_solver_without_a_way_of_its_own_solves_as_it_does() -> None:
    problem = RootProblem.start(cube, Y, NONE + 1, Line())
    assert torch.equal(Bisection().solve_without_waiting(problem).x, Bisection().solve(problem).x)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_gpu_finds_the_roots_of_the_cpu(dtype: torch.dtype) -> None:
    y, params = many(dtype)
    here = SafeguardedNewton().solve(RootProblem.start(steep, y, params, Circle(), lifted=True))
    there = SafeguardedNewton().solve(RootProblem.start(steep, y.cuda(), params.cuda(), Circle(), lifted=True))
    assert bool(there.converged.all())
    # a sine of its own
    torch.testing.assert_close(there.x.cpu(), here.x, rtol=0, atol=100 * torch.finfo(dtype).eps)
