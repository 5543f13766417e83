"""Losses on samples against closed forms: a Gaussian flow and a harmonic force field."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from closed_forms import HarmonicWell
from smoothflow.training.config import AnnealingSettings
from smoothflow.training.sample_losses import Target, alpha_two, regularized, reverse_kl
from torch import Tensor

N_ATOMS = 2
MASSES = torch.tensor([1.0, 12.0], dtype=torch.float64)
kT = 2.5
STIFFNESS = 4.0
EQUAL = 0.5 * math.log(kT / STIFFNESS)
"""The logarithm of the width at which the flow is the force field's distribution."""


def target() -> Target:
    return Target(HarmonicWell(N_ATOMS, STIFFNESS), kT, 1e6)


def divergence_and_slope(log_width: float) -> tuple[float, float]:
    """D_2 of six independent components, and its derivative with respect to log_width: s^2 / sqrt(2 s^2 - 1) each."""
    square = math.exp(2 * (log_width - EQUAL))
    return 6 * (math.log(square) - 0.5 * math.log(2 * square - 1)), 6 * (2 - 2 * square / (2 * square - 1))


def test_regularization_is_smooth_at_the_threshold() -> None:
    energy = torch.tensor([9.0, 10.0, 10.0 + 1e-9, 1e300, math.inf], dtype=torch.float64, requires_grad=True)
    image = regularized(energy, 10.0)
    torch.testing.assert_close(image[:3].detach(), energy[:3].detach(), rtol=0, atol=1e-12)
    assert float(image[3].detach()) == pytest.approx(10 + 300 * math.log(10))
    (slope,) = torch.autograd.grad(image[:4].sum(), energy)
    torch.testing.assert_close(slope[:3], torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-8)
    assert float(slope[3]) == pytest.approx(0.0, abs=1e-299)


@pytest.mark.parametrize("path_gradient", [False, True])
def test_reverse_kl_of_a_gaussian(gaussian: Any, path_gradient: bool) -> None:
    log_width = -0.4
    density = gaussian(N_ATOMS, log_width)
    reference = target()
    terms = reverse_kl(density, reference, 40_000, torch.Generator().manual_seed(1), path_gradient)
    terms.mean().backward()
    variance = math.exp(2 * log_width)
    # <k x^2 / 2 kT> - entropy, per component, times 6
    expected = 6 * (0.5 * STIFFNESS * variance / kT - log_width - 0.5 * math.log(2 * math.pi * math.e))
    error = float(terms.detach().std()) / math.sqrt(len(terms))
    assert float(terms.mean().detach()) == pytest.approx(expected, abs=5 * error)
    slope = 6 * (STIFFNESS * variance / kT - 1)
    # 5 standard errors of the mean of (k x^2 / kT, without or with - x^2 / s^2) over 6 components
    factor = STIFFNESS * variance / kT - (1 if path_gradient else 0)
    spread = 5 * math.sqrt(6 * 2 / 40_000) * abs(factor)
    assert float(density.log_width.grad) == pytest.approx(slope, abs=spread)
    assert reference.n_evaluations == 40_000
    assert density.log_width.requires_grad


def test_path_gradient_has_no_noise_at_the_target(gaussian: Any) -> None:
    noise = {}
    for path_gradient in (False, True):
        density = gaussian(N_ATOMS, EQUAL)
        terms = reverse_kl(density, target(), 100, torch.Generator().manual_seed(2), path_gradient)
        terms.mean().backward()
        noise[path_gradient] = abs(float(density.log_width.grad))
    assert noise[True] < 1e-12 < 0.01 < noise[False]


@pytest.mark.parametrize("n_intermediate", [0, 1, 3])
def test_alpha_two_of_a_gaussian(gaussian: Any, n_intermediate: int) -> None:
    log_width = EQUAL + 0.2
    expected, slope = divergence_and_slope(log_width)
    annealing = AnnealingSettings(n_intermediate=n_intermediate, n_leapfrog=3, timestep=0.3)
    values, slopes = [], []
    reference = target()
    for seed in range(20):
        density = gaussian(N_ATOMS, log_width)
        terms = alpha_two(density, reference, MASSES, 4000, torch.Generator().manual_seed(seed), annealing)
        terms.mean().backward()
        values.append(float(terms.mean().detach()))
        slopes.append(float(density.log_width.grad))
    for found, exact in ((torch.tensor(values), expected), (torch.tensor(slopes), slope)):
        error = float(found.std()) / math.sqrt(len(found))
        # five standard errors; the bias of self-normalized weights is smaller by the root of the number of samples
        assert abs(float(found.mean()) - exact) < 5 * error < 0.1 * exact
    # one for each sample, and for each transition one at its start and one after each step
    assert reference.n_evaluations == 20 * 4000 * (1 + n_intermediate * 4)
    assert density.log_width.requires_grad


def test_transitions_bring_samples_to_where_weights_are(gaussian: Any) -> None:
    """Too narrow a flow: the exact slope is far from what its own samples show, and transitions come closer."""
    log_width = EQUAL - 0.25
    slopes = {}
    for n_intermediate in (0, 8):
        density = gaussian(N_ATOMS, log_width)
        annealing = AnnealingSettings(n_intermediate=n_intermediate, n_leapfrog=4, timestep=0.4)
        alpha_two(density, target(), MASSES, 2000, torch.Generator().manual_seed(3), annealing).mean().backward()
        slopes[n_intermediate] = float(density.log_width.grad)
    _, slope = divergence_and_slope(log_width)
    assert abs(slopes[8] - slope) < 0.5 * abs(slopes[0] - slope)


def test_steps_into_overlap_are_refused(gaussian: Any) -> None:
    class Wall(HarmonicWell):
        """Nothing is finite at negative x of the first atom."""

        def energy(self, positions: Tensor) -> Tensor:
            return torch.where(positions[:, 0, 0] > 0, super().energy(positions), math.inf)

    density = gaussian(N_ATOMS, EQUAL)
    annealing = AnnealingSettings(n_intermediate=2, n_leapfrog=3, timestep=0.5)
    walled = Target(Wall(N_ATOMS, STIFFNESS), kT, 1e6)
    terms = alpha_two(density, walled, MASSES, 2000, torch.Generator().manual_seed(4), annealing)
    # half of the space is lost: p is twice the flow there, and D_2 = log 2
    assert float(terms.mean().detach()) == pytest.approx(math.log(2), abs=0.05)
    assert bool(terms.isfinite().all())
