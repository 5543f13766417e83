"""Links and images of every document lead somewhere, and its Python is Python."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import smoothflow

ROOT = Path(smoothflow.__file__).parent
GENERATED = ROOT / "docs" / "generated"
DOCUMENTS = [
    path
    for path in sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
    if not path.is_relative_to(GENERATED)
]
LINK = re.compile(r"\]\(([^)\s]+)\)|^```\{(?:figure|include)\} (\S+)", re.MULTILINE)
CODE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def headings(page: Path) -> set[str]:
    """What a link into a page may name: its headings as GitHub and the site spell them."""
    titles = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_images_lead_somewhere(path: Path) -> None:
    text = CODE.sub("", path.read_text(encoding="utf-8"))
    for link in (inline or directive for inline, directive in LINK.findall(text)):
        parts = urlsplit(link)
        if parts.scheme:
            # no network in tests: its form is all that can be seen
            assert parts.scheme == "https", link
            assert "." in parts.netloc, link
            continue
        target = (path.parent / parts.path).resolve() if parts.path else path
        # made when the site is built, which checks them then
        if not target.is_relative_to(GENERATED):
            assert target.exists(), f"{link} leads nowhere"
            assert not parts.fragment or parts.fragment in headings(target), f"{link} names no heading"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_is_python(path: Path) -> None:
    for language, code in CODE.findall(path.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse(code)
