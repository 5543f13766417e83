"""Clauses, their outcomes, and the loop that checks them."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NoReturn, ParamSpec, TypeVar

from torch import Tensor

from ..core.errors import ConfigurationError, ConformanceError, MissingDependencyError

Case = TypeVar("Case")
Arguments = ParamSpec("Arguments")
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Clause(Generic[Case]):
    """One promise of a contract and the function that checks it.

    Attributes:
        name: A short name, to choose the clause by.
        promise: What is promised, in one sentence.
        check: Raises `Violation` where the promise is broken, and `LeftOut` where it cannot be checked; returns what it
            measured, or None if the promise is not for such a case.
        advice: What a break does to a user, and where to look; a sentence or two.
    """

    name: str
    promise: str
    check: Callable[[Case], Numbers | None]
    advice: str = ""


@dataclass(frozen=True)
class ClauseResult:
    """The outcome of one clause.

    Attributes:
        clause: Its name.
        where: On which manifold, if the subject serves several.
        promise: What was promised.
        numbers: What was measured.
        error: How it was broken, or None.
        left_out: Why it was not checked; empty if it was.
    """

    clause: str
    where: str
    promise: str
    numbers: Numbers
    error: ConformanceError | None = None
    left_out: str = ""

    @property
    def verdict(self) -> str:
        """ "ok", "BROKEN" or "left out"."""
        return "BROKEN" if self.error is not None else "left out" if self.left_out else "ok"

    @property
    def measured(self) -> str:
        """What was measured, or why nothing was, in a line."""
        return self.left_out or ", ".join(f"{name} {value:.3g}" for name, value in self.numbers.items())


@dataclass(frozen=True)
class Report:
    """The outcomes of all clauses, in the order in which they were checked."""

    subject: str
    results: tuple[ClauseResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no clause was broken."""
        return all(result.error is None for result in self.results)

    def raise_first(self) -> Report:
        """Raise the first error, if there is one; otherwise return this report."""
        for result in self.results:
            if result.error is not None:
                raise result.error
        return self

    def __str__(self) -> str:
        lines = [self.subject]
        for result in self.results:
            lines.append(
                f"  {result.verdict:8s} {result.where:9s} {result.clause:16s} {result.measured or result.promise}"
            )
            if result.error is not None:
                lines.append(f"         {result.error}")
        return "\n".join(lines)


def raising(examine: Callable[Arguments, Report]) -> Callable[Arguments, Report]:
    """The function ``check_...`` that does as ``examine_...``, but raises the first error of its report."""

    @functools.wraps(examine)
    def check(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Report:
        return examine(*args, **kwargs).raise_first()

    check.__name__ = check.__qualname__ = examine.__name__.replace("examine", "check")
    check.__doc__ = f"""As `{examine.__name__}`, but raise at the first broken clause.

    Raises:
        ConformanceError: If a clause is broken; it names the clause, the input and the numbers.
    """
    return check


class Violation(Exception):
    """A broken promise, before it is known whose."""

    def __init__(self, message: str, inputs: str = "", **numbers: float) -> None:
        super().__init__(message)
        self.message = message
        self.inputs = inputs
        self.numbers = {name.replace("_", " "): value for name, value in numbers.items()}


class LeftOut(Exception):
    """A clause that cannot be checked on a case; the message says why."""


def violated(message: str, inputs: str = "", **numbers: float) -> NoReturn:
    """Raise a `Violation`; underscores in the numbers' names become spaces."""
    raise Violation(message, inputs, **numbers)


def require_within(error: Tensor, limit: Tensor | float, message: str, **inputs: Tensor) -> float:
    """Raise a `Violation` at the worst element unless ``error <= limit`` everywhere; NaN breaks it, too.

    Args:
        error: One number per element.
        limit: A number, or one per element.
        message: What is wrong where it exceeds the limit.
        inputs: Named tensors whose first dimensions are those of ``error``, to be shown at the worst element.

    Returns:
        The largest error.
    """
    if not error.numel():
        return 0.0
    error = error.detach()
    excess = (error / limit).nan_to_num(nan=float("inf"))
    worst = int(excess.argmax())
    if bool(excess.flatten()[worst] > 1):
        text = "; ".join(
            f"{name} = {_compact(value.flatten(0, error.ndim - 1)[worst] if error.ndim else value)}"
            for name, value in inputs.items()
        )
        bound = limit.expand_as(error).flatten()[worst].item() if isinstance(limit, Tensor) else limit
        violated(message, text, error=error.flatten()[worst].item(), limit=bound)
    return float(error.max())


def _compact(value: Tensor) -> str:
    numbers = [f"{number:.9g}" for number in value.detach().flatten().tolist()]
    return numbers[0] if value.ndim == 0 else f"[{', '.join(numbers)}]"


def check_clauses(
    subject: str, clauses: Sequence[Clause[Case]], cases: Mapping[str, Case], chosen: Sequence[str] | None
) -> Report:
    """Check the clauses on every case.

    Args:
        subject: What is checked, for messages.
        clauses: The contract.
        cases: What to check them on, by a word that says where.
        chosen: Names of the clauses to check; all of them if None.

    Raises:
        ConfigurationError: If no clause bears a chosen name.
        MissingDependencyError: If the subject needs a package that is not installed.
    """
    known = [clause.name for clause in clauses]
    for name in chosen or ():
        if name not in known:
            raise ConfigurationError(f'The contract has no clause "{name}"; it has: {", ".join(known)}.')
    results = []
    for clause in clauses:
        if chosen is not None and clause.name not in chosen:
            continue
        for where, case in cases.items():
            numbers: Numbers | None = {}
            error, left_out = None, ""
            place = f"{subject} on the {where}" if where else subject
            try:
                with warnings.catch_warnings():
                    # torch's own, at the first forward-mode derivative and between two compiled graphs; they would be
                    # errors in suites that allow no warnings
                    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
                    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor", UserWarning)
                    numbers = clause.check(case)
            except MissingDependencyError:
                # nothing is wrong with the subject; it cannot be checked here
                raise
            except LeftOut as reason:
                left_out = str(reason)
            except Violation as broken:
                error = ConformanceError(
                    place, clause.name, broken.message, broken.inputs, broken.numbers, clause.advice
                )
            except Exception as unexpected:
                message = f"it raised {type(unexpected).__name__}: {unexpected}"
                error = ConformanceError(place, clause.name, message, "", {}, clause.advice)
                error.__cause__ = unexpected
            if numbers is None:
                continue
            results.append(ClauseResult(clause.name, where, clause.promise, numbers, error, left_out))
    return Report(subject, tuple(results))
