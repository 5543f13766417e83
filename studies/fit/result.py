"""The outcome of a fit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...analysis.estimates import Estimate, percent, plain
from ...analysis.evaluation import Evaluation
from ...analysis.found_basins import FoundBasin
from .drawn import SampleEvaluation


@dataclass(frozen=True)
class Fitted:
    """The outcome of a fit.

    Attributes:
        folder: Folder of the fit.
        model: The best model.
        evaluation: The model on frames and samples that no training saw.
        basins: The basins that frames and samples show.
        ess: Sampling efficiency of the model, on samples that no training saw.
        target: The efficiency that was asked for.
        decisions: All decisions with their times and reasons.
        energy_evaluations: Number of evaluations of the reference in all trainings.
    """

    folder: Path
    model: Path
    evaluation: Evaluation | SampleEvaluation
    basins: list[FoundBasin]
    ess: Estimate
    target: float
    decisions: list[tuple[str, str]]
    energy_evaluations: int

    @property
    def reached(self) -> bool:
        """Whether the efficiency reaches the target."""
        return self.ess.value >= self.target

    @property
    def problems(self) -> list[str]:
        """What is still wrong, in words."""
        found = []
        if not self.reached:
            found.append(f"the sampling efficiency is {percent(self.ess)}, and {100 * self.target:g} % were asked for")
        found += [basin.missing for basin in self.basins if basin.missing]
        return [*found, *self.evaluation.verdict.reasons]

    def to_dict(self) -> dict[str, Any]:
        """The numbers in plain JSON types."""
        return {
            "model": str(self.model),
            "ess": plain(self.ess),
            "target": self.target,
            "reached": self.reached,
            "problems": self.problems,
            "energy_evaluations": self.energy_evaluations,
            "basins": [basin.to_dict() for basin in self.basins],
            "evaluation": self.evaluation.to_dict(),
            "decisions": [{"after": when, "what": what} for when, what in self.decisions],
        }
