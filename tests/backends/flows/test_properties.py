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

ROUNDING = 64
"""Of images, in units of the last place of 1; slopes of at most a thousand multiply that of knots."""


@st.composite
def cases(draw: st.DrawFn) -> tuple[Transform, Tensor, Tensor]:
    """A transform, points in increasing order, and one vector of parameters for all of them."""
    transform = draw(st.sampled_from(TRANSFORMS))
    width = draw(st.sampled_from((32, 64)))
    is_line = isinstance(transform.manifold, Line)
    place = st.floats(-20, 20, width=width) if is_line else st.floats(0, 1, exclude_max=True, width=width)
    points = sorted(draw(st.lists(place, min_size=1, max_size=6)))
    params = draw(st.lists(PARAMETERS, min_size=transform.n_params, max_size=transform.n_params))
    x = torch.tensor(points, dtype=torch.float32 if width == 32 else torch.float64)
    return transform, x, torch.tensor(params, dtype=x.dtype).expand(len(x), -1)


@given(cases())
def test_images_are_inside_and_in_order(case: tuple[Transform, Tensor, Tensor]) -> None:
    transform, x, params = case
    y, log_dydx = transform.forward(x, params)
    rounding = ROUNDING * torch.finfo(x.dtype).eps
    if isinstance(transform.manifold, Interval):
        assert bool(((y >= -rounding) & (y <= 1 + rounding)).all())
    else:
        assert bool(transform.manifold.contains(y).all())
    assert bool(log_dydx.isfinite().all())
    steps = y.diff()
    if isinstance(transform.manifold, Circle):
        zero, _ = transform.forward(torch.zeros_like(x[:1]), params[:1])
        steps = Circle().wrap(torch.cat([zero, y, zero]).diff())
        steps = torch.where(steps > 1 - rounding, steps - 1, steps)
        # once around, in order, from the image of 0 back to it
        assert float(steps.sum()) < 1.5
    assert bool((steps >= -rounding * y.abs().max().clamp(min=1)).all())


@given(cases())
def test_the_inverse_undoes(case: tuple[Transform, Tensor, Tensor]) -> None:
    transform, y, params = case
    x, log_dxdy = transform.inverse(y, params)
    # what comes next would have no preimage of anything else
    assert bool(transform.manifold.contains(x).all())
    assert bool(log_dxdy.isfinite().all())
    back, log_dydx = transform.forward(x, params)
    # F changes by its slope times the rounding of x
    rounding = 8 * ROUNDING * torch.finfo(x.dtype).eps
    tolerance = rounding * (y.abs().clamp(min=1) + log_dydx.exp() * x.abs().clamp(min=1))
    assert bool((transform.manifold.difference(back, y).abs() <= tolerance).all())
