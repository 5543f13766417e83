"""What commands share when they talk to a person: consoles, progress, tables, JSON."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from ..training.progress import Progress as Stage

NUMBER = re.compile(r"[-+]?(\d|nan\b|inf\b)|$")
"""How a cell with a number begins; an empty one fits everywhere."""

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""Characters that move the cursor, change colours or do worse."""

SECONDS_BETWEEN_LINES = 60.0
"""Of progress, where there is no terminal to draw a bar on."""

results = Console()
"""Standard output: what was asked for."""

errors = Console(stderr=True)
"""Standard error: progress, notes and errors, so that results can be piped."""


class _Rate(ProgressColumn):
    """How much is done per second, or how long one takes."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(
            f"{speed:.0f}/s" if speed >= 100 else f"{speed:.3g}/s" if speed >= 1 else f"{1 / speed:.3g} s each",
            style="progress.data.speed",
        )


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar with rate and remaining time; yields a function to call with the amount done so far."""
    bar = _bar()
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda done: bar.update(task, completed=done)


@contextmanager
def task_progress() -> Iterator[Callable[[Stage], None]]:
    """A progress bar for each stage of a long task; yields a function to call with the task's reports."""
    bar = _bar()
    tasks: dict[str, TaskID] = {}
    told = time.monotonic()

    def report(stage: Stage) -> None:
        nonlocal told
        if not errors.is_terminal:
            if time.monotonic() - told >= SECONDS_BETWEEN_LINES:
                told = time.monotonic()
                note(f"{stage.stage}: {stage.done} of {stage.total}")
            return
        if stage.stage not in tasks:
            # what an earlier run did counts as done, not as fast
            tasks[stage.stage] = bar.add_task(stage.stage, total=stage.total, completed=stage.done, figures="")
        figures = " ".join(f"{name} {value:.4g}" for name, value in stage.values.items())
        bar.update(tasks[stage.stage], completed=stage.done, total=stage.total, figures=figures)

    with bar:
        yield report


class _Display(Progress):
    """Bars, and below them the figures of the last stage: beside them they do not fit into 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        figures = self.tasks[-1].fields.get("figures") if self.tasks else None
        if figures:
            yield Text(figures, no_wrap=True, overflow="ellipsis")


def _bar() -> Progress:
    return _Display(
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=not errors.is_terminal,
    )


def note(text: str) -> None:
    """A sentence on standard error, as it is."""
    errors.print(text, soft_wrap=True, highlight=False, markup=False)


def exit_after(stopped_by: int, after: str) -> NoReturn:
    """Say that a signal stopped a run, and end the program as that signal does.

    Args:
        stopped_by: The signal's number.
        after: Where the run stopped, and how it goes on.
    """
    note(f"Stopped by {signal.Signals(stopped_by).name} after {after}")
    raise typer.Exit(128 + stopped_by)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: columns of numbers to the right, others to the left."""
    table = Table(title=Text(printable(title), "table.title"), title_justify="left")
    for i, column in enumerate(columns):
        numbers = all(NUMBER.match(row[i]) for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    results.print(table)


def printable(text: str) -> str:
    """Text from a file without what could control a terminal."""
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """JSON on standard output, for programs."""
    print(json.dumps(data, indent=2, default=str))
