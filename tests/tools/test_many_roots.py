"""The short form of ``many_roots.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Figures = Callable[..., dict[str, Any]]


@pytest.mark.slow
def test_some_thousand_roots_are_found_in_each_dtype(figures: Figures) -> None:
    found = figures("many_roots.py", "--elements", "9000")
    for dtype in ("float32", "float64"):
        assert found[f"{dtype}: elements"] >= 9000
        assert found[f"{dtype}: not converged"] == 0
        # the default solver stops at 4
        assert 0 < found[f"{dtype}: largest residual, in roundings of x and F(x) (eps)"] <= 32
