import math
from collections.abc import Callable

import pytest
import torch
from smoothflow.core.errors import InversionError
from smoothflow.core.inversion import completed, find_root, invert, without_waiting
from smoothflow.core.manifolds import Circle, Interval, Line, Manifold
from smoothflow.core.plugins import registry
from smoothflow.core.solvers import Bisection, MultiBinBisection, SafeguardedNewton, Solver
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

SOLVERS: list[Solver] = [SafeguardedNewton(), Bisection(), MultiBinBisection(100, 1e-6)]


def exponential(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """(exp(k x) - 1) / (exp(k) - 1) on the interval."""
    k = params[..., 0]
    return torch.expm1(k * x) / torch.expm1(k), k * x + torch.log(k / torch.expm1(k))


def exponential_inverse(y: Tensor, k: Tensor) -> Tensor:
    return torch.log1p(y * torch.expm1(k)) / k


def hyperbolic(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """sinh(k x) + shift on the line."""
    k, shift = params.unbind(-1)
    return torch.sinh(k * x) + shift, torch.log(k * torch.cosh(k * x))


def harmonic(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    """x + r + a / 2 pi sin 2 pi x on the circle, and some turns too many."""
    a, r = params.unbind(-1)
    angle = 2 * math.pi * x
    return x + r + a / (2 * math.pi) * torch.sin(angle) + 3, torch.log1p(a * torch.cos(angle))


def case(manifold: Manifold, n: int, dtype: torch.dtype) -> tuple[Callable[..., tuple[Tensor, Tensor]], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    uniform = torch.rand((n, 3), generator=generator, dtype=dtype)
    if isinstance(manifold, Interval):
        return exponential, uniform[:, 0], 0.1 + 5 * uniform[:, 1:2]
    if isinstance(manifold, Circle):
        return harmonic, uniform[:, 0], torch.stack([1.9 * uniform[:, 1] - 0.95, 4 * uniform[:, 2] - 2], dim=-1)
    return hyperbolic, 60 * uniform[:, 0] - 30, torch.stack([0.2 + uniform[:, 1], uniform[:, 2]], dim=-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("manifold", [Interval(), Circle(), Line()])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_every_solver_finds_the_root_on_every_manifold(solver: Solver, manifold: Manifold, dtype: torch.dtype) -> None:
    forward, y, params = case(manifold, 500, dtype)
    result = find_root(forward, y, params, manifold, solver)
    assert bool(result.converged.all())
    image, log_dydx = forward(result.x, params)
    # in units of rounding of F and of x; the multi-bin search stops at a width of 1e-6
    unit = max(torch.finfo(dtype).eps, 1e-6 if isinstance(solver, MultiBinBisection) else 0.0)
    limit = 8 * unit * (1 + y.abs() + log_dydx.exp() * result.x.abs().clamp(min=1))
    assert bool((manifold.difference(image, y).abs() <= limit).all())
    torch.testing.assert_close(result.log_dydx, log_dydx, rtol=0, atol=0)
    assert 1 <= result.iterations <= 2000
    assert "500 elements converged" in result.reason


def test_newton_takes_few_iterations() -> None:
    forward, y, params = case(Interval(), 500, torch.float64)
    assert find_root(forward, y, params, Interval()).iterations <= 10
    assert find_root(forward, y, params, Interval(), Bisection()).iterations >= 45


@pytest.mark.parametrize("name", ["smooth", "bspline"])
@pytest.mark.parametrize("manifold", [Circle(), Interval()])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_random_transforms_are_inverted_to_rounding(
    name: str, manifold: Manifold, dtype: torch.dtype, limit: float
) -> None:
    transform = registry().transform(name)(manifold)
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(20_000, generator=generator, dtype=dtype)
    params = torch.randn((20_000, transform.n_params), generator=generator, dtype=dtype)
    x, log_dxdy = transform.inverse(y, params)
    image, log_dydx = transform.forward(x, params)
    assert float(manifold.difference(image, y).abs().max()) <= limit
    # log f' changes by its slope, at most 1e4, over the rounding of x
    assert float((log_dxdy + log_dydx).abs().max()) <= 1e4 * torch.finfo(dtype).eps


@pytest.mark.slow
@pytest.mark.parametrize("manifold", [Circle(), Interval()])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_a_million_smooth_transforms_are_inverted_to_rounding(
    manifold: Manifold, dtype: torch.dtype, limit: float
) -> None:
    transform = registry().transform("smooth")(manifold)
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(1_000_000, generator=generator, dtype=dtype)
    params = torch.randn((1_000_000, transform.n_params), generator=generator, dtype=dtype)
    assert float(find_root(transform.forward, y, params, manifold).residual.max()) <= limit


def test_the_result_does_not_depend_on_the_batch() -> None:
    # 10,000 elements are compacted on the way, 10 are not
    transform = registry().transform("smooth")(Interval())
    generator = torch.Generator().manual_seed(1)
    y = torch.rand(10_000, generator=generator, dtype=torch.float64)
    params = 3 * torch.randn((10_000, transform.n_params), generator=generator, dtype=torch.float64)
    whole, _ = transform.inverse(y, params)
    part, _ = transform.inverse(y[-10:], params[-10:])
    # vectorized functions round differently at the end of a batch
    torch.testing.assert_close(part, whole[-10:], rtol=0, atol=1e-14)


def test_points_at_the_ends_and_at_the_seam() -> None:
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x, _ = invert(exponential, ends, torch.full((2, 1), 2.0, dtype=torch.float64), Interval())
    torch.testing.assert_close(x, ends, rtol=0, atol=1e-15)
    near = torch.tensor([0.0, 1e-17, 1 - 1e-16, 1.0, 1e-9, -1e-9, 5.25], dtype=torch.float64)
    params = torch.tensor([[0.5, 0.0]], dtype=torch.float64).expand(7, -1)
    x, _ = invert(harmonic, near, params, Circle())
    assert bool(((x >= 0) & (x < 1)).all())
    torch.testing.assert_close(
        Circle().difference(harmonic(x, params)[0], near), torch.zeros_like(near), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("shift", [2.0**-52, -(2.0**-52)])
def test_no_preimage_is_outside_and_its_derivatives_are_those_at_the_end(shift: float) -> None:
    """Where F is rounded at an end, the root is, too."""

    def rounded(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x - x**2 / 2 - x / 2 + shift + 0 * params[..., 0], torch.log(1.5 - x)

    y = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    x, log_dxdy = invert(rounded, y, torch.zeros((2, 1), dtype=torch.float64), Interval())
    assert bool(((x >= 0) & (x <= 1)).all())
    (dxdy,) = torch.autograd.grad(x.sum(), y)
    expected = torch.tensor([1 / 1.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(dxdy, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(log_dxdy.exp(), expected, rtol=1e-14, atol=0)


def test_the_bracket_on_the_line_grows_as_far_as_needed() -> None:
    def gentle(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return x + params[..., 0] * torch.tanh(x), torch.log1p(params[..., 0] / torch.cosh(x.clamp(-300, 300)) ** 2)

    y = torch.tensor([1e9, -1e9, 0.0, 3.0], dtype=torch.float64)
    params = torch.tensor([[1e6], [1e6], [5.0], [50.0]], dtype=torch.float64)
    for solver in SOLVERS:
        x, _ = invert(gentle, y, params, Line(), solver)
        torch.testing.assert_close(gentle(x, params)[0], y, rtol=1e-5, atol=1e-4)


def test_an_empty_batch_and_a_single_number() -> None:
    params = torch.full((0, 1), 2.0, dtype=torch.float64)
    x, log_dxdy = invert(exponential, torch.zeros(0, dtype=torch.float64), params, Interval())
    assert x.shape == log_dxdy.shape == (0,)
    x, _ = invert(exponential, torch.tensor(0.5, dtype=torch.float64), torch.tensor([2.0]).double(), Interval())
    assert x.shape == ()


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_a_jump_past_the_target_is_not_a_root(solver: Solver) -> None:
    def jumping(x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * x + 0.5 * (x > 0.3).to(x.dtype), torch.full_like(x, math.log(0.5))

    y = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    with pytest.raises(InversionError, match=r"1 of 3 elements did not converge.*y = 0\.4") as caught:
        find_root(jumping, y, torch.full((3, 2), 7.5, dtype=torch.float64), Interval(), solver)
    assert "parameters [7.5, 7.5]" in str(caught.value)


def test_the_error_says_what_is_wrong_with_the_input() -> None:
    params = torch.full((2, 1), 2.0, dtype=torch.float64)
    with pytest.raises(InversionError, match="not a point of Interval"):
        invert(exponential, torch.tensor([0.5, 1.5], dtype=torch.float64), params, Interval())
    with pytest.raises(InversionError, match="not a point of Interval"):
        invert(exponential, torch.tensor([0.5, math.nan], dtype=torch.float64), params, Interval())
    with pytest.raises(InversionError, match="parameters are not finite"):
        invert(exponential, torch.tensor([0.5, 0.5], dtype=torch.float64), params * math.inf, Interval())


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_derivatives_are_exact_to_third_order(solver: Solver) -> None:
    """Against automatic differentiation of the closed inverse: pure, mixed, and of the log-derivative."""
    y = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    k = torch.tensor([0.5, 2.0, -3.0], dtype=torch.float64, requires_grad=True)

    def derivatives(x: Tensor) -> list[Tensor]:
        found = [x]
        for order in range(3):
            level = found[2**order - 1 : 2 ** (order + 1) - 1]
            for value in level:
                found += torch.autograd.grad(value.sum(), (y, k), create_graph=True)
        return found

    x, log_dxdy = invert(exponential, y, k.unsqueeze(-1), Interval(), solver)
    expected = derivatives(exponential_inverse(y, k))
    for order, (value, reference) in enumerate(zip(derivatives(x), expected, strict=True)):
        # a root found to 1e-6 is 1e-12 off after one Newton step
        atol = 1e-10 if not isinstance(solver, MultiBinBisection) else 1e-8
        torch.testing.assert_close(value, reference, rtol=1e-9, atol=atol, msg=f"derivative {order}")
    torch.testing.assert_close(log_dxdy, expected[1].log(), rtol=0, atol=1e-10)
    # the log-derivative's own derivatives, to second order
    (slope,) = torch.autograd.grad(log_dxdy.sum(), k, create_graph=True)
    (reference,) = torch.autograd.grad(expected[1].log().sum(), k, create_graph=True)
    torch.testing.assert_close(slope, reference, rtol=1e-8, atol=1e-8)
    (slope,) = torch.autograd.grad(slope.sum(), y)
    (reference,) = torch.autograd.grad(reference.sum(), y)
    torch.testing.assert_close(slope, reference, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["smooth", "spline", "affine"])
def test_derivatives_reach_the_conditioners_input_through_stacked_inverses(name: str) -> None:
    transform = registry().transform(name)
    manifold = Line() if name == "affine" else Circle()
    made = transform(manifold)
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn((2, made.n_params), generator=generator, dtype=torch.float64)
    context = torch.randn((3, 2), generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.rand(3, generator=generator, dtype=torch.float64).requires_grad_(True)

    def stacked(y: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        first, log_first = made.inverse(y, torch.tanh(context @ weight))
        inner = torch.stack([first.cos(), first.sin()], dim=-1)
        second, log_second = made.inverse(y, torch.tanh(inner @ weight))
        return torch.sin(2 * math.pi * second), log_first + log_second

    # 1e-3: finite differences of a function whose third derivatives reach 1e5
    assert torch.autograd.gradcheck(stacked, (y, context), atol=1e-3)
    assert torch.autograd.gradgradcheck(stacked, (y, context), atol=1e-3)


@pytest.mark.parametrize("manifold", [Interval(), Circle()])
def test_function_transforms_agree_with_eager_derivatives(manifold: Manifold) -> None:
    transform = registry().transform("smooth")(manifold)
    generator = torch.Generator().manual_seed(5)
    y = torch.rand(3, generator=generator, dtype=torch.float64)
    params = torch.randn((3, transform.n_params), generator=generator, dtype=torch.float64)

    def total(y: Tensor) -> Tensor:
        x, log_dxdy = transform.inverse(y, params)
        return (x.sin() + log_dxdy).sum()

    leaf = y.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(total(leaf), leaf, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), leaf, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), leaf)
    scale = float(third.abs().max())
    f = torch.func
    close = torch.testing.assert_close
    close(f.grad(total)(y), gradient.detach(), rtol=1e-12, atol=1e-12)
    for hessian in (f.hessian(total), f.jacrev(f.grad(total)), f.jacfwd(f.jacfwd(total)), f.jacrev(f.jacrev(total))):
        close(hessian(y).diagonal(), second.detach(), rtol=1e-10, atol=1e-10)
    close(f.grad(lambda q: f.grad(lambda r: f.grad(total)(r).sum())(q).sum())(y), third, rtol=1e-9, atol=1e-9 * scale)
    close(f.jvp(total, (y,), (torch.ones_like(y),))[1], gradient.detach().sum(), rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        close(f.jvp(total, (y,), (torch.ones_like(y),))[1], gradient.detach().sum(), rtol=1e-12, atol=1e-12)

    def one(y: Tensor, row: Tensor) -> Tensor:
        x, log_dxdy = transform.inverse(y, row)
        return x.sin() + log_dxdy

    close(f.vmap(f.grad(one))(y, params), gradient.detach(), rtol=1e-12, atol=1e-12)
    close(f.grad(lambda q: f.vmap(one)(q, params).sum())(y), gradient.detach(), rtol=1e-12, atol=1e-12)
    table = f.vmap(f.vmap(one, (0, None)), (None, 0))(y, params)
    close(table.diagonal().sum(), total(y), rtol=1e-12, atol=1e-12)


def test_batches_run_along_any_axis() -> None:
    generator = torch.Generator().manual_seed(7)
    y = 10 * torch.rand((4, 3), generator=generator, dtype=torch.float64)
    params = 1 + torch.rand((4, 2, 3), generator=generator, dtype=torch.float64)

    def inverse(y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        return invert(hyperbolic, y, params, Line())

    for y_dim, params_dim in ((1, 2), (None, 2), (1, None)):
        some_y, some_params = y if y_dim else y[:, 0], params if params_dim else params[:, :, 0]
        found = torch.vmap(inverse, in_dims=(y_dim, params_dim))(some_y, some_params)
        for i in range(3):
            expected = inverse(y[:, i if y_dim else 0], params[:, :, i if params_dim else 0])
            for ours, theirs in zip(found, expected, strict=True):
                torch.testing.assert_close(ours[i], theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("manifold", [Interval(), Circle()])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # the compiler's, between two graphs
def test_compiled_code_gives_the_same_numbers(manifold: Manifold) -> None:
    transform = registry().transform("smooth")(manifold)
    generator = torch.Generator().manual_seed(6)
    y = torch.rand(3, generator=generator, dtype=torch.float64)
    params = torch.randn((3, transform.n_params), generator=generator, dtype=torch.float64)

    def total(y: Tensor) -> Tensor:
        x, log_dxdy = transform.inverse(y, params)
        return (2 * x.sin() + log_dxdy).sum()

    results = []
    for function in (total, torch.compile(total, backend="aot_eager")):
        leaf = y.clone().requires_grad_(True)
        value = function(leaf)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-13, atol=1e-13)


def test_values_are_the_same_with_and_without_a_graph() -> None:
    transform = registry().transform("smooth")(Interval())
    generator = torch.Generator().manual_seed(7)
    y = torch.rand(200, generator=generator, dtype=torch.float64)
    params = torch.randn((200, transform.n_params), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        plain = transform.inverse(y, params)
    graph = transform.inverse(y.requires_grad_(True), params)
    assert graph[0].requires_grad
    # two more Newton steps, at the level of rounding
    torch.testing.assert_close(plain[0], graph[0].detach(), rtol=0, atol=1e-13)
    torch.testing.assert_close(plain[1], graph[1].detach(), rtol=0, atol=1e-10)


NUMERICAL_OR_NOT = [
    (name, manifold)
    for name in registry().names("transform")
    for manifold in (Circle(), Interval(), Line())
    if type(manifold) in registry().transform(name).manifolds
]


@pytest.mark.parametrize(("name", "manifold"), NUMERICAL_OR_NOT, ids=lambda part: getattr(part, "name", part))
@pytest.mark.parametrize("with_derivatives", [False, True])
def test_without_waiting_no_inverse_depends_on_values(name: str, manifold: Manifold, with_derivatives: bool) -> None:
    transform = registry().transform(name)(manifold)
    # fewer steps are traced sooner
    transform.solver = SafeguardedNewton(queued_steps=6)
    generator = torch.Generator().manual_seed(8)
    y = torch.rand(8, generator=generator, dtype=torch.float64)
    params = 0.5 * torch.randn((8, transform.n_params), generator=generator, dtype=torch.float64)

    def inverse(y: Tensor, params: Tensor) -> tuple[Tensor, ...]:
        if not with_derivatives:
            return transform.inverse(y, params)
        with torch.enable_grad():
            y, params = y.detach().requires_grad_(True), params.detach().requires_grad_(True)
            x, log_dxdy = transform.inverse(y, params)
            return (x.detach(), *torch.autograd.grad((x + log_dxdy).sum(), [y, params]))

    with without_waiting():
        graph = make_fx(inverse)(y, params)
    # what is made of Python's numbers on the way cannot be recorded
    assert not [node for node in graph.graph.nodes if "lift_fresh" in str(node.target)]
    # traced at some values, right at others, where the few steps are enough
    y, params = y.flip(0), 0.5 * params
    found, expected = graph(y, params), inverse(y, params)
    enough = found[0].isfinite()
    assert bool(enough.any())
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[enough], theirs[enough], rtol=1e-9, atol=1e-11)


def test_a_root_that_is_not_found_without_waiting_is_not_a_number() -> None:
    y = torch.tensor([0.5, 1.5, math.nan], dtype=torch.float64)
    with without_waiting():
        x, log_dxdy = invert(exponential, y, torch.ones((3, 1), dtype=torch.float64), Interval())
    assert x.isnan().tolist() == log_dxdy.isnan().tolist() == [False, True, True]
    assert float(x[0]) == pytest.approx(math.log1p(0.5 * math.expm1(1)), rel=1e-14)
    # and afterwards an error again
    with pytest.raises(InversionError, match="2 of 3 elements did not converge"):
        invert(exponential, y, torch.ones((3, 1), dtype=torch.float64), Interval())


def test_only_samples_that_are_not_numbers_are_generated_again() -> None:
    asked: list[int] = []

    def generate(z: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(z))
        return 2 * z, z.sum(1)

    z = torch.arange(6, dtype=torch.float64).reshape(3, 2)
    samples, log_prob = generate(z)
    log_prob[1] = math.nan
    samples[1] = 7
    for found, expected in zip(completed(generate, z, samples, log_prob), (2 * z, z.sum(1)), strict=True):
        assert torch.equal(found, expected)
    assert asked == [3, 1]
