"""What every transform inherits: what it refuses, and its inverse where it gives none."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.core.errors import ManifoldError
from smoothflow.core.manifolds import Circle, Interval, Line
from smoothflow.core.transforms import Transform
from torch import Tensor


class Sinh(Transform):
    """y = sinh(exp(p_0) x) + p_1."""

    name = "sinh-shift"
    manifolds = frozenset({Line, Circle})
    smoothness = math.inf

    @property
    def n_params(self) -> int:
        return 2

    def forward(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        log_rate, shift = params.unbind(-1)
        scaled = log_rate.exp() * x
        return torch.sinh(scaled) + shift, log_rate + torch.log(torch.cosh(scaled))


def test_the_inverse_is_found_numerically() -> None:
    generator = torch.Generator().manual_seed(0)
    y = 10 * torch.randn(100, generator=generator, dtype=torch.float64)
    params = torch.randn((100, 2), generator=generator, dtype=torch.float64)
    x, log_dxdy = Sinh(Line()).inverse(y, params)
    expected = torch.asinh(y - params[:, 1]) * (-params[:, 0]).exp()
    torch.testing.assert_close(x, expected, rtol=1e-13, atol=1e-15)
    slope = -params[:, 0] - 0.5 * torch.log1p((y - params[:, 1]) ** 2)
    torch.testing.assert_close(log_dxdy, slope, rtol=0, atol=1e-13)


def test_training_starts_from_zeros() -> None:
    assert Sinh(Line()).initial_params().tolist() == [0, 0]


def test_other_manifolds_are_refused() -> None:
    assert Sinh(Circle()).manifold == Circle()
    with pytest.raises(ManifoldError, match=r'"sinh-shift" cannot map the interval; it maps: circle, line\.'):
        Sinh(Interval())
    with pytest.raises(ManifoldError, match=r"unit manifolds, not on Circle\(period=2\.0\)"):
        Sinh(Circle(2.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [(), (3,), (1,)])
def test_parameters_may_broadcast(dtype: torch.dtype, batch: tuple[int, ...]) -> None:
    x = torch.zeros(batch, dtype=dtype)
    Sinh(Line()).require_valid(x, torch.zeros((*batch, 2), dtype=dtype))
    Sinh(Line()).require_valid(x, torch.zeros((*[1] * len(batch), 2), dtype=dtype))


@pytest.mark.parametrize(
    ("x", "params", "message"),
    [
        (torch.zeros(3), torch.zeros(3, 2).double(), r"got torch\.float32 and torch\.float64"),
        (torch.zeros(3).half(), torch.zeros(3, 2).half(), r"works in float32 or float64.*got torch\.float16"),
        (torch.zeros(3), torch.zeros(3, 1), r"takes 2 parameters per element.*\(3,\) .* shape \(3, 1\)"),
        (torch.zeros(3), torch.zeros(2), r"parameters of shape \(2,\)"),
        (torch.zeros(()), torch.zeros(3, 2), r"values of shape \(\)"),
    ],
)
def test_other_dtypes_and_shapes_are_refused(x: Tensor, params: Tensor, message: str) -> None:
    with pytest.raises(ManifoldError, match=message):
        Sinh(Line()).require_valid(x, params)
