"""The contract of a transform, in executable form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.errors import ConfigurationError
from ..core.manifolds import UNIT_MANIFOLDS, Manifold
from .report import Report, check_clauses, raising
from .transform_case import TransformCase, TransformFactory
from .transform_clauses import VALUE_CLAUSES
from .transform_derivatives import DERIVATIVE_CLAUSES

_CLAUSES = (*VALUE_CLAUSES, *DERIVATIVE_CLAUSES)

TRANSFORM_CLAUSES: tuple[str, ...] = tuple(clause.name for clause in _CLAUSES)
"""Names of the clauses of a transform's contract, in the order in which they are checked."""


def examine_transform(
    factory: TransformFactory,
    manifolds: Iterable[type[Manifold]] | None = None,
    clauses: Sequence[str] | None = None,
    seed: int = 0,
    compile_backend: str = "aot_eager",
) -> Report:
    """Check a transform against its contract, and report what held and what did not.

    Args:
        factory: The transform's class, or a `functools.partial` of it with options.
        manifolds: On which manifolds; by default, all that the class declares.
        clauses: Which of `TRANSFORM_CLAUSES`; by default, all.
        seed: Seed of points and parameters.
        compile_backend: With which the clause "compilation" compiles; "inductor" takes a C++ compiler and a minute.

    Raises:
        ConfigurationError: If there is no clause of that name, or no manifold.
    """
    made_from = getattr(factory, "func", factory)
    kinds = tuple(manifolds) if manifolds is not None else tuple(getattr(made_from, "manifolds", ()))
    if not kinds:
        raise ConfigurationError("This factory does not tell which manifolds it is for; pass them.")
    cases = {}
    for name, manifold in UNIT_MANIFOLDS.items():
        if type(manifold) in kinds:
            cases[name] = TransformCase(factory, factory(manifold), manifold, seed, compile_backend)
    return check_clauses(f'Transform "{getattr(made_from, "name", made_from)}"', _CLAUSES, cases, clauses)


check_transform = raising(examine_transform)
