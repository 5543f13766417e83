"""The findings of a physical examination of a potential."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...analysis.estimates import Estimate, plain
from ...core.errors import ConformanceError


@dataclass(frozen=True)
class Finding:
    """One number that was measured, and the range in which it should be.

    Attributes:
        test: Which test measured it.
        quantity: What it is, with its unit.
        measured: The number; nan if it could not be measured.
        low: Smallest acceptable value.
        high: Largest acceptable value.
        note: Where it was found, or what went wrong.
    """

    test: str
    quantity: str
    measured: Estimate
    low: float = -math.inf
    high: float = math.inf
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the number is in its range, which nan is not."""
        return self.low <= self.measured.value <= self.high

    @property
    def limit(self) -> str:
        """The range in words."""
        if math.isinf(self.low):
            return "finite" if math.isinf(self.high) else f"<= {self.high:.4g}"
        return f">= {self.low:.4g}" if math.isinf(self.high) else f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class PhysicsReport:
    """What the physics tests found, in the order in which they ran.

    Attributes:
        subject: What was examined.
        findings: What was measured.
        left_out: Tests that say nothing about this potential, and why.
        unfinished: Tests that an interruption left unfinished.
    """

    subject: str
    findings: tuple[Finding, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every number is in its range."""
        return all(finding.holds for finding in self.findings)

    def raise_first(self) -> PhysicsReport:
        """Raise a `ConformanceError` for the first number out of its range; otherwise return this report."""
        for finding in self.findings:
            if not finding.holds:
                message = f"the {finding.quantity} is {finding.measured}, and should be {finding.limit}."
                raise ConformanceError(self.subject, finding.test, " ".join([message, finding.note]).strip(), "", {})
        return self

    def rows(self) -> list[list[str]]:
        """Test, quantity, measured, limit, whether it holds, and note, for a table."""
        rows = [
            [f.test, f.quantity, str(f.measured), f.limit, "ok" if f.holds else "FAILS", f.note] for f in self.findings
        ]
        rows += [[test, "", "", "", "left out", reason] for test, reason in self.left_out.items()]
        return rows + [[test, "", "", "", "not done", ""] for test in self.unfinished]

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON types; infinite and undefined numbers are null."""
        return {
            "subject": self.subject,
            "passed": self.passed and not self.unfinished,
            "left_out": dict(self.left_out),
            "unfinished": list(self.unfinished),
            "findings": [
                {
                    "test": finding.test,
                    "quantity": finding.quantity,
                    "measured": plain(finding.measured.value),
                    "error": plain(finding.measured.error),
                    "low": plain(finding.low),
                    "high": plain(finding.high),
                    "holds": finding.holds,
                    "note": finding.note,
                }
                for finding in self.findings
            ],
        }


def single(value: float) -> Estimate:
    """One measured number, without an error."""
    return Estimate(value, math.nan, 1)
