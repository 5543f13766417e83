"""``smoothflow init``: settings of a training, written out with their meanings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import note


def run(
    path: Annotated[Path, typer.Argument(help="YAML file to write.")] = Path("smoothflow.yaml"),
) -> None:
    """Write the settings of a training with their defaults, each with a comment, for smoothflow train --config.

    Example: smoothflow init my-settings.yaml
    """
    from ..core.files import require_free, write_atomically
    from ..training.config_template import settings_template

    require_free(path)
    write_atomically(path, settings_template().encode("utf-8"))
    note(f"Settings: {path}")
    note(f"Next: smoothflow train FRAMES --config {path} --out RUN")
