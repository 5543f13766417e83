"""Root finders for increasing functions, many elements at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .manifolds import Circle, Interval, Manifold

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""An increasing map: from x and parameters to y and log dy/dx."""

COMPACTION_SIZE = 4096
"""Elements from which on it pays to drop the finished ones from a batch."""

ROUNDING = 32.0
"""Rounding errors inside F, in units of epsilon: a sum of some ten terms, and the functions in them."""


@dataclass(frozen=True)
class RootProblem:
    """F(x) = y for each element of a flat batch, with a bracket around every root.

    On a circle the bracket is a turn, over which F has to increase without a jump. Best is an F that does not wrap, the
    lift L with L(x + 1) = L(x) + 1: then nothing has to be guessed. An F that wraps is lifted here, by comparison with
    its image of the point 0, where the circle is cut open.

    Attributes:
        forward: F and its log-derivative.
        y: Targets.
        params: Parameters of F.
        manifold: What F maps onto itself.
        lower: Where F < y, or -inf.
        upper: Where F > y, or inf.
        guess: A first x inside the bracket; on a circle, also how far y is from F(0), in the direction of increasing x.
        turns: On a circle, what F gives too much, in whole turns, if it does not wrap; otherwise 0.
        cut: On a circle, F(0) if F wraps; otherwise ``None``.
        cut_rounding: How far rounding may carry an F that wraps past F(0); ``None`` with ``cut``.
    """

    forward: Forward
    y: Float[Tensor, "n"]
    params: Float[Tensor, "n n_params"]
    manifold: Manifold
    lower: Float[Tensor, "n"]
    upper: Float[Tensor, "n"]
    guess: Float[Tensor, "n"]
    turns: Float[Tensor, "n"]
    cut: Float[Tensor, "n"] | None = None
    cut_rounding: Float[Tensor, "n"] | None = None

    @classmethod
    def start(
        cls,
        forward: Forward,
        y: Float[Tensor, "n"],
        params: Float[Tensor, "n n_params"],
        manifold: Manifold,
        lifted: bool = False,
    ) -> RootProblem:
        """The problem with its first bracket, and a guess that is right for the identity and for rotations.

        Args:
            forward: F and its log-derivative.
            y: Targets.
            params: Parameters of F.
            manifold: What F maps onto itself.
            lifted: Whether F is the lift of a map of the circle, which does not wrap; meaningless elsewhere.
        """
        zeros = torch.zeros_like(y)
        if isinstance(manifold, Interval):
            lower, upper = zeros + manifold.lower, zeros + manifold.upper
            return cls(forward, y, params, manifold, lower, upper, y.clamp(manifold.lower, manifold.upper), zeros)
        if not isinstance(manifold, Circle):
            return cls(forward, y, params, manifold, zeros - torch.inf, zeros + torch.inf, y, zeros)
        # the circle is cut open at 0; distances from there are free of rotations
        period = manifold.period
        image, log_dydx = forward(zeros, params)
        guess = manifold.wrap(y - image)
        if lifted:
            turns = period * torch.round((image + guess - y) / period)
            # wider than a turn: rounding of F(0) may have put the root next to an end on its other side
            lower, upper = zeros - period / 8, zeros + 9 * period / 8
            return cls(forward, y, params, manifold, lower, upper, guess, turns)
        rounding = ROUNDING * torch.finfo(y.dtype).eps * (1 + log_dydx.exp()) * period
        return cls(forward, y, params, manifold, zeros, zeros + period, guess, zeros, image, rounding)

    def residual(self, x: Float[Tensor, "*points n"]) -> tuple[Float[Tensor, "*points n"], Float[Tensor, "*points n"]]:
        """F(x) - y, increasing over the bracket, and log dF/dx; for one or several points per element."""
        image, log_dydx = self.forward(x, self.params.expand(*x.shape, -1))
        if not isinstance(self.manifold, Circle):
            return image - self.y, log_dydx
        if self.cut is None or self.cut_rounding is None:
            return (image - self.turns) - self.y, log_dydx
        period = self.manifold.period
        # how far F has come from F(0); where that is nothing or a whole turn, up to rounding, x tells which
        beyond = self.manifold.difference(image, self.cut)
        side = torch.where(x > period / 2, period, 0.0)
        risen = torch.where(beyond.abs() <= self.cut_rounding, beyond + side, self.manifold.wrap(beyond))
        # equal up to whole turns, but the shorter way around has no rounding of the lift in it
        short = self.manifold.difference(image, self.y)
        return short + period * torch.round((risen - self.guess - short) / period), log_dydx

    def size(self, residual: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """How far from y a residual is; where F wraps, a whole turn is nothing."""
        if self.cut is None:
            return residual.abs()
        return self.manifold.difference(residual, torch.zeros_like(residual)).abs()

    def select(self, indices: Tensor) -> RootProblem:
        """The problem of some of the elements."""
        chosen: dict[str, Any] = {name: v[indices] for name, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **chosen)

    def spacing(self, x: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """What rounding makes of ``x``: relative to its size; on a circle, where F takes distances from points all
        around, relative to a turn at least."""
        smallest = self.manifold.period if isinstance(self.manifold, Circle) else 0.0
        return torch.finfo(x.dtype).eps * x.abs().clamp(min=smallest)

    def rounding(self, x: Float[Tensor, "n"], log_dydx: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        """The residual that rounding x and F to the nearest floating-point numbers explains."""
        return torch.finfo(x.dtype).eps * self.y.abs().clamp(min=1) + log_dydx.exp() * self.spacing(x)


@dataclass(frozen=True)
class RootResult:
    """What a solver found.

    Attributes:
        x: The best point of each element.
        log_dydx: log dF/dx there.
        residual: \\|F(x) - y\\| there.
        converged: Whether the solver's tolerance was met.
        iterations: How many it took; each evaluates F at least once.
        reason: Why it stopped.
    """

    x: Float[Tensor, "n"]
    log_dydx: Float[Tensor, "n"]
    residual: Float[Tensor, "n"]
    converged: Bool[Tensor, "n"]
    iterations: int
    reason: str


class Solver(ABC):
    """Finds the root of an increasing function in a bracket, for many elements at once."""

    @abstractmethod
    def solve(self, problem: RootProblem) -> RootResult:
        """The roots; elements that did not converge are marked, not hidden."""


@dataclass(frozen=True)
class SafeguardedNewton(Solver):
    r"""Newton's method, :math:`x \leftarrow x - (F(x) - y) / F'(x)`, kept inside a shrinking bracket.

    A step that would leave the bracket, or that does not halve the step before, is replaced by a bisection. An element
    is finished when its residual or its step is down to rounding, and it has converged when rounding explains its
    residual: a jump in F is never taken for a root.

    Args:
        tolerance: Residual at which an element is finished, in units of the dtype's epsilon times max(1, \|y\|).
        max_iterations: Evaluations of F after which the solver gives up.

    Reference: Press et al., Numerical Recipes, 3rd edition, 2007, section 9.4 (rtsafe).
    """

    tolerance: float = 4.0
    max_iterations: int = 200

    def solve(self, problem: RootProblem) -> RootResult:
        eps = torch.finfo(problem.y.dtype).eps
        whole = problem
        elements: Tensor | None = None
        x, lower, upper = problem.guess, problem.lower, problem.upper
        previous = upper - lower
        goal = self.tolerance * eps * problem.y.abs().clamp(min=1)
        best_x, best = x, torch.full_like(x, torch.inf)
        best_log = torch.zeros_like(x)
        found_x, found_log, found = x, best_log, best
        finished = torch.zeros_like(x, dtype=torch.bool)
        iterations = 0
        while iterations < self.max_iterations:
            iterations += 1
            residual, log_dydx = problem.residual(x)
            size = problem.size(residual)
            better = size < best
            best_x = torch.where(better, x, best_x)
            best_log = torch.where(better, log_dydx, best_log)
            best = torch.where(better, size, best)
            lower = torch.where(residual < 0, x, lower)
            upper = torch.where(residual > 0, x, upper)
            step = residual * torch.exp(-log_dydx)
            proposal = x - step
            # a second step as short as rounding does not help
            spacing = 2 * problem.spacing(x)
            short = step.abs() <= spacing
            finished |= (size <= goal) | (proposal == x) | (short & (previous <= 2 * spacing))
            finished |= upper - lower <= spacing
            n_finished = int(finished.sum())
            if elements is None:
                found_x, found_log, found = best_x, best_log, best
            else:
                found_x[elements], found_log[elements], found[elements] = best_x, best_log, best
            if n_finished == len(x):
                break
            inside = (proposal > lower) & (proposal < upper)
            trusted = short | (inside & (2 * step.abs() <= previous))
            # without a far end, go there in doubling steps
            stride = torch.sign(-residual) * (1 + 2 * (x - problem.guess).abs())
            middle = torch.where(torch.isfinite(upper - lower), 0.5 * (lower + upper), x + stride)
            following = torch.where(finished, x, torch.where(trusted, proposal, middle))
            previous = (following - x).abs()
            x = following
            if len(x) >= COMPACTION_SIZE and 2 * n_finished > len(x):
                kept = torch.nonzero(~finished).squeeze(-1)
                found_x, found_log, found = found_x.clone(), found_log.clone(), found.clone()
                elements = kept if elements is None else elements[kept]
                problem = problem.select(kept)
                goal, finished = goal[kept], finished[kept]
                x, lower, upper, previous = x[kept], lower[kept], upper[kept], previous[kept]
                best_x, best_log, best = best_x[kept], best_log[kept], best[kept]
        # what is left above the goal must be explained by rounding, with a margin for sums inside F
        converged = found <= 8 * self.tolerance * whole.rounding(found_x, found_log)
        return _result(found_x, found_log, found, converged, iterations)


@dataclass(frozen=True)
class Bisection(Solver):
    """Halves the bracket until it is a few floating-point numbers wide: slow, and hard to break.

    Args:
        tolerance: Width of the final bracket, in units of the dtype's epsilon times max(1, \\|x\\|).
        max_iterations: Halvings (and doublings, on the line) after which the solver gives up.
    """

    tolerance: float = 2.0
    max_iterations: int = 2200

    def solve(self, problem: RootProblem) -> RootResult:
        return _narrow(problem, 2, self.tolerance * torch.finfo(problem.y.dtype).eps, self.max_iterations)


@dataclass(frozen=True)
class MultiBinBisection(Solver):
    """Cuts the bracket into equal bins, keeps the one with the change of sign, and again.

    Args:
        n_bins: Number of bins; all their edges are evaluated at once.
        tolerance: Width of the final bracket, relative to max(1, \\|x\\|); not below a few epsilons of the dtype.
        max_iterations: Rounds after which the solver gives up.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, section 4, arXiv 2110.00351.
    """

    n_bins: int = 100
    tolerance: float = 1e-6
    max_iterations: int = 2200

    def solve(self, problem: RootProblem) -> RootResult:
        tolerance = max(self.tolerance, 2 * torch.finfo(problem.y.dtype).eps)
        return _narrow(problem, self.n_bins, tolerance, self.max_iterations)


def _narrow(problem: RootProblem, n_bins: int, tolerance: float, max_iterations: int) -> RootResult:
    """Cut every bracket into bins until its width is down to ``tolerance`` times max(1, |x|)."""
    lower, upper = problem.lower, problem.upper
    fractions = torch.linspace(0, 1, n_bins + 1, dtype=lower.dtype, device=lower.device)[1:-1, None]
    iterations = 0
    converged = torch.zeros_like(lower, dtype=torch.bool)
    while iterations < max_iterations:
        iterations += 1
        bounded = torch.isfinite(upper - lower)
        if not bool(bounded.all()):
            lower, upper = _expand(problem, lower, upper)
            continue
        edges = lower + (upper - lower) * fractions
        residual, _ = problem.residual(edges)
        # a zero belongs to the bin on its left, and one at the very left leaves the bracket's end there
        lower = torch.where(residual < 0, edges, lower).amax(0)
        upper = torch.where(residual >= 0, edges, upper).amin(0)
        converged = upper - lower <= tolerance * torch.maximum(lower.abs(), upper.abs()).clamp(min=1)
        if bool(converged.all()):
            break
    x = 0.5 * (lower + upper)
    residual, log_dydx = problem.residual(x)
    size = problem.size(residual)
    # a bracket around a jump of F is narrow, too, but holds no root
    slope = log_dydx.exp() * tolerance * x.abs().clamp(min=1)
    explained = size <= 8 * (slope + tolerance * problem.y.abs().clamp(min=1))
    return _result(x, log_dydx, size, converged & explained, iterations)


def _expand(
    problem: RootProblem, lower: Float[Tensor, "n"], upper: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    """One doubling of brackets that have an infinite end."""
    # how far the finite end has come from the guess tells how far to go next
    finite = torch.where(torch.isfinite(lower), lower, torch.where(torch.isfinite(upper), upper, problem.guess))
    residual, _ = problem.residual(finite)
    x = finite - torch.sign(residual) * (1 + (finite - problem.guess).abs())
    beyond, _ = problem.residual(x)
    open_ = ~torch.isfinite(upper - lower)
    lowest, highest = torch.minimum(x, finite), torch.maximum(x, finite)
    enclosed = residual * beyond <= 0
    new_lower = torch.where(enclosed, lowest, torch.where(residual < 0, highest, -torch.inf))
    new_upper = torch.where(enclosed, highest, torch.where(residual > 0, lowest, torch.inf))
    return torch.where(open_, new_lower, lower), torch.where(open_, new_upper, upper)


def _result(x: Tensor, log_dydx: Tensor, residual: Tensor, converged: Tensor, iterations: int) -> RootResult:
    n_failed = int((~converged).sum())
    reason = (
        f"{n_failed} of {len(x)} elements did not converge in {iterations} iterations"
        if n_failed
        else f"all {len(x)} elements converged in {iterations} iterations"
    )
    return RootResult(x, log_dydx, residual, converged, iterations, reason)
