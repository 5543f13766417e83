"""The scripts of ``tools/soak``, in their short forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).parents[2] / "tools" / "soak"


@pytest.fixture
def figures(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a script with options, and returns the figures that it wrote."""

    def run(script: str, *options: str) -> dict[str, Any]:
        kept = tmp_path / "figures.json"
        command = [sys.executable, str(SOAK / script), *options, "--json", str(kept)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENMM_CPU_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))["figures"]
        return found

    return run
