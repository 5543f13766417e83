"""``smoothflow demo``: the main job on a real molecule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import errors, print_json, print_table, task_progress
from .options import AsJson, Seed


def run(
    output: Annotated[Path, typer.Option("--out", help="Folder for frames, model and report.")] = Path(
        "smoothflow-demo"
    ),
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate capped alanine, train a smooth flow, evaluate and sample it, and run it in three engines: 5 minutes.

    Example: smoothflow demo
    """
    from ..analysis.demonstration import DemoSettings, demonstrate

    with task_progress() as on_progress:
        result = demonstrate(output, DemoSettings(seed=seed), on_progress)
    tables = result.tables()
    if as_json:
        print_json(
            {table.title: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in tables}
        )
    else:
        for table in tables:
            print_table(table.title, table.columns, table.rows)
    errors.print(f"Model: {result.model}\nReport: {result.report}", soft_wrap=True)
