"""Settings of a fit."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ConfigurationError
from ...core.files import file_digest

UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds, by the unit after a number."""

DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h|d)\s*")


@dataclass(frozen=True)
class FitSettings:
    """What to fit.

    Attributes:
        structure: Structure file of the molecule.
        reference: The force field, as PROVIDER:ARGUMENT.
        ess: Sampling efficiency (Kish, raw) at which the fit is done.
        budget: Planned wall-clock time, s.
        temperature: K.
        md: Whether to begin with molecular dynamics, rather than at a high temperature.
        n_samples: Samples of the final evaluation.
        seed: Seed of the random numbers.
    """

    structure: Path
    reference: str
    ess: float = 0.9
    budget: float = 7200.0
    temperature: float = 300.0
    md: bool = True
    n_samples: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ess < 1:
            raise ConfigurationError(f"ess must lie between 0 and 1; it is {self.ess}. 0.9 is 90 %.")
        for name in ("budget", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} must be positive and finite; it is {getattr(self, name)}.")
        if self.n_samples < 100:
            raise ConfigurationError(f"An evaluation needs at least 100 samples; n_samples is {self.n_samples}.")
        if self.seed < 0:
            raise ConfigurationError(f"The seed must not be negative; it is {self.seed}.")

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies a fit, in JSON types; a structure counts by its content, whatever its name."""
        files = [Path(part.strip()) for part in self.reference.partition(":")[2].split(",")]
        return {
            "structure_sha256": file_digest(self.structure),
            "reference": self.reference,
            "reference_sha256": {path.name: file_digest(path) for path in files if path.is_file()},
            "ess": self.ess,
            "budget": self.budget,
            "temperature": self.temperature,
            "md": self.md,
            "n_samples": self.n_samples,
            "seed": self.seed,
        }


def duration(text: str) -> float:
    """Seconds of a duration as people write it: ``2h``, ``30min``, ``1h 30min``, ``90s``.

    Raises:
        ConfigurationError: If it is written otherwise, or is not positive.
    """
    parts = DURATION.findall(text)
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if DURATION.sub("", text) or not 0 < seconds < math.inf:
        raise ConfigurationError(f'"{text}" is not a duration. Write it like 30min, 2h, 1h30min or 90s.')
    return seconds


def spoken(seconds: float) -> str:
    """A duration in words."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
