"""The public conformance kit: the contracts of the extension points, in executable form.

Every ``check_`` function runs all clauses of a contract and raises a `ConformanceError` that names the broken clause,
the input and the numbers; every ``examine_`` function reports what held and what did not instead.
"""

from __future__ import annotations

from ..core.errors import ConformanceError
from .report import ClauseResult, Report
from .transforms import TRANSFORM_CLAUSES, check_transform, examine_transform

__all__ = [
    "TRANSFORM_CLAUSES",
    "ClauseResult",
    "ConformanceError",
    "Report",
    "check_transform",
    "examine_transform",
]
