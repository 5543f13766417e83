"""Manifolds and their products."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from smoothflow.core.errors import ManifoldError, UnknownNameError
from smoothflow.core.manifolds import FULL_TURN, UNIT_MANIFOLDS, Circle, Column, Interval, Line, Manifold, Product


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


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from([1.0, 2 * math.pi]))
def test_a_difference_on_a_circle_leads_back(a: float, b: float, period: float) -> None:
    circle = Circle(period)
    first, second = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    delta = circle.difference(first, second)
    assert abs(delta.item()) <= period / 2 + 1e-12
    # rounding at 1e3, and of as many turns
    assert abs(circle.difference(second + delta, first).item()) < 1e-10


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_a_difference_elsewhere_is_that_of_numbers(a: float, b: float) -> None:
    first, second = (torch.tensor(x, dtype=torch.float64) for x in (a, b))
    assert Line().difference(first, second).item() == Interval(-5, 5).difference(first, second).item() == a - b


@pytest.mark.parametrize(
    ("manifold", "inside"),
    [(Interval(0.5, 1.0), [0.5, 0.7, 1.0]), (Circle(), [0.4, 0.7, 0.1]), (Line(), [0.4, 0.7, 1.1])],
)
def test_projection_leaves_derivatives_as_they_are(manifold: Manifold, inside: list[float]) -> None:
    x = torch.tensor([0.4, 0.7, 1.1], dtype=torch.float64, requires_grad=True)
    found = manifold.project(x)
    torch.testing.assert_close(found.detach(), torch.tensor(inside, dtype=torch.float64), rtol=0, atol=1e-15)
    (slope,) = torch.autograd.grad(found.sum(), x)
    assert slope.tolist() == [1, 1, 1]


def test_points_of_each_manifold() -> None:
    x = torch.tensor([-math.inf, -0.1, 0.0, 0.5, 1.0, 1.1, math.nan])
    inside = [False, False, True, True, True, False, False]
    assert Interval().contains(x).tolist() == inside
    finite = [False, True, True, True, True, True, False]
    assert Circle().contains(x).tolist() == Line().contains(x).tolist() == finite
    assert Interval(0.5, math.inf).contains(x).tolist() == [False, False, False, True, True, True, False]


def test_unit_manifolds_go_by_their_names() -> None:
    assert {"circle": Circle(1.0), "interval": Interval(0.0, 1.0), "line": Line()} == UNIT_MANIFOLDS
    assert [manifold.name for manifold in UNIT_MANIFOLDS.values()] == list(UNIT_MANIFOLDS)
    assert pytest.approx(math.tau) == FULL_TURN


def test_parts_of_a_product() -> None:
    product = Product((Column("phi", Circle()), Column("r", Interval()), Column("z", Line()), Column("psi", Circle())))
    assert len(product) == 4
    assert [column.name for column in product] == list(product.names) == ["phi", "r", "z", "psi"]
    assert [product.indices(kind) for kind in (Circle, Interval, Line)] == [[0, 3], [1], [2]]
    assert product.select([2, 0]).columns == (Column("z", Line()), Column("phi", Circle()))
    replaced = product.replace({1: Line(), 3: Interval()})
    assert replaced.names == product.names
    assert [column.manifold for column in replaced] == [Circle(), Line(), Line(), Interval()]
    assert Product.of(Line(), ["a", "b"]) == Product((Column("a", Line()), Column("b", Line())))


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, 2, 2)])
def test_vectors_of_another_shape_are_not_inside(shape: tuple[int, ...]) -> None:
    product = Product.of(Line(), ["a", "b"])
    product.require_inside(torch.zeros(2, 2), "The samples")
    product.require_inside(torch.zeros(0, 2), "The samples")
    with pytest.raises(ManifoldError, match=r"The samples must have shape \(batch, 2\), one column"):
        product.require_inside(torch.zeros(shape), "The samples")
