"""The scripts on dying processes, in their short forms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parents[2] / "tools" / "soak"


def figures(script: str, folder: Path, *options: str) -> dict[str, Any]:
    kept = folder / "figures.json"
    command = [sys.executable, str(HERE / script), *options, "--json", str(kept)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENMM_CPU_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))["figures"]
    return found


@pytest.mark.slow
def test_killed_process_of_a_training(tmp_path: Path) -> None:
    found = figures("distributed_training.py", tmp_path, "--steps", "8", "--kills", "1")
    assert found["records of all parameters compared with one process"] == 16
    assert float(found["largest difference of a parameter"]) < 1e-6  # what is promised
    assert found["checkpoints lost"] == 0
    assert float(found["largest difference of a parameter in the killed run"]) < 1e-6


@pytest.mark.slow
def test_killed_worker_of_a_dask_cluster(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    found = figures("dask_worker_killed.py", tmp_path, "--frames", "2000", "--kills", "1")
    assert found["workers killed half way"] == 1
    assert found["frames missing"] == 0
    assert found["energies that differ in any bit"] == found["force components that differ in any bit"] == 0
