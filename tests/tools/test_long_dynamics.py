"""The short form of ``long_dynamics.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_short_run_is_whole(tmp_path: Path) -> None:
    script = Path(__file__).parents[2].joinpath("tools", "soak", "long_dynamics.py")
    kept = tmp_path / "run.json"
    command = [sys.executable, str(script), "--steps", "300", "--json", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(kept.read_text())["figures"]
    assert (figures["steps of 1 fs"], figures["broken bonds"]) == (300, 0)
    assert figures["energies or forces that are not finite"] == 0
