"""The short form of ``random_kills.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Figures = Callable[..., dict[str, Any]]


@pytest.mark.slow
def test_two_kills_leave_no_trace(figures: Figures) -> None:
    found = figures("random_kills.py", "--kills", "2", "--commands", "train")
    assert found["kills in all"] == 2
    assert found["runs finished after kills"] >= 1
    assert found["files examined"] >= 8
