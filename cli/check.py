"""``smoothflow check``: does a plug-in keep the contract."""

from __future__ import annotations
from typing import Annotated
import typer


def run(name: Annotated[str, typer.Argument(help="Name of a transform.")]) -> None:
    """Check a transform against every clause of the contract.

    Example: smoothflow check smooth
    """
