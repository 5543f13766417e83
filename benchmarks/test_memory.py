"""What one call in a fresh process needs at its peak beyond what was resident, after a call at batch 1; Linux."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from contenders import PEERS
from measuring import Measure
from memory_probe import BATCHES

PROBE = Path(__file__).with_name("memory_probe.py")
TITLES = {
    "forces": f"peak of energy and forces, batch {BATCHES['forces']}, float32",
    "training": f"peak of a training step with forces, batch {BATCHES['training']}, float32",
}


@pytest.mark.parametrize("task", BATCHES)
@pytest.mark.parametrize("contender", ["flow", *(pytest.param(name, marks=pytest.mark.slow) for name in PEERS)])
def test_memory(measure: Measure, benchmark: Any, pytestconfig: pytest.Config, contender: str, task: str) -> None:
    model = pytestconfig.getoption("model")
    arguments = [contender, task, *([] if model is None else [str(model)])]
    done = subprocess.run([sys.executable, str(PROBE), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    # the time of nothing: this figure is not a time
    measure(lambda: None, TITLES[task], contender, yardstick=contender != "flow", MiB=float(done.stdout))
