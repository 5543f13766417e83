"""What the documentation names exists: commands with their options, files, and the paper and version to cite."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import smoothflow
import typer
import yaml
from smoothflow.cli.app import app

ROOT = Path(smoothflow.__file__).parent
OUTSIDE_DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "examples").rglob("*.md")])
DOCUMENTS = [*OUTSIDE_DOCS, *(path for path in sorted((ROOT / "docs").rglob("*.md")) if "generated" not in path.parts)]
BLOCK = re.compile(r"^```(?:bash|console)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"(?:^|&& |\$ |\w=\S+ |^ +)smoothflow ([a-z][^&\n;|>]*)", flags=re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[\w-]*)?\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def commands(text: str) -> list[list[str]]:
    """Every call of ``smoothflow`` in the blocks for a shell, as its arguments; not those with a shell's variables."""
    lines = "\n".join(BLOCK.findall(text)).replace("\\\n", " ")
    return [shlex.split(found, comments=True) for found in COMMAND.findall(lines) if "$" not in found]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_and_their_options_exist(path: Path) -> None:
    group = typer.main.get_command(app)
    for name, *rest in commands(path.read_text(encoding="utf-8")):
        # parses the arguments as a call would, and raises on unknown ones; nothing runs
        group.commands[name].make_context(name, rest)  # type: ignore[attr-defined]


def test_commands_are_found() -> None:
    text = '```bash\nsmoothflow train x.h5 \\\n    --out run  # comment\ncd a && X=1 smoothflow check "a b" > c\n```\n'
    assert commands(text) == [["train", "x.h5", "--out", "run"], ["check", "a b"]]


# links inside docs/ are checked where the site is built
@pytest.mark.parametrize("path", OUTSIDE_DOCS, ids=name_of)
def test_files_that_are_linked_exist(path: Path) -> None:
    for link in LINK.findall(path.read_text(encoding="utf-8")):
        assert (path.parent / link).exists(), link


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == smoothflow.__version__
    assert citation["license"] == "MIT"
    assert "2110.00351" in citation["references"][0]["url"]


def test_the_licence_is_mit() -> None:
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def test_every_example_is_run_by_a_test() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    tests += (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for folder in (ROOT / "examples").iterdir():
        scripts = [path.name for path in folder.glob("*.py")]
        assert folder.name in tests or any(name in tests for name in scripts), folder
