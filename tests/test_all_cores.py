"""The whole suite runs on all cores, once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

TEST = """
import os
import pytest

@pytest.mark.parametrize("i", range(4))
def test_it_runs_in_a_worker(i):
    assert os.environ["PYTEST_XDIST_WORKER"] in ("gw0", "gw1")
"""


def test_workers_start_no_workers(tmp_path: Path) -> None:
    """They did, and these did, until the machine was full."""
    shutil.copy(Path(__file__).parent / "conftest.py", tmp_path)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = inner\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "test_inner.py").write_text(TEST)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    found = subprocess.run(
        [sys.executable, "-m", "pytest"],
        cwd=tmp_path,
        env={**environment, "PYTEST_XDIST_AUTO_NUM_WORKERS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "4 passed" in found.stdout, found.stdout + found.stderr
