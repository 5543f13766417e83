"""Mutation testing and branch coverage, small: each finds what was put before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "tools" / "soak"


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SOAK / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_every_change_of_the_units_is_noticed(tmp_path: Path) -> None:
    done = run("mutants.py", "--module", "units", "--json", tmp_path / "found.json")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "core/units.py" in line]
    assert len(lines) == 17
    assert all(line.startswith("failed") for line in lines)
    assert any("BOLTZMANN * temperature -> BOLTZMANN / temperature" in line for line in lines)
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert (figures["changes tried"], figures["survivors"]) == (17, 0)


@pytest.mark.slow
def test_branches_are_counted_in_other_processes_too(tmp_path: Path) -> None:
    # the workers that run the tests are other processes
    arguments = ["--package", "core", "--tests", "tests/core/test_finite.py", "--json", tmp_path / "found.json"]
    done = run("branches.py", *arguments)
    assert "core/finite.py:" not in done.stdout
    assert "core/solvers.py: branches never taken, from line to line: [[" in done.stdout
    assert "Less than 95 % of the branches are taken in core" in done.stderr
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert 0 < float(figures["core: branches taken, %"]) < 95
