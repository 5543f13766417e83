"""Every registered transform, element by element, beside the splines of zuko; float64, random parameters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import pytest
import torch
from contenders import BINS
from measuring import Measure
from smoothflow.core.manifolds import UNIT_MANIFOLDS
from smoothflow.core.plugins import registry
from torch import Tensor
from zuko.flows.spline import CircularRQSTransform
from zuko.transforms import MonotonicRQSTransform

N_ELEMENTS = 20_000
Direction = Literal["forward", "inverse"]
DIRECTIONS: tuple[Direction, ...] = ("forward", "inverse")

CASES = [
    (name, manifold)
    for name in registry().names("transform")
    for manifold, kind in UNIT_MANIFOLDS.items()
    if type(kind) in registry().transform(name).manifolds
]


def group(manifold: str, direction: Direction) -> str:
    return f"{manifold}, {direction}, {N_ELEMENTS} elements"


def values(shape: tuple[int, ...] = (N_ELEMENTS,)) -> Tensor:
    """Uniform on the unit interval."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def parameters(n_params: int) -> Tensor:
    """Standard normal."""
    return torch.randn(N_ELEMENTS, n_params, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("name", "manifold"), CASES)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_transform(measure: Measure, name: str, manifold: str, direction: Direction) -> None:
    transform = registry().transform(name)(UNIT_MANIFOLDS[manifold])
    x = values()
    if manifold == "line":
        x = torch.special.ndtri(x)
    call = partial(getattr(transform, direction), x, parameters(transform.n_params))
    measure(call, group(manifold, direction), name, parameters=transform.n_params)


def zuko_call(kind: Callable[..., object], direction: Direction) -> Callable[[], object]:
    """Image and log-derivative by zuko, on its interval [-5, 5] or circle [-pi, pi]."""
    widths, heights, slopes = torch.split(parameters(3 * BINS - 1), [BINS, BINS, BINS - 1], dim=-1)
    half = torch.pi if kind is CircularRQSTransform else 5.0
    x = half * (2 * values() - 1)

    def call() -> object:
        transform = kind(widths, heights, slopes)
        return (transform if direction == "forward" else transform.inv).call_and_ladj(x)  # type: ignore[attr-defined]

    return call


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    ("manifold", "contender", "kind"),
    [
        ("interval", "zuko spline", MonotonicRQSTransform),
        ("circle", "zuko circular spline", CircularRQSTransform),
        ("line", "zuko spline", MonotonicRQSTransform),
    ],
)
def test_zuko(
    measure: Measure, manifold: str, contender: str, kind: Callable[..., object], direction: Direction
) -> None:
    measure(zuko_call(kind, direction), group(manifold, direction), contender, yardstick=True)
