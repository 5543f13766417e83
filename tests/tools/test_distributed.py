"""The scripts on dying processes, in their short forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Figures = Callable[..., dict[str, Any]]


@pytest.mark.slow
def test_killed_process_of_a_training(figures: Figures) -> None:
    found = figures("distributed_training.py", "--steps", "8", "--kills", "1")
    assert found["records of all parameters compared with one process"] == 16
    assert float(found["largest difference of a parameter"]) < 1e-6  # what is promised
    assert found["checkpoints lost"] == 0
    assert float(found["largest difference of a parameter in the killed run"]) < 1e-6


@pytest.mark.slow
def test_killed_worker_of_a_dask_cluster(figures: Figures) -> None:
    found = figures("dask_worker_killed.py", "--frames", "2000", "--kills", "1")
    assert found["workers killed half way"] == 1
    assert found["frames missing"] == 0
    assert found["energies that differ in any bit"] == found["force components that differ in any bit"] == 0
