"""The short form of ``newton_steps.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_fixed_steps_leave_hardly_a_root_of_some_thousand(tmp_path: Path) -> None:
    script = Path(__file__).parents[2].joinpath("tools", "soak", "newton_steps.py")
    kept = tmp_path / "steps.json"
    command = [sys.executable, str(script), "--elements", "90000", "--json", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(kept.read_text())["figures"]
    for dtype in ("float32", "float64"):
        made = figures[f"{dtype}: steps that are made"]
        for kind in ("ordinary", "trained"):
            assert figures[f"{dtype}, {kind} parameters: steps that left none"] <= made
