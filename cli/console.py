"""Output that commands share: consoles, progress, tables, JSON."""

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

from ..core.text import shown
from ..runs.progress import Progress as Stage

SECONDS_PER_LINE = 60.0
"""Seconds between two lines of progress when output does not go to a terminal."""

NUMBER = re.compile(r"[-+]?(\d|nan\b|inf\b)|$")
"""The beginning of a cell with a number; an empty cell counts as one."""

MAX_ROWS = 5000
"""Rows of a table that are printed."""

ANY_WIDTH = 80
"""Columns of a terminal that reports none."""


def _console(**options: Any) -> Console:
    console = Console(**options)
    return console if console.width > 0 else Console(width=ANY_WIDTH, **options)


results = _console()
"""Standard output: the results."""

errors = _console(stderr=True)
"""Standard error: progress, notes and errors, so that results can be piped."""


class _Rate(ProgressColumn):
    """Units done per second, or seconds per unit."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(
            f"{speed:.0f}/s" if speed >= 100 else f"{speed:.3g}/s" if speed >= 1 else f"{1 / speed:.3g} s each",
            style="progress.data.speed",
        )


@contextmanager
def task_progress() -> Iterator[Callable[[Stage], None]]:
    """A progress bar for each stage of a long task; yields a function to call with the task's reports."""
    if not errors.is_terminal:
        yield _Lines()
        return
    bar = _bar()
    tasks: dict[str, TaskID] = {}

    def report(stage: Stage) -> None:
        if stage.stage not in tasks:
            # work of an earlier run counts as done, but not for the speed
            tasks[stage.stage] = bar.add_task(shown(stage.stage), total=stage.total, completed=stage.done, figures="")
        figures = " ".join(f"{name} {value:.4g}" for name, value in stage.values.items())
        bar.update(tasks[stage.stage], completed=stage.done, total=stage.total, figures=figures)

    with bar:
        yield report


class _Display(Progress):
    """Bars, and below them the figures of the last stage, which do not fit beside them in 80 columns."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        figures = self.tasks[-1].fields.get("figures") if self.tasks else None
        if figures:
            yield Text(shown(figures), no_wrap=True, overflow="ellipsis")


class _Lines:
    """A line a minute without a terminal, from the first minute on: short commands print none."""

    def __init__(self) -> None:
        self._began = self._told = time.monotonic()

    def __call__(self, stage: Stage) -> None:
        now = time.monotonic()
        if now - self._told < SECONDS_PER_LINE:
            return
        self._told = now
        figures = "".join(f", {name} {value:.4g}" for name, value in stage.values.items())
        minutes = (now - self._began) / 60
        note(f"{stage.stage}: {stage.done} of {stage.total} after {minutes:.0f} min{figures}")


def _bar() -> Progress:
    return _Display(
        TextColumn("{task.description:<22}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=errors,
    )


def _text(text: str, style: str = "") -> Text:
    """Text from files, plug-ins or other programs, made fit for printing: all that is printed passes through here."""
    return Text(shown(text), style)


def note(text: str) -> None:
    """A line on standard error."""
    errors.print(_text(text), soft_wrap=True)


def say(text: str) -> None:
    """A line on standard output."""
    results.print(_text(text), soft_wrap=True)


def complain(kind: str, colour: str, text: str) -> None:
    """A line on standard error that begins with the kind of message, in colour."""
    errors.print(Text.assemble((f"{kind}:", f"bold {colour}"), " ", _text(text)), soft_wrap=True)


def exit_after(stopped_by: int, after: str) -> NoReturn:
    """Report that a signal stopped a run, and end the program as that signal does.

    Args:
        stopped_by: The signal's number.
        after: Where the run stopped, and how it goes on.
    """
    note(f"Stopped by {signal.Signals(stopped_by).name} after {after}")
    raise typer.Exit(128 + stopped_by)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output: columns of numbers aligned right, others left."""
    table = Table(title=_text(title, "table.title"), title_justify="left")
    for i, column in enumerate(columns):
        numbers = all(NUMBER.match(row[i]) for row in rows)
        table.add_column(_text(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows[:MAX_ROWS]:
        table.add_row(*map(_text, row))
    results.print(table)
    if len(rows) > MAX_ROWS:
        say(f"... and {len(rows) - MAX_ROWS} rows more. All of them: --json")


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """JSON on standard output, for programs."""
    print(json.dumps(data, indent=2, default=str))
