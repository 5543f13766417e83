"""Losses against closed forms and finite differences."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from smoothflow.training.losses import damped, force_error, likelihood_and_forces, negative_log_likelihood
from torch import Tensor


@pytest.fixture
def positions() -> Tensor:
    return torch.randn((50, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_likelihood_and_forces_of_a_gaussian(gaussian: Any, positions: Tensor) -> None:
    density = gaussian(4, -0.3)
    nll, forces = likelihood_and_forces(density, positions)
    width = math.exp(-0.3)
    expected = (0.5 * (positions / width) ** 2).sum((-2, -1)) + 12 * (-0.3 + 0.5 * math.log(2 * math.pi))
    torch.testing.assert_close(nll, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(forces, -positions / width**2, rtol=1e-13, atol=0)
    torch.testing.assert_close(negative_log_likelihood(density, positions), nll, rtol=0, atol=0)


def test_force_error_is_the_mean_over_components() -> None:
    reference = torch.zeros(2, 5, 3, dtype=torch.float64)
    forces = reference.clone()
    forces[1, 2, 0] = 3.0
    torch.testing.assert_close(force_error(forces, reference), torch.tensor([0.0, 9 / 15], dtype=torch.float64))


def test_force_loss_is_differentiable_in_the_parameters(gaussian: Any, positions: Tensor) -> None:
    reference = torch.ones_like(positions)

    def loss(log_width: float) -> tuple[Any, Tensor]:
        density = gaussian(4, log_width)
        _, forces = likelihood_and_forces(density, positions)
        return density, damped(force_error(forces, reference), 0.5).mean()

    density, value = loss(0.2)
    value.backward()
    h = 1e-5
    slope = (loss(0.2 + h)[1] - loss(0.2 - h)[1]) / (2 * h)
    assert density.log_width.grad is not None
    # central differences: h^2 third derivative, and rounding / h
    torch.testing.assert_close(density.log_width.grad, slope.detach(), rtol=1e-8, atol=1e-8)


def test_forces_without_a_graph_for_evaluation(gaussian: Any, positions: Tensor) -> None:
    _, forces = likelihood_and_forces(gaussian(4, 0.0), positions, create_graph=False)
    assert not forces.requires_grad
    torch.testing.assert_close(forces, -positions, rtol=0, atol=1e-14)


def test_damping_keeps_small_errors_and_tames_large_ones() -> None:
    error = torch.tensor([0.0, 1e-3, 1e8], dtype=torch.float64)
    # s log(1 + L/s) = L - L^2 / 2s + ...
    torch.testing.assert_close(
        damped(error, 1e3),
        torch.tensor([0.0, 1e-3 - 5e-10, 1e3 * math.log(1 + 1e5)], dtype=torch.float64),
        rtol=1e-12,
        atol=0,
    )
