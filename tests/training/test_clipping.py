"""Clipping of gradients: ordinary ones are left alone, and a single large one does not undo a training."""

from __future__ import annotations

import pytest
import torch
from smoothflow.training.clipping import LARGEST, Clipper
from torch import nn
from torch.nn.utils import get_total_norm


def clipped(clipper: Clipper, *gradients: torch.Tensor) -> list[torch.Tensor]:
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    clipper(parameters, get_total_norm(gradients))
    return [parameter.grad for parameter in parameters if parameter.grad is not None]


def test_gradients_of_usual_size_are_left_as_they_are() -> None:
    clipper = Clipper()
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        gradients = [torch.randn(40, generator=generator), torch.randn((3, 5), generator=generator)]
        for found, given in zip(clipped(clipper, *gradients), gradients, strict=True):
            torch.testing.assert_close(found, given, rtol=0, atol=0)


def test_a_gradient_far_larger_than_usual_keeps_its_direction_at_three_times_the_usual_norm() -> None:
    clipper = Clipper()
    for _ in range(10):
        clipped(clipper, torch.full((4,), 0.5))
    large = torch.tensor([3.0, 0.0, -4.0, 0.0]) * 1e5
    (found,) = clipped(clipper, large)
    # the norm is found in float32
    torch.testing.assert_close(found, LARGEST * large / large.norm(), rtol=1e-5, atol=0)


def test_gradients_that_have_become_larger_for_good_are_soon_usual() -> None:
    clipper = Clipper()
    clipped(clipper, torch.ones(1))
    n_clipped = 0
    for _ in range(200):
        (found,) = clipped(clipper, torch.full((1,), 100.0))
        n_clipped += int(float(found) < 99)
    # the average grows by the factor 1 + 0.02 (3 - 1) a step until it is a third: log(33) / log(1.04) steps
    assert n_clipped == pytest.approx(89, abs=2)


@pytest.mark.parametrize(("clips", "least", "most"), [(False, 20.0, 40.0), (True, 0.0, 4.0)])
def test_one_outlier_moves_a_weight_by_thirty_learning_rates_unless_it_is_clipped(
    clips: bool, least: float, most: float
) -> None:
    rate, clipper = 1e-3, Clipper()
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([weight], lr=rate)
    generator = torch.Generator().manual_seed(1)
    for step in range(2000):
        gradient = 0.1 * torch.randn(1, generator=generator)
        if step == 1000:
            before, gradient = float(weight.detach()), torch.full((1,), 1e6)
        weight.grad = gradient
        if clips:
            clipper([weight], get_total_norm([gradient]))
        optimizer.step()
        if step == 1050:
            moved = abs(float(weight.detach()) - before) / rate
    # of a single huge gradient: sum over k of 0.1 x 0.9^k / sqrt(0.001 x 0.999^k), 32 steps of full length
    assert least < moved < most
