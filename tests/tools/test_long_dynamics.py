"""The short form of ``long_dynamics.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Figures = Callable[..., dict[str, Any]]


@pytest.mark.slow
def test_a_short_run_is_whole(figures: Figures) -> None:
    found = figures("long_dynamics.py", "--steps", "300")
    assert (found["steps of 1 fs"], found["broken bonds"]) == (300, 0)
    assert found["energies or forces that are not finite"] == 0
