"""How far a long task has come, reported to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Progress:
    """A moment of a long task.

    Attributes:
        stage: What is being done, as it is shown.
        done: Units of work that are done, those of an earlier, interrupted run included.
        total: Units of work in this stage.
        values: Figures of the moment, by name.
    """

    stage: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]
"""Called now and then, always at the end of a stage."""


def silent(progress: Progress) -> None:
    """Reports to nobody."""


def within(stage: str, on_progress: OnProgress) -> OnProgress:
    """Tells of a part of a longer task under the name that this part has there."""
    return lambda progress: on_progress(replace(progress, stage=stage))
