"""Keep what a soak script found, for ``docs/reliability/build.py``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from smoothflow.core.files import write_json
from smoothflow.runs.provenance import origin


def keep(path: Path | None, title: str, figures: Mapping[str, object], began: float) -> None:
    """Print the figures and, with a path, write them with the command, the commit and the machine.

    Args:
        path: A JSON file; ``None`` to print only.
        title: What was tried, in a few words.
        figures: What was counted or measured, by what it is, units in the name.
        began: ``time.monotonic()`` at the start.
    """
    seconds = round(time.monotonic() - began)
    for name, value in figures.items():
        print(f"{name}: {value}")
    if path is not None:
        arguments = ["python", *sys.orig_argv[1:]]
        found = {"title": title, "figures": dict(figures), "seconds": seconds, "origin": origin(arguments)}
        write_json(path, found)
