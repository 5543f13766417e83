"""For any parameters and points, transforms are increasing bijections of their manifold onto itself."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from smoothflow.core.manifolds import Circle, Interval, Line, Manifold
from smoothflow.core.plugins import registry
from smoothflow.core.transforms import Transform
from torch import Tensor

MANIFOLDS: tuple[Manifold, ...] = (Line(), Interval(), Circle())
TRANSFORMS = [
    registry().transform(name)(manifold)
    for name in registry().names("transform")
    for manifold in MANIFOLDS
    if type(manifold) in registry().transform(name).manifolds
]
PARAMETERS = st.floats(-10, 10)
"""Far beyond what conditioners give."""

ROUNDING = 1e-14
"""Of images in float64, some units in the last place of 1."""


@st.composite
def cases(draw: st.DrawFn) -> tuple[Transform, Tensor, Tensor]:
    """A transform, points in increasing order, and one vector of parameters for all of them."""
    transform = draw(st.sampled_from(TRANSFORMS))
    place = st.floats(-20, 20) if isinstance(transform.manifold, Line) else st.floats(0, 1, exclude_max=True)
    points = sorted(draw(st.lists(place, min_size=1, max_size=6)))
    params = draw(st.lists(PARAMETERS, min_size=transform.n_params, max_size=transform.n_params))
    x = torch.tensor(points, dtype=torch.float64)
    return transform, x, torch.tensor(params, dtype=torch.float64).expand(len(x), -1)


@given(cases())
def test_images_are_inside_and_in_order(case: tuple[Transform, Tensor, Tensor]) -> None:
    transform, x, params = case
    y, log_dydx = transform.forward(x, params)
    assert bool(transform.manifold.contains(y).all())
    assert bool(log_dydx.isfinite().all())
    steps = y.diff()
    if isinstance(transform.manifold, Circle):
        zero, _ = transform.forward(torch.zeros_like(x[:1]), params[:1])
        steps = Circle().wrap(torch.cat([zero, y, zero]).diff())
        steps = torch.where(steps > 1 - ROUNDING, steps - 1, steps)
        # once around, in order, from the image of 0 back to it
        assert float(steps.sum()) < 1.5
    assert bool((steps >= -ROUNDING * y.abs().max().clamp(min=1)).all())


@given(cases())
def test_the_inverse_undoes(case: tuple[Transform, Tensor, Tensor]) -> None:
    transform, y, params = case
    x, log_dxdy = transform.inverse(y, params)
    assert bool(transform.manifold.contains(x).all())
    back, log_dydx = transform.forward(x, params)
    # F changes by its slope times the rounding of x
    slope = log_dydx.exp()
    tolerance = 1e-13 * (y.abs().clamp(min=1) + slope * x.abs().clamp(min=1))
    assert bool((transform.manifold.difference(back, y).abs() <= tolerance).all())
    assert bool(log_dxdy.isfinite().all())
