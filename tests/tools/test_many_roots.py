"""The short form of ``many_roots.py``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_some_thousand_roots_are_found_in_each_dtype(tmp_path: Path) -> None:
    script = Path(__file__).parents[2].joinpath("tools", "soak", "many_roots.py")
    kept = tmp_path / "roots.json"
    command = [sys.executable, str(script), "--elements", "9000", "--json", str(kept)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(kept.read_text())["figures"]
    for dtype in ("float32", "float64"):
        assert figures[f"{dtype}: elements"] >= 9000
        assert figures[f"{dtype}: not converged"] == 0
        # the default solver stops at 4
        assert 0 < figures[f"{dtype}: largest residual, in roundings of x and F(x) (eps)"] <= 32
