"""What a physical examination of a potential asks, with which settings, and what it found."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ..core.errors import ConfigurationError, ConformanceError
from .estimates import Estimate

Count = Callable[[int, int], None]
"""Called with the amount done and the amount of all."""


@dataclass(frozen=True)
class PhysicsSettings:
    """How a potential is examined; the defaults are the protocol of the paper and of the literature.

    Attributes:
        temperature: K, of all dynamics.
        n_replicas: Independent copies, all in one batch.
        timestep: ps.
        equilibration: ps of Langevin dynamics before the NVE runs.
        equilibration_friction: 1/ps.
        production: ps of the NVE run.
        timesteps: ps; of the NVE runs whose fluctuations are compared.
        scaling_duration: ps, of each of them.
        nvt_steps: Steps of the NVT run.
        friction: 1/ps, in the NVT run.
        n_frames: Start frames at which forces and Hessians are examined; the scans begin at the first one.
        seed: Of velocities and of the thermostat's noise.

    Raises:
        ConfigurationError: If a value cannot be run.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, arXiv 2110.00351.
    """

    temperature: float = 300.0
    n_replicas: int = 10
    timestep: float = 0.001
    equilibration: float = 1.0
    equilibration_friction: float = 10.0
    production: float = 5.0
    timesteps: tuple[float, ...] = (0.000125, 0.00025, 0.0005, 0.001)
    scaling_duration: float = 1.0
    nvt_steps: int = 100_000
    friction: float = 1.0
    n_frames: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not 0 <= number < math.inf or (number == 0 and field.name not in ("equilibration", "seed")):
                    raise ConfigurationError(f"{field.name} is {value}; an examination needs a positive number.")
        shortest = min(self.production, self.scaling_duration)
        if shortest < 3 * max((self.timestep, *self.timesteps)):
            raise ConfigurationError(f"An NVE run of {shortest} ps has less than three steps. Run it longer.")


@dataclass(frozen=True)
class Finding:
    """One number that was measured, and the range in which it should be.

    Attributes:
        test: Which test measured it.
        quantity: What it is, with its unit.
        measured: The number; nan if it could not be measured.
        low: It should not be less.
        high: Nor more.
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
        """Whether the number is in its range; nan is not."""
        return self.low <= self.measured.value <= self.high

    @property
    def limit(self) -> str:
        """The range, for people."""
        if math.isinf(self.low):
            return "finite" if math.isinf(self.high) else f"<= {self.high:.4g}"
        return f">= {self.low:.4g}" if math.isinf(self.high) else f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class PhysicsReport:
    """What the physics tests found, in the order in which they ran."""

    subject: str
    findings: tuple[Finding, ...]

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
        return [
            [f.test, f.quantity, str(f.measured), f.limit, "ok" if f.holds else "FAILS", f.note] for f in self.findings
        ]

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON types; infinite and undefined numbers are null."""
        return {
            "subject": self.subject,
            "passed": self.passed,
            "findings": [
                {
                    "test": finding.test,
                    "quantity": finding.quantity,
                    "measured": _finite(finding.measured.value),
                    "error": _finite(finding.measured.error),
                    "low": _finite(finding.low),
                    "high": _finite(finding.high),
                    "holds": finding.holds,
                    "note": finding.note,
                }
                for finding in self.findings
            ],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def single(value: float) -> Estimate:
    """One measured number, without an error."""
    return Estimate(value, math.nan, 1)
