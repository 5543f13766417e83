"""The differentiable inverse of an increasing map.

A solver finds x with F(x) = y without a graph; `invert` then attaches exact derivatives by Newton steps in the graph.
The two know nothing of each other, so any solver gives the same derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import InversionError
from .manifolds import Circle, Manifold
from .solvers import Forward, RootProblem, RootResult, SafeguardedNewton, Solver
from .torch_internals import derivatives_are_watched

P = ParamSpec("P")
T = TypeVar("T")

DEFAULT_SOLVER = SafeguardedNewton()

N_NEWTON_STEPS = 2
"""Newton steps in the graph: derivatives of the inverse are exact to the third order."""


_WAITING: ContextVar[bool] = ContextVar("waiting", default=True)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Roots are found here without steps that depend on values, and nobody is told of those that are not: they are NaN.

    So a device's queue goes on, and what is computed can be traced and captured. Whoever asks for it looks at the
    results at the end, and computes again without this what is not a number, where the error names the element; see
    `generated`.
    """
    token = _WAITING.set(False)
    try:
        yield
    finally:
        _WAITING.reset(token)


def generated(
    generate: Callable[[Tensor], tuple[Tensor, Tensor]], z: Float[Tensor, "batch dim"]
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch"]]:
    """What a map makes of latent vectors, with its log-densities, with a single question to a device that has a queue.

    Args:
        generate: From latent vectors to samples and their log-densities, each of its own vector alone.
        z: Latent vectors.

    Raises:
        InversionError: If a root is not found.
    """
    # a sample that is to be differentiated cannot be exchanged; on the CPU no question is worth saving
    if z.device.type == "cpu" or torch.is_grad_enabled() or not _WAITING.get():
        return generate(z)
    with without_waiting():
        samples, log_prob = generate(z)
    return completed(generate, z, samples, log_prob)


def completed(
    generate: Callable[[Tensor], tuple[Tensor, Tensor]],
    z: Float[Tensor, "batch dim"],
    samples: Float[Tensor, "batch *shape"],
    log_prob: Float[Tensor, "batch"],
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch"]]:
    """Samples that were generated without waiting, those again that are not numbers; raises as `generated` does."""
    left = torch.nonzero(log_prob.isnan()).squeeze(-1)
    if len(left):
        again, log_again = generate(z[left])
        samples, log_prob = samples.index_copy(0, left, again), log_prob.index_copy(0, left, log_again)
    return samples, log_prob


def find_root(
    forward: Forward,
    y: Float[Tensor, "*batch"],
    params: Float[Tensor, "*batch n_params"],
    manifold: Manifold,
    solver: Solver = DEFAULT_SOLVER,
    lifted: bool = False,
) -> RootResult:
    """The solution of F(x) = y, without a graph, in one flat batch; NaN where there is none in `without_waiting`.

    Args:
        forward: An increasing map of the manifold and its log-derivative.
        y: Points of the manifold.
        params: Parameters of the map.
        manifold: A unit manifold.
        solver: Finds the root.
        lifted: Whether F is the lift of a map of the circle, which does not wrap.

    Raises:
        InversionError: If an element did not converge; names the worst one.
    """
    with torch.no_grad():
        flat_params = params.expand(*y.shape, -1).reshape(-1, params.shape[-1])
        problem = RootProblem.start(forward, y.reshape(-1), flat_params, manifold, lifted)
        if not _WAITING.get():
            result = solver.solve_without_waiting(problem)
            x, log_dydx = (torch.where(result.converged, values, torch.nan) for values in (result.x, result.log_dydx))
            return replace(result, x=x, log_dydx=log_dydx)
        result = solver.solve(problem)
        if not bool(result.converged.all()):
            raise InversionError(_describe_failure(problem, result, solver))
    return result


def _describe_failure(problem: RootProblem, result: RootResult, solver: Solver) -> str:
    # NaN is the worst
    badness = torch.where(result.converged, -1.0, result.residual.nan_to_num(nan=torch.inf))
    worst = int(badness.argmax())
    y, residual = problem.y[worst].item(), result.residual[worst].item()
    params = ", ".join(f"{value:.6g}" for value in problem.params[worst].tolist())
    if not bool(problem.manifold.contains(problem.y[worst])):
        advice = f"This y is not a point of {problem.manifold}."
    elif not bool(torch.isfinite(problem.params[worst]).all()):
        advice = "These parameters are not finite."
    else:
        advice = "The transform may not be increasing, or may not reach y, at these parameters."
    return (
        f"{type(solver).__name__}: {result.reason}. Worst: y = {y:.17g}, |F(x) - y| = {residual:.3g} at "
        f"x = {result.x[worst].item():.17g}, parameters [{params}]. {advice}"
    )


class _Root(torch.autograd.Function):
    """`find_root` as seen by torch.func: a function without derivatives whose solver only meets plain tensors."""

    @staticmethod
    def forward(
        y: Tensor, params: Tensor, forward: Forward, manifold: Manifold, solver: Solver, lifted: bool
    ) -> Tensor:
        return find_root(forward, y, params, manifold, solver, lifted).x.reshape(y.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, ...]:
        return (None,) * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> None:
        return None

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        y: Tensor,
        params: Tensor,
        forward: Forward,
        manifold: Manifold,
        solver: Solver,
        lifted: bool,
    ) -> tuple[Tensor, int]:
        y = y.expand(info.batch_size, *y.shape) if in_dims[0] is None else y.movedim(in_dims[0], 0)
        params = params.expand(info.batch_size, *params.shape) if in_dims[1] is None else params.movedim(in_dims[1], 0)
        return _apply_root(y, params, forward, manifold, solver, lifted), 0


def _apply_root(
    y: Tensor, params: Tensor, forward: Forward, manifold: Manifold, solver: Solver, lifted: bool
) -> Tensor:
    # torch's apply has no types
    return cast(Tensor, _Root.apply(y, params, forward, manifold, solver, lifted))  # type: ignore[no-untyped-call]


def _eager(function: Callable[P, T]) -> Callable[P, T]:
    """Leave a function out of compiled graphs; how often a solver iterates depends on its data."""
    return cast("Callable[P, T]", torch.compiler.disable(function))  # type: ignore[no-untyped-call]


def _is_plain(y: Tensor, params: Tensor) -> bool:
    """Whether nobody will ask for derivatives, and no function transform is active."""
    if torch.is_grad_enabled() and (y.requires_grad or params.requires_grad):
        return False
    return not derivatives_are_watched()


@_eager
def invert(
    forward: Forward,
    y: Float[Tensor, "*batch"],
    params: Float[Tensor, "*batch n_params"],
    manifold: Manifold,
    solver: Solver = DEFAULT_SOLVER,
    n_newton_steps: int = N_NEWTON_STEPS,
    lifted: bool = False,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    r"""The x with F(x) = y and log dx/dy, with exact derivatives up to the third order.

    .. math:: x_{k+1} = x_k - \frac{F(x_k; p) - y}{F'(x_k; p)}, \qquad x_0 \text{ the root, detached}

    The root is found without a graph. Newton steps in the graph leave its value where it is and make derivatives
    right, with respect to y and to the parameters p: one step makes the first derivatives exact, two those to the third
    order; each step doubles the order, and adds one.

    Args:
        forward: An increasing map of the manifold and its log-derivative, differentiable in both arguments.
        y: Points of the manifold.
        params: Parameters of the map.
        manifold: A unit manifold.
        solver: Finds the root.
        n_newton_steps: Steps in the graph, at least 1.
        lifted: Whether F is the lift of a map of the circle: not wrapped, so that L(x + 1) = L(x) + 1. The root is then
            sought on the lift, and no turn can be lost.

    Raises:
        InversionError: If the solver does not converge; names the worst element.
    """
    if _is_plain(y, params):
        result = find_root(forward, y, params, manifold, solver, lifted)
        x = result.x.reshape(y.shape)
        return manifold.wrap(x) if isinstance(manifold, Circle) else x, -result.log_dydx.reshape(y.shape)
    x = _apply_root(y, params, forward, manifold, solver, lifted)
    return attach_derivatives(forward, x, y, params, manifold, n_newton_steps)


def attach_derivatives(
    forward: Forward,
    root: Float[Tensor, "*batch"],
    y: Float[Tensor, "*batch"],
    params: Float[Tensor, "*batch n_params"],
    manifold: Manifold,
    n_newton_steps: int = N_NEWTON_STEPS,
) -> tuple[Float[Tensor, "*batch"], Float[Tensor, "*batch"]]:
    """The x with F(x) = y and log dx/dy, given a root without derivatives, by Newton steps in the graph.

    The root may come from `find_root` or from a closed form; the steps also mend the latter's rounding. On a circle F
    may wrap or not.
    """
    x = root.detach()
    for _ in range(n_newton_steps):
        image, log_dydx = forward(x, params)
        x = x - manifold.difference(image, y) * torch.exp(-log_dydx)
    x = manifold.project(x)
    _, log_dydx = forward(x, params)
    return x, -log_dydx
