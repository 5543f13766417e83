"""Root finders for increasing functions, many elements at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .manifolds import Circle, Interval, Manifold

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""An increasing map: from x and parameters to y and log dy/dx."""

COMPACTION_SIZE = 4096
"""Elements from which on it pays to drop the finished ones from a batch."""

QUEUED_STEPS = {torch.float32: 14, torch.float64: 16}
"""Evaluations of F where nobody asks in between which elements are finished. Of 6 million problems each with ordinary
and trained parameters they left none, and with extreme ones 2 and 3 in a million (`tools/soak/newton_steps.py`)."""

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
    """

    x: Float[Tensor, "n"]
    log_dydx: Float[Tensor, "n"]
    residual: Float[Tensor, "n"]
    converged: Bool[Tensor, "n"]
    iterations: int

    @property
    def reason(self) -> str:
        """Why the solver stopped."""
        n_failed = int((~self.converged).sum())
        if n_failed:
            return f"{n_failed} of {len(self.x)} elements did not converge in {self.iterations} iterations"
        return f"all {len(self.x)} elements converged in {self.iterations} iterations"

    def mended(self, indices: Tensor, other: RootResult) -> RootResult:
        """These results, but for some elements those of another solution."""
        own = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        changed: dict[str, Any] = {
            name: value.index_copy(0, indices, getattr(other, name)) for name, value in own.items()
        }
        return replace(self, **changed, iterations=max(self.iterations, other.iterations))


class Solver(ABC):
    """Finds the root of an increasing function in a bracket, for many elements at once."""

    @abstractmethod
    def solve(self, problem: RootProblem) -> RootResult:
        """The roots; elements that did not converge are marked, not hidden."""

    def solve_without_waiting(self, problem: RootProblem) -> RootResult:
        """The same without steps that depend on values: nothing is asked of the device, so that its queue goes on, and
        the work can be traced and captured. Elements that would have needed more steps are marked, too.

        By default `solve`: then the roots are right, but the work can be neither traced nor captured.
        """
        return self.solve(problem)


@dataclass
class _Search:
    """Where Newton's method, kept inside a shrinking bracket, has come to in each element."""

    problem: RootProblem
    goal: Float[Tensor, "n"]
    x: Float[Tensor, "n"]
    lower: Float[Tensor, "n"]
    upper: Float[Tensor, "n"]
    previous: Float[Tensor, "n"]
    best_x: Float[Tensor, "n"]
    best_log: Float[Tensor, "n"]
    best: Float[Tensor, "n"]
    finished: Bool[Tensor, "n"]
    proposal: Float[Tensor, "n"] = field(init=False)
    step: Float[Tensor, "n"] = field(init=False)
    short: Bool[Tensor, "n"] = field(init=False)
    residual: Float[Tensor, "n"] = field(init=False)

    @classmethod
    def start(cls, problem: RootProblem, tolerance: float) -> _Search:
        """At the guess; finished where the residual is down to ``tolerance`` in units of rounding."""
        x, lower, upper = problem.guess, problem.lower, problem.upper
        goal = tolerance * torch.finfo(problem.y.dtype).eps * problem.y.abs().clamp(min=1)
        best = torch.full_like(x, torch.inf)
        finished = torch.zeros_like(x, dtype=torch.bool)
        return cls(problem, goal, x, lower, upper, upper - lower, x, torch.zeros_like(x), best, finished)

    def look(self) -> None:
        """Evaluate F, narrow the brackets, keep the best points, and see which elements are finished."""
        x = self.x
        residual, log_dydx = self.problem.residual(x)
        size = self.problem.size(residual)
        better = size < self.best
        self.best_x = torch.where(better, x, self.best_x)
        self.best_log = torch.where(better, log_dydx, self.best_log)
        self.best = torch.where(better, size, self.best)
        self.lower = torch.where(residual < 0, x, self.lower)
        self.upper = torch.where(residual > 0, x, self.upper)
        self.step = residual * torch.exp(-log_dydx)
        self.proposal = x - self.step
        # a second step as short as rounding does not help
        spacing = 2 * self.problem.spacing(x)
        self.short = self.step.abs() <= spacing
        self.finished = self.finished | (size <= self.goal) | (self.proposal == x)
        self.finished = self.finished | (self.short & (self.previous <= 2 * spacing))
        self.finished = self.finished | (self.upper - self.lower <= spacing)
        self.residual = residual

    def move(self) -> None:
        """Go on by Newton's step where it is trusted, and to the middle of the bracket where it is not."""
        x, lower, upper = self.x, self.lower, self.upper
        inside = (self.proposal > lower) & (self.proposal < upper)
        trusted = self.short | (inside & (2 * self.step.abs() <= self.previous))
        # without a far end, go there in doubling steps
        stride = torch.sign(-self.residual) * (1 + 2 * (x - self.problem.guess).abs())
        middle = torch.where(torch.isfinite(upper - lower), 0.5 * (lower + upper), x + stride)
        following = torch.where(self.finished, x, torch.where(trusted, self.proposal, middle))
        self.previous = (following - x).abs()
        self.x = following

    def select(self, kept: Tensor) -> _Search:
        """The search in some of the elements, before the next look."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.init and f.name != "problem"}
        return _Search(self.problem.select(kept), **{name: value[kept] for name, value in own.items()})


@dataclass(frozen=True)
class SafeguardedNewton(Solver):
    r"""Newton's method, :math:`x \leftarrow x - (F(x) - y) / F'(x)`, kept inside a shrinking bracket.

    A step that would leave the bracket, or that does not halve the step before, is replaced by a bisection. An element
    is finished when its residual or its step is down to rounding, and it has converged when rounding explains its
    residual: a jump in F is never taken for a root.

    On the CPU the loop ends when all elements are finished, and drops them on the way. Any other device would have to
    empty its queue to say which are: there the same steps are made a fixed number of times, and what has not converged
    then, some elements in many millions, is solved apart.

    Args:
        tolerance: Residual at which an element is finished, in units of the dtype's epsilon times max(1, \|y\|).
        max_iterations: Evaluations of F after which the solver gives up.
        queued_steps: Evaluations of F without a question; None for `QUEUED_STEPS`.

    Reference: Press et al., Numerical Recipes, 3rd edition, 2007, section 9.4 (rtsafe).
    """

    tolerance: float = 4.0
    max_iterations: int = 200
    queued_steps: int | None = None

    def solve(self, problem: RootProblem) -> RootResult:
        if not _has_queue(problem.y):
            return self._solve_asking(problem)
        result = self.solve_without_waiting(problem)
        left = torch.nonzero(~result.converged).squeeze(-1)
        return result.mended(left, self._solve_asking(problem.select(left))) if len(left) else result

    def solve_without_waiting(self, problem: RootProblem) -> RootResult:
        search = _Search.start(problem, self.tolerance)
        n_steps = QUEUED_STEPS[problem.y.dtype] if self.queued_steps is None else self.queued_steps
        for _ in range(n_steps - 1):
            search.look()
            search.move()
        search.look()
        return self._result(problem, search.best_x, search.best_log, search.best, n_steps)

    def _solve_asking(self, problem: RootProblem) -> RootResult:
        search = _Search.start(problem, self.tolerance)
        elements: Tensor | None = None
        found_x, found_log, found = search.best_x, search.best_log, search.best
        iterations = 0
        while iterations < self.max_iterations:
            iterations += 1
            search.look()
            n_finished = int(search.finished.sum())
            if elements is None:
                found_x, found_log, found = search.best_x, search.best_log, search.best
            else:
                found_x[elements], found_log[elements], found[elements] = search.best_x, search.best_log, search.best
            if n_finished == len(search.x):
                break
            search.move()
            if len(search.x) >= COMPACTION_SIZE and 2 * n_finished > len(search.x):
                kept = torch.nonzero(~search.finished).squeeze(-1)
                found_x, found_log, found = found_x.clone(), found_log.clone(), found.clone()
                elements = kept if elements is None else elements[kept]
                search = search.select(kept)
        return self._result(problem, found_x, found_log, found, iterations)

    def _result(self, problem: RootProblem, x: Tensor, log_dydx: Tensor, residual: Tensor, n: int) -> RootResult:
        # what is left above the goal must be explained by rounding, with a margin for sums inside F
        converged = residual <= 8 * self.tolerance * problem.rounding(x, log_dydx)
        return RootResult(x, log_dydx, residual, converged, n)


def _has_queue(y: Tensor) -> bool:
    """Whether a question about values waits for work that was queued before."""
    return y.device.type != "cpu"


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
    return RootResult(x, log_dydx, size, converged & explained, iterations)


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
