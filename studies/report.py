"""The report: one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError
from ..core.files import require_own, write_atomically
from ..core.optional import import_optional
from ..core.text import printable

TEMPLATE = "report.html.j2"

MARKS = (b'<meta name="generator" content="smoothflow">', b":root { --ink: #1f2328; --soft: #59636e; --line: #d8dee4;")
"""What distinguishes a report from other pages; version 0.1 wrote the second one alone."""


@dataclass(frozen=True)
class Table:
    """A table: its title, the column headings, rows of cells, and a note below."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ConfigurationError(
                    f'Row {i} of the table "{self.title}" has {len(row)} cells for {len(self.columns)} columns.'
                )


@dataclass(frozen=True)
class Picture:
    """A figure: its title, its caption and its PNG bytes."""

    title: str
    caption: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """The picture as a URI that needs no file and no network."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Report:
    """The content of a report, as plain text that is escaped when it is written."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def facts(self) -> list[tuple[str, str]]:
        """The provenance as a flat list: names of what lies in mappings are joined by dots."""
        return list(_flat(self.provenance))


def _flat(mapping: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", str(value)


def _harmless(value: Any) -> Any:
    """Text without characters that would reverse other text or cannot be encoded; our own non-breaking spaces stay."""
    return "\u00a0".join(map(printable, value.split("\u00a0"))) if isinstance(value, str) else value


def render_report(report: Report) -> str:
    """The report as HTML, with its pictures inside.

    Raises:
        MissingDependencyError: If jinja2 is not installed.
    """
    jinja2 = import_optional("jinja2", "Writing a report", "report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    source = files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    rendered: str = environment.from_string(source).render(report=report)
    return rendered


def require_report(path: Path) -> None:
    """Raise unless a report can be written under a name: a `ConfigurationError` if another kind of file has it."""
    require_own(path, MARKS, "a report")


def write_report(report: Report, path: str | Path) -> None:
    """Write the report, whole or not at all; an earlier report is replaced, but no other file.

    Raises:
        ConfigurationError: If the name is that of another file.
        MissingDependencyError: If jinja2 is not installed.
        FileFormatError: If the file cannot be written.
    """
    require_report(Path(path))
    write_atomically(Path(path), render_report(report).encode("utf-8"))
