"""Manifolds and their products."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from smoothflow.core.errors import ManifoldError, UnknownNameError
from smoothflow.core.manifolds import Circle, Column, Interval, Line, Product


@given(st.floats(-1e6, 1e6), st.sampled_from([1.0, 2 * math.pi]))
def test_wrapping_changes_a_point_by_whole_periods(x: float, period: float) -> None:
    wrapped = Circle(period).wrap(torch.tensor(x, dtype=torch.float64)).item()
    assert 0 <= wrapped < period
    turns = (x - wrapped) / period
    assert abs(turns - round(turns)) < 1e-9  # rounding of x / period at 1e6 turns


def test_wrapping_a_tiny_negative_number_gives_a_point_of_the_circle() -> None:
    # -1e-20 + 1 rounds to 1, which is outside [0, 1)
    assert Circle().wrap(torch.tensor([-1e-20], dtype=torch.float64)).item() == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wrapping_numbers_next_to_whole_turns_gives_points_of_the_circle(dtype: torch.dtype) -> None:
    # their quotients by the period round to whole numbers, one above the right one for half of them
    turns = (2 * math.pi * torch.arange(-1000, 1001, dtype=torch.float64)).to(dtype)
    for x in (turns, turns.nextafter(turns - 1), turns.nextafter(turns + 1)):
        wrapped = Circle(2 * math.pi).wrap(x)
        assert bool(((wrapped >= 0) & (wrapped < 2 * math.pi)).all())


def test_difference_on_a_circle_is_the_shorter_way_around() -> None:
    a, b = torch.tensor([0.95, 0.1]), torch.tensor([0.05, 0.9])
    torch.testing.assert_close(Circle().difference(a, b), torch.tensor([-0.1, 0.2]))


def test_product_names_the_first_value_outside() -> None:
    product = Product((Column("phi", Circle()), Column("r", Interval()), Column("z", Line())))
    x = torch.tensor([[0.1, 0.5, 0.0], [0.2, 1.5, 0.0]])
    with pytest.raises(ManifoldError, match=r'row 1, column 1 \("r"\) is 1\.5'):
        product.require_inside(x, "The samples")


def test_column_names_are_unique() -> None:
    with pytest.raises(ManifoldError, match="more than once: phi"):
        Product.of(Circle(), ["phi", "phi"])


def test_columns_are_found_by_name() -> None:
    product = Product((Column("phi", Circle()), Column("psi", Circle()), Column("bond N-H", Line())))
    assert product.index("psi") == 1
    with pytest.raises(UnknownNameError, match=r'No column is called "psii"\. Did you mean "psi"'):
        product.index("psii")
