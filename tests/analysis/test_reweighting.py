"""Reweighting against closed forms: Gaussian targets and proposals, and weights counted by hand."""

import math

import pytest
import torch
from smoothflow.analysis.reweighting import (
    clipped_ess_fraction,
    ess_fraction,
    free_energy_difference,
    log_z,
    log_z_bar,
    metropolis_chain,
    weighted_mean,
)
from smoothflow.core.errors import ConfigurationError

WIDTH = 0.8
LOG_Z = math.log(WIDTH * math.sqrt(2 * math.pi)) + 3.0
SHIFT = 0.3


def target_log_weights(x: torch.Tensor) -> torch.Tensor:
    """Log-weights of a Gaussian of width `WIDTH` about `SHIFT`, log Z = `LOG_Z`, over the standard normal."""
    u = (x - SHIFT) ** 2 / (2 * WIDTH**2) - 3.0
    return -u + 0.5 * x**2 + 0.5 * math.log(2 * math.pi)


def normal(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_ess_of_weights_counted_by_hand() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    # (1 + 2 + 3)^2 / (4 * (1 + 4 + 9)) = 36 / 56; shifting all log-weights changes nothing
    assert ess_fraction(weights.log()).value == pytest.approx(36 / 56, rel=1e-14)
    assert ess_fraction(weights.log() - 1e4).value == pytest.approx(36 / 56, rel=1e-10)  # spacing of doubles at 1e4
    assert ess_fraction(torch.zeros(7)).value == 1


def test_ess_of_gaussians() -> None:
    # for N(m, s^2) over N(0, 1): E[w^2] = exp(m^2 / (2 - s^2)) / (s sqrt(2 - s^2))
    second_moment = math.exp(SHIFT**2 / (2 - WIDTH**2)) / (WIDTH * math.sqrt(2 - WIDTH**2))
    found = ess_fraction(target_log_weights(normal(200_000, 1)))
    assert abs(found.value - 1 / second_moment) < 4 * found.error  # four standard errors
    assert 0 < found.error < 0.01


def test_errors_are_those_of_repeated_draws() -> None:
    log_weights = target_log_weights(normal(400_000, 2)).reshape(400, 1000)
    for estimator in (ess_fraction, log_z, lambda w: weighted_mean(w, w)):
        found = [estimator(row) for row in log_weights]
        spread = torch.tensor([e.value for e in found]).std().item()
        claimed = torch.tensor([e.error for e in found]).mean().item()
        # the standard deviation of 400 values is known to 3.5 %; the delta method is of first order in 1/1000
        assert claimed == pytest.approx(spread, rel=0.2)


def test_clipping_only_raises_the_efficiency_and_keeps_its_hands_off_equal_weights() -> None:
    log_weights = target_log_weights(normal(5000, 3))
    log_weights[17] += 20.0
    raw, clipped = ess_fraction(log_weights), clipped_ess_fraction(log_weights)
    assert raw.value < 1e-3
    assert clipped.value > 0.5
    assert clipped_ess_fraction(torch.zeros(50)).value == 1


def test_log_z_of_a_gaussian() -> None:
    found = log_z(target_log_weights(normal(100_000, 4)))
    assert abs(found.value - LOG_Z) < 4 * found.error
    assert found.error < 0.005


def test_log_z_of_a_gaussian_by_bennett() -> None:
    draws, frames = normal(20_000, 5), SHIFT + WIDTH * normal(10_000, 6)
    found = log_z_bar(target_log_weights(draws), target_log_weights(frames))
    assert abs(found.value - LOG_Z) < 4 * found.error
    # both sides together know more than one alone
    assert found.error < log_z(target_log_weights(draws)).error
    # log Z moves with the zero of energy, to rounding of the bisection
    moved = log_z_bar(target_log_weights(draws) + 50, target_log_weights(frames) + 50)
    assert moved.value == pytest.approx(found.value + 50, abs=1e-11)


def test_bennett_error_is_that_of_repeated_draws() -> None:
    draws = target_log_weights(normal(200_000, 7)).reshape(400, 500)
    frames = target_log_weights(SHIFT + WIDTH * normal(80_000, 8)).reshape(400, 200)
    found = [log_z_bar(a, b) for a, b in zip(draws, frames, strict=True)]
    spread = torch.tensor([e.value for e in found]).std().item()
    claimed = torch.tensor([e.error for e in found]).mean().item()
    assert claimed == pytest.approx(spread, rel=0.2)  # as above


def test_perfect_sampler_leaves_no_error() -> None:
    ones = torch.full((30,), 2.5, dtype=torch.float64)
    assert log_z_bar(ones, ones[:10]).value == pytest.approx(2.5, abs=1e-14)
    assert log_z_bar(ones, ones[:10]).error == 0
    assert log_z(ones).error == 0


def test_weighted_mean_and_free_energy_of_gaussians() -> None:
    x = normal(100_000, 9)
    log_weights = target_log_weights(x)
    mean = weighted_mean(x, log_weights)
    assert abs(mean.value - SHIFT) < 4 * mean.error
    found = free_energy_difference(x > 0, x <= 0, log_weights)
    right = 0.5 * math.erfc(-SHIFT / WIDTH / math.sqrt(2))
    assert abs(found.value + math.log(right / (1 - right))) < 4 * found.error
    assert free_energy_difference(x > 100, x <= 0, log_weights).value == math.inf


def test_draws_of_weight_zero_do_not_count() -> None:
    values = torch.tensor([1.0, math.inf, 3.0])
    log_weights = torch.tensor([0.0, -math.inf, 0.0])
    assert weighted_mean(values, log_weights).value == 2


def test_metropolis_chain_samples_the_target() -> None:
    x = normal(100_000, 10)
    chain = metropolis_chain(target_log_weights(x), torch.Generator().manual_seed(0))
    visited = x[chain]
    # 100,000 steps, more than half accepted: about 50,000 independent values of spread 0.8, so 4 errors are 0.015
    assert visited.mean().item() == pytest.approx(SHIFT, abs=0.015)
    assert visited.std().item() == pytest.approx(WIDTH, abs=0.015)


@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        ([0.0, math.nan], "Log-weight 1 is nan"),
        ([-math.inf, -math.inf], "Every weight is zero"),
        ([0.0], "at least two draws"),
    ],
)
def test_unusable_weights_are_refused(log_weights: list[float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ess_fraction(torch.tensor(log_weights))


def test_impossible_frames_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="1 of 3 draws of the target"):
        log_z_bar(torch.zeros(5), torch.tensor([0.0, -math.inf, 0.0]))
