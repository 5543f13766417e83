"""Losses against closed forms and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.core.potential import Potential
from smoothflow.training.losses import (
    damped,
    force_error,
    likelihood_and_forces,
    negative_log_likelihood,
    regularized,
    reverse_kl,
)
from torch import Tensor, nn


class Gaussian(nn.Module):
    """Independent normal distributions of all components, with one trainable log-width: everything in closed form."""

    def __init__(self, n_atoms: int, log_width: float) -> None:
        super().__init__()
        self.n_atoms = n_atoms
        self.log_width = nn.Parameter(torch.tensor(log_width, dtype=torch.float64))

    def log_prob(self, positions: Tensor) -> Tensor:
        scaled = positions / self.log_width.exp()
        return (-0.5 * scaled**2 - self.log_width - 0.5 * math.log(2 * math.pi)).sum(dim=(-2, -1))

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn((n_samples, self.n_atoms, 3), generator=generator, dtype=torch.float64)
        positions = noise * self.log_width.exp()
        return positions, self.log_prob(positions)


class Springs(Potential):
    """Harmonic springs of stiffness k to the origin, kJ/mol/nm^2."""

    def __init__(self, n_atoms: int, stiffness: float) -> None:
        super().__init__()
        self.shape = (n_atoms, 3)
        self.stiffness = stiffness

    def energy(self, positions: Tensor) -> Tensor:
        assert positions.dtype == torch.float64
        return 0.5 * self.stiffness * positions.square().sum(dim=(-2, -1))


@pytest.fixture
def positions() -> Tensor:
    return torch.randn((50, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_likelihood_and_forces_of_a_gaussian(positions: Tensor) -> None:
    density = Gaussian(4, -0.3)
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


def test_force_loss_is_differentiable_in_the_parameters(positions: Tensor) -> None:
    reference = torch.ones_like(positions)

    def loss(log_width: float) -> tuple[Gaussian, Tensor]:
        density = Gaussian(4, log_width)
        _, forces = likelihood_and_forces(density, positions)
        return density, damped(force_error(forces, reference), 0.5).mean()

    density, value = loss(0.2)
    value.backward()
    h = 1e-5
    slope = (loss(0.2 + h)[1] - loss(0.2 - h)[1]) / (2 * h)
    assert density.log_width.grad is not None
    # central differences: h^2 third derivative, and rounding / h
    torch.testing.assert_close(density.log_width.grad, slope.detach(), rtol=1e-8, atol=1e-8)


def test_forces_without_a_graph_for_evaluation(positions: Tensor) -> None:
    _, forces = likelihood_and_forces(Gaussian(4, 0.0), positions, create_graph=False)
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


def test_regularization_is_smooth_at_the_threshold() -> None:
    energy = torch.tensor([9.0, 10.0, 10.0 + 1e-9, 1e300, math.inf], dtype=torch.float64, requires_grad=True)
    image = regularized(energy, 10.0)
    torch.testing.assert_close(image[:3].detach(), energy[:3].detach(), rtol=0, atol=1e-12)
    assert float(image[3].detach()) == pytest.approx(10 + 300 * math.log(10))
    (slope,) = torch.autograd.grad(image[:4].sum(), energy)
    torch.testing.assert_close(slope[:3], torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-8)
    assert float(slope[3]) == pytest.approx(0.0, abs=1e-299)


def test_reverse_kl_of_a_gaussian() -> None:
    kT, stiffness, log_width = 2.5, 4.0, -0.4
    density = Gaussian(2, log_width)
    terms = reverse_kl(density, Springs(2, stiffness), kT, 40_000, 1e6, torch.Generator().manual_seed(1))
    terms.mean().backward()
    variance = math.exp(2 * log_width)
    # <k x^2 / 2 kT> - entropy, per component, times 6
    expected = 6 * (0.5 * stiffness * variance / kT - log_width - 0.5 * math.log(2 * math.pi * math.e))
    error = float(terms.detach().std()) / math.sqrt(len(terms))
    assert float(terms.mean().detach()) == pytest.approx(expected, abs=5 * error)
    assert density.log_width.grad is not None
    # 5 standard errors of <k x^2 / kT> over 6 components
    slope = 6 * (stiffness * variance / kT - 1)
    spread = 5 * math.sqrt(6 * 2 / 40_000) * stiffness * variance / kT
    assert float(density.log_width.grad) == pytest.approx(slope, abs=spread)
