"""The search for what is not finite."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.core.finite import first_not_finite


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_first_element_that_is_not_finite_is_found_in_the_order_of_rows(value: float) -> None:
    values = torch.zeros(3, 4, 2)
    assert first_not_finite(values) is None
    values[2, 0, 0] = values[1, 3, 1] = value
    assert first_not_finite(values) == (1, 3, 1)


def test_largest_float_is_finite_and_nothing_is_too() -> None:
    assert first_not_finite(torch.full((2,), torch.finfo(torch.float64).max, dtype=torch.float64)) is None
    assert first_not_finite(torch.zeros(0, 3)) is None
