"""The short form of ``random_kills.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_kills_leave_no_trace(tmp_path: Path) -> None:
    script = Path(__file__).parents[2].joinpath("tools", "soak", "random_kills.py")
    kept = tmp_path / "kills.json"
    command = [sys.executable, str(script), "--kills", "2", "--commands", "train", "--json", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(kept.read_text())["figures"]
    assert figures["kills in all"] == 2
    assert figures["runs finished after kills"] >= 1
    assert figures["files examined"] >= 8
