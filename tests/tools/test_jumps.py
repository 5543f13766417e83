"""The script that measures jumps counts what the simulations did."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "tools" / "soak" / "jumps.py"


@pytest.mark.slow
def test_ways_take_equal_numbers_of_evaluations(tmp_path: Path) -> None:
    found = tmp_path / "jumps.json"
    small = ["--evaluations", "60000", "--walkers", "2", "--out", str(tmp_path / "runs"), "--json", str(found)]
    subprocess.run([sys.executable, str(SCRIPT), *small, "--models", "ala2-affine"], check=True, cwd=SCRIPT.parent)
    figures = json.loads(found.read_text())["figures"]
    for way in ("plain dynamics", "replica exchange", "jumps of ala2-affine"):
        # and 10 ps of equilibration of two walkers, at four temperatures where there is a ladder
        assert 60_000 < int(figures[f"{way}: evaluations"].replace(",", "")) < 180_000
    assert 0 < float(figures["jumps of ala2-affine: accepted, %"]) < 100
