"""Every built-in transform, by name, keeps every clause of the contract."""

import functools

import pytest
from smoothflow.backends.flows.bspline import BSplineTransform
from smoothflow.backends.flows.smooth import SmoothTransform
from smoothflow.core.errors import ManifoldError
from smoothflow.core.manifolds import Circle, Interval, Line
from smoothflow.core.plugins import registry
from smoothflow.testing import TRANSFORM_CLAUSES, check_transform

HOUSE = "smoothflow"
BUILT_IN = {
    "affine": {Circle, Line},
    "bernstein": {Interval},
    "bspline": {Circle, Interval},
    "cubic-conjugation": {Line},
    "cubic-rational": {Line},
    "moebius": {Circle},
    "moebius-mixture": {Circle},
    "sinh": {Line},
    "smooth": {Circle, Interval},
    "spline": {Circle, Interval},
}


def test_every_transform_of_the_house_is_held_to_the_contract() -> None:
    ours = {name for name in registry().names("transform") if registry().entry("transform", name).distribution == HOUSE}
    assert ours == set(BUILT_IN), "name it with its manifolds in BUILT_IN"


# compiling is most of the time
CLAUSES = [
    pytest.param(clause, marks=pytest.mark.slow) if clause == "compilation" else clause for clause in TRANSFORM_CLAUSES
]


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("name", BUILT_IN)
def test_the_contract_is_kept(name: str, clause: str) -> None:
    assert registry().transform(name).manifolds == BUILT_IN[name]
    check_transform(registry().transform(name), clauses=[clause])


@pytest.mark.parametrize(
    "clause", ["precision", "ends", "log-derivative", "round-trip", "second-gradients", "smoothness"]
)
@pytest.mark.parametrize(
    "factory",
    [
        functools.partial(SmoothTransform, beta=2),
        functools.partial(SmoothTransform, beta="trainable", n_components=3),
        functools.partial(SmoothTransform, n_components=1, identity_bounds=(0.5, 0.5)),
        functools.partial(BSplineTransform, degree=4, n_bins=6),
    ],
    ids=["beta = 2", "trainable beta", "one bump", "quartic"],
)
def test_the_contract_is_kept_with_other_options(factory: functools.partial[SmoothTransform], clause: str) -> None:
    check_transform(factory, clauses=[clause])


@pytest.mark.parametrize("name", BUILT_IN)
def test_other_manifolds_are_refused(name: str) -> None:
    transform = registry().transform(name)
    for kind in {Circle, Interval, Line} - BUILT_IN[name]:
        with pytest.raises(ManifoldError, match=f'Transform "{name}" cannot map the {kind.__name__.lower()}'):
            transform(kind())
    if Circle in BUILT_IN[name]:
        with pytest.raises(ManifoldError, match="unit manifolds"):
            transform(Circle(6.28))
