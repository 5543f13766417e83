"""Documents lead somewhere: their links, images, code blocks and commands are right."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import smoothflow
import typer
from smoothflow.cli.app import app

ROOT = Path(smoothflow.__file__).parent
GENERATED = ROOT / "docs" / "generated"
DOCUMENTS = [
    path
    for folder in ("", "docs", "examples")
    for path in sorted((ROOT / folder).glob("*.md" if not folder else "**/*.md"))
    if not path.is_relative_to(GENERATED)
]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)[^)]*\)|^```\{(?:figure|image|include)\} (\S+)", re.MULTILINE)


def blocks(text: str, language: str) -> Iterator[str]:
    """The fenced blocks of a language; of a console, what was typed."""
    for found in re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, flags=re.DOTALL | re.MULTILINE):
        yield textwrap.dedent(found)


def commands(text: str) -> Iterator[list[str]]:
    """The words of every complete ``smoothflow`` command in shell blocks."""
    for block in blocks(text, "(?:bash|console|sh)"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||;|\| ", line.removeprefix("$ ").partition("  #")[0]):
                words = shlex.split(part)
                if words[:1] == ["smoothflow"] and "..." not in words:
                    yield words[1:]


def anchors(path: Path) -> set[str]:
    """What a link into a page may name: its headings as GitHub and the site spell them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
class TestDocument:
    def test_links_and_images_lead_somewhere(self, path: Path) -> None:
        text = re.sub(r"^```(?!\{).*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for link in (a or b for a, b in LINK.findall(text)):
            parts = urlsplit(link)
            if parts.scheme:
                assert parts.scheme in ("https", "mailto"), link
                assert parts.scheme == "mailto" or "." in parts.netloc, link
                continue
            target = (path.parent / parts.path).resolve() if parts.path else path
            if target.is_relative_to(GENERATED):
                # made, and its links checked, when the site is built
                continue
            assert target.exists(), f"{link} leads nowhere"
            if parts.fragment and target.suffix == ".md":
                assert parts.fragment in anchors(target), f"{link} names no heading"

    def test_python_is_python(self, path: Path) -> None:
        for block in blocks(path.read_text(encoding="utf-8"), "python"):
            ast.parse(block)

    def test_commands_exist_with_their_options(self, path: Path) -> None:
        group = typer.main.get_command(app)
        for words in commands(path.read_text(encoding="utf-8")):
            if words and not words[0].startswith("-"):
                # parses and checks all words, and runs nothing
                name, command, rest = group.resolve_command(typer.Context(group), words)
                if "--help" not in rest:
                    command.make_context(name, [word for word in rest if word != "--debug"])
