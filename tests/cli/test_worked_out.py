"""The command that CONTRIBUTING.md works out, and its test there, run."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from smoothflow import load
from smoothflow.cli.app import app

Smoothflow = Callable[..., Any]


@pytest.fixture
def blocks() -> list[str]:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## A command, worked out")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def test_the_command_in_contributing_works_and_so_does_its_test(
    smoothflow: Smoothflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blocks: list[str]
) -> None:
    command, its_test = blocks
    (tmp_path / "torsions_of_contributing.py").write_text(command, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("torsions_of_contributing")
    monkeypatch.delitem(sys.modules, "torsions_of_contributing")
    monkeypatch.setattr(app, "registered_commands", [*app.registered_commands])
    app.command("torsions")(module.run)

    names: dict[str, Any] = {"json": json}
    exec(its_test, names)
    (check,) = (value for name, value in names.items() if name.startswith("test_"))
    check(smoothflow)

    table = smoothflow("torsions", "ala2-smooth")
    assert table.code == 0
    for name in load("ala2-smooth").coordinates.codomain.names[-19:]:
        assert name in table.out
    assert "Example: smoothflow torsions ala2-smooth" in " ".join(smoothflow("torsions", "--help").out.split())
    assert smoothflow("torsions", "ala2").code == 2
