"""Short texts and tables of what objects are, for errors, consoles and notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape

from torch import nn

from .text import shown

LONGEST_CELL = 500
"""Characters of one cell of a table in a notebook."""


def counted(kinds: Iterable[str]) -> str:
    """How often each kind occurs, like ``21 line, 9 circle``, in the order in which they appear."""
    return ", ".join(f"{n} {kind}" for kind, n in Counter(kinds).items())


def count_parameters(module: nn.Module) -> int:
    """The number of parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def n_weights(module: nn.Module) -> str:
    """The number of parameters of a module, as it is written: ``12,345 parameters``."""
    return f"{count_parameters(module):,} parameters"


def described(of: object, *parts: str) -> str:
    """What an object is, on one line: its class, and in parentheses the parts that are not empty."""
    return f"{type(of).__name__}({'; '.join(shown(part) for part in parts if part)})"


def html_table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values for notebooks; all text in it is text, whatever it looks like."""
    cells = "".join(
        "<tr>" + "".join(f"<td>{escape(shown(cell, LONGEST_CELL))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><caption>{escape(shown(title))}</caption><tbody>{cells}</tbody></table>"
