"""``smoothflow demo``: the whole workflow on a real molecule."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ConfigurationError
from . import completion
from .console import note, print_json, print_table, task_progress
from .options import AsJson, Seed

FOLDER = Path("smoothflow-demo")
BEST = "ala2-smooth"


def run(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help=f"With --pretrained, a model other than {BEST}.", autocompletion=completion.MODELS
        ),
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Show a trained model.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder for frames, model and report.", show_default=f"{FOLDER}; for a model, {FOLDER}/NAME"
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Simulate capped alanine, train a smooth flow, evaluate and sample it, and run it in three engines: 5 minutes.

    With --pretrained, show what a model that ships with the package does on new frames: less than a minute.

    Example: smoothflow demo

    Example: smoothflow demo --pretrained
    """
    from ..studies.demo.demonstration import DemoSettings, demonstrate
    from ..studies.demo.pretrained import PretrainedSettings, demonstrate_pretrained

    if model is not None and not pretrained:
        raise ConfigurationError(f"A model is shown with: smoothflow demo --pretrained {model}")
    with task_progress() as on_progress:
        if pretrained:
            name = model or BEST
            folder = output or FOLDER / Path(name).stem
            result = demonstrate_pretrained(name, folder, PretrainedSettings(seed=seed), on_progress)
        else:
            result = demonstrate(output or FOLDER, DemoSettings(seed=seed), on_progress)
    tables = result.tables()
    if as_json:
        print_json(
            {table.title: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in tables}
        )
    else:
        for table in tables:
            print_table(table.title, table.columns, table.rows)
    note(f"Model: {result.model}")
    note(f"Report: {result.report}")
