"""From settings to layers: which columns are transformed, given which, in which order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from smoothflow.core.architecture import FlowSettings, build_flow, transforms_for
from smoothflow.core.charts import Chart, ColumnChart, CumulativeNormal
from smoothflow.core.conditioners import MLPConditioner
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.flow import Flow
from smoothflow.core.layers import Coupling
from smoothflow.core.manifolds import FULL_TURN, Arc, Circle, Column, Interval, Line, Manifold, Product

COLUMNS = Product(
    (
        *(Column(f"l{i}", Line()) for i in range(3)),
        *(Column(f"c{i}", Circle()) for i in range(2)),
    )
)
LINES, CIRCLES = [0, 1, 2], [3, 4]


def plan(flow: Flow) -> list[tuple[list[int], list[int]]]:
    """The transformed and the conditioning columns of each coupling."""
    layers = [layer for layer in flow.layer.layers if isinstance(layer, Coupling)]
    return [(layer.grouped.tolist(), layer.conditioning.tolist()) for layer in layers]


def kinds(flow: Flow) -> list[str]:
    return [type(layer).__name__ for layer in flow.layer.layers]


def test_lines_first_then_intervals_then_circles() -> None:
    settings = FlowSettings(line_pairs=1, interval_pairs=2, circle_pairs=1, hidden=4, shear=False, tail_scale=2.5)
    flow = build_flow(settings, COLUMNS)
    assert kinds(flow) == [*2 * ["Coupling"], "CumulativeNormal", *6 * ["Coupling"]]
    (to_intervals,) = (layer for layer in flow.layer.layers if isinstance(layer, CumulativeNormal))
    assert to_intervals.width == 2.5
    # the even given the odd and the other way around; then halves by the next bit of the rank
    first = [([0, 2], [1, 3, 4]), ([1], [0, 2, 3, 4])]
    second = [([0, 1], [2, 3, 4]), ([2], [0, 1, 3, 4])]
    assert plan(flow) == [*first, *first, *second, ([3], [4]), ([4], [3])]
    assert [column.manifold for column in flow.layer.codomain] == 3 * [Interval()] + 2 * [Circle()]


def test_every_two_columns_are_apart_in_some_pair() -> None:
    lines = Product.of(Line(), [f"x{i}" for i in range(9)])
    flow = build_flow(FlowSettings(transforms={"line": "affine"}, line_pairs=4, interval_pairs=0, hidden=4), lines)
    halves = [set(transformed) for transformed, _ in plan(flow)]
    for i in range(9):
        for j in range(i):
            assert any((i in half) != (j in half) for half in halves)


def test_without_a_transform_of_intervals_lines_stay_lines() -> None:
    settings = FlowSettings(
        transforms={"circle": "smooth", "line": "affine"}, line_pairs=1, interval_pairs=2, hidden=4, shear=False
    )
    flow = build_flow(settings, COLUMNS)
    assert kinds(flow) == (6 + 6) * ["Coupling"]
    assert plan(flow)[:2] == [([0, 2], [1, 3, 4]), ([1], [0, 2, 3, 4])]
    assert flow.layer.codomain == COLUMNS


def test_circles_alone_need_no_map_to_intervals() -> None:
    flow = build_flow(FlowSettings(circle_pairs=1, hidden=4), COLUMNS.select(CIRCLES))
    assert kinds(flow) == ["Coupling", "Coupling"]
    # one column has no other half
    flow = build_flow(FlowSettings(circle_pairs=2, hidden=4), COLUMNS.select([3]))
    assert plan(flow) == [([0], []), ([0], [])]


def test_arcs_go_with_the_lines_and_then_with_the_intervals() -> None:
    domain = Product((*COLUMNS.columns[:2], Column("a0", Arc(20.0)), Column("a1", Arc(40.0)), *COLUMNS.columns[3:]))
    flow = build_flow(FlowSettings(line_pairs=1, interval_pairs=1, circle_pairs=1, hidden=4, shear=False), domain)
    assert kinds(flow) == [*2 * ["Coupling"], "CumulativeNormal", *4 * ["Coupling"]]
    outer = [([0, 2], [1, 3, 4, 5]), ([1, 3], [0, 2, 4, 5])]
    found = [(sorted(transformed), conditioning) for transformed, conditioning in plan(flow)]
    assert found == [*outer, *outer, ([4], [5]), ([5], [4])]
    assert [column.manifold for column in flow.layer.codomain] == [*2 * [Interval()], *2 * [Arc()], *2 * [Circle()]]


def test_arcs_of_an_affine_flow_end_on_the_circle() -> None:
    domain = Product((Column("l", Line()), Column("a", Arc(20.0)), Column("c", Circle())))
    settings = FlowSettings(
        transforms=transforms_for("affine"), line_pairs=1, interval_pairs=0, circle_pairs=1, hidden=4, shear=False
    )
    flow = build_flow(settings, domain)
    assert kinds(flow) == [*2 * ["Coupling"], "CumulativeNormal", "Coupling"]
    assert [column.manifold for column in flow.layer.codomain] == [Line(), Arc(), Circle()]


def test_a_chart_is_the_first_layer() -> None:
    domain = Product.of(Circle(FULL_TURN), ["phi", "psi"])
    chart = Chart(domain, [ColumnChart("circle", 0.0)] * 2)
    flow = build_flow(FlowSettings(circle_pairs=1, hidden=4), chart)
    assert flow.layer.layers[0] is chart
    assert flow.domain == domain
    assert plan(flow) == [([0], [1]), ([1], [0])]


def test_conditioners_are_as_large_as_asked_for() -> None:
    flow = build_flow(FlowSettings(circle_pairs=1, hidden=5, n_hidden_layers=3, n_harmonics=4), COLUMNS.select(CIRCLES))
    conditioner = flow.layer.layers[0].conditioner
    assert isinstance(conditioner, MLPConditioner)
    weights = [tuple(p.shape) for p in conditioner.parameters() if p.ndim == 2]
    assert weights[:-1] == [(5, 8), (5, 5), (5, 5)]
    transform = flow.layer.layers[0].groups[0].transform
    assert torch.equal(list(conditioner.parameters())[-1], transform.initial_params())


def test_random_numbers_outside_stay_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    build_flow(FlowSettings(circle_pairs=1, hidden=4), COLUMNS.select(CIRCLES))
    assert torch.equal(torch.rand(2), expected)


def test_defaults_are_those_of_the_files_that_do_not_name_them() -> None:
    assert FlowSettings() == FlowSettings(
        {"circle": "smooth", "interval": "smooth", "line": "affine"}, {}, 1, 3, 3, 96, 2, 3, 1.5, 0, "arc"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("affine", {"circle": "affine", "line": "affine"}),
        ("cubic-rational", {"circle": "affine", "line": "cubic-rational"}),
        ("moebius", {"circle": "moebius", "interval": "smooth", "line": "affine"}),
        ("bernstein", {"circle": "smooth", "interval": "bernstein", "line": "affine"}),
        ("spline", {"circle": "spline", "interval": "spline", "line": "affine"}),
    ],
)
def test_a_flow_named_after_one_transform(name: str, expected: dict[str, str]) -> None:
    assert transforms_for(name) == expected
    assert not FlowSettings(transforms=expected).cuts_circles


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"line_pairs": -1}, "line_pairs must be a whole number from 0 to 32; it is -1"),
        ({"interval_pairs": 33}, "interval_pairs must be a whole number from 0 to 32; it is 33"),
        ({"circle_pairs": -2}, "circle_pairs must be a whole number from 0 to 32; it is -2"),
        ({"hidden": 0}, "hidden must be a whole number from 1 to 65536; it is 0"),
        ({"n_hidden_layers": 0}, "n_hidden_layers must be a whole number from 1 to 8"),
        ({"n_harmonics": 0}, "n_harmonics must be a whole number from 1 to 1000"),
        ({"tail_scale": 0.0}, r"tail_scale must be positive and at most 1000; it is 0\.0"),
        ({"tail_scale": float("nan")}, "tail_scale must be positive and at most 1000; it is nan"),
        ({"options": {"smooth": {"n_components": 10**9}}}, "n_components of smooth must be at most 10000; it is 10000"),
    ],
)
def test_sizes_that_cannot_be_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        FlowSettings(**values)


def test_the_smallest_sizes_are_accepted() -> None:
    smallest = {"line_pairs": 0, "interval_pairs": 0, "circle_pairs": 0, "hidden": 1, "n_hidden_layers": 1}
    settings = FlowSettings(**smallest, n_harmonics=1, tail_scale=1e-3, shear=False)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a flow without a layer"):
        build_flow(settings, COLUMNS.select(CIRCLES))
    # the map of lines onto intervals is a layer, too
    assert kinds(build_flow(settings, COLUMNS)) == ["CumulativeNormal"]


def test_options_go_to_their_transform() -> None:
    settings = FlowSettings(options={"smooth": {"n_components": 3}})
    made = settings.make_transforms()
    assert made[Circle].n_params < FlowSettings().make_transforms()[Circle].n_params
    assert {kind: transform.name for kind, transform in made.items()} == {
        Circle: "smooth",
        Interval: "smooth",
        Line: "affine",
    }


def columns(**manifolds: Manifold) -> Product:
    return Product(tuple(Column(name, manifold) for name, manifold in manifolds.items()))


@pytest.mark.parametrize("manifold", [Interval(0.0, 2.0), Interval(-1.0, 1.0), Circle(FULL_TURN), Circle(0.5)])
def test_columns_that_need_a_chart_are_named(manifold: Manifold) -> None:
    with pytest.raises(ConfigurationError, match=r'"wide" on (Interval|Circle)\(.*; "wider" on .*pass a chart'):
        build_flow(FlowSettings(hidden=4), columns(fine=Circle(), wide=manifold, wider=manifold, line=Line()))


@pytest.mark.parametrize(
    ("domain", "transforms", "named"),
    [
        (columns(a=Line(), b=Circle(), c=Line()), {"circle": "smooth", "interval": "smooth"}, "the line.*: a, c"),
        (columns(a=Interval(), b=Circle()), {"circle": "smooth"}, "the interval.*: a"),
        (columns(a=Interval(), b=Circle()), {"interval": "smooth"}, "the circle.*: b"),
        (columns(a=Interval(), b=Line()), {"line": "affine"}, "the interval.*: a"),
        (columns(a=Circle(), b=Line()), {"line": "affine"}, "the circle.*: a"),
        (columns(a=Line()), {}, "the line.*: a"),
    ],
)
def test_columns_without_a_transform_are_named(domain: Product, transforms: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"No transform was chosen for {named}"):
        build_flow(FlowSettings(transforms=transforms, hidden=4), domain)


def test_a_chart_onto_columns_without_a_transform_is_refused_as_well() -> None:
    domain = Product.of(Circle(FULL_TURN), ["phi", "psi"])
    chart = Chart(domain, [ColumnChart("circle", 0.0)] * 2)
    with pytest.raises(ConfigurationError, match=r"the circle.*: phi, psi"):
        build_flow(FlowSettings(transforms={"interval": "smooth", "line": "affine"}, hidden=4), chart)


def test_lines_may_go_on_to_intervals_without_a_transform_of_their_own() -> None:
    settings = FlowSettings(transforms={"interval": "smooth"}, line_pairs=0, interval_pairs=1, hidden=4, shear=False)
    assert kinds(build_flow(settings, COLUMNS.select(LINES))) == ["CumulativeNormal", "Coupling", "Coupling"]
