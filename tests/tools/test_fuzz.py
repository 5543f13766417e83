"""The short form of the fuzz run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[2] / "tools" / "soak" / "fuzz.py"


@pytest.mark.slow
def test_a_few_thousand_inputs_are_read_or_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(FUZZ), "3000", "--kept", str(tmp_path / "kept")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "inputs: 3000" in done.stdout
    assert not (tmp_path / "kept").exists()
