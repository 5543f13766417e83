"""Reweighting against closed forms: Gaussian targets and proposals, and weights counted by hand."""

import math

import pytest
import torch
from smoothflow.analysis.correlation import blocks_of
from smoothflow.analysis.estimates import Blocks
from smoothflow.analysis.reweighting import (
    bennett,
    clipped_ess_fraction,
    entropy,
    ess_fraction,
    free_energy_difference,
    log_z,
    metropolis_chain,
    systematic_resample,
    weight_tail,
    weighted_fraction,
    weighted_mean,
    weighted_variance,
)
from smoothflow.core.errors import ConfigurationError

WIDTH = 0.8
LOG_Z = math.log(WIDTH * math.sqrt(2 * math.pi)) + 3.0
SHIFT = 0.3


def target_log_weights(x: torch.Tensor) -> torch.Tensor:
    """Log-weights of a Gaussian of width `WIDTH` about `SHIFT`, log Z = `LOG_Z`, over the standard normal."""
    u = (x - SHIFT) ** 2 / (2 * WIDTH**2) - 3.0
    return -u + 0.5 * x**2 + 0.5 * math.log(2 * math.pi)


def blocks(series: torch.Tensor) -> Blocks:
    """Of one series in order of time."""
    return blocks_of([series.numpy().astype(complex)])


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


def test_clipping_raises_the_efficiency_and_leaves_equal_weights_alone() -> None:
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
    found = bennett(target_log_weights(draws), target_log_weights(frames), blocks(frames)).log_z
    assert abs(found.value - LOG_Z) < 4 * found.error
    # both sides together know more than one alone
    assert found.error < log_z(target_log_weights(draws)).error
    # log Z moves with the zero of energy, to rounding of the bisection
    moved = bennett(target_log_weights(draws) + 50, target_log_weights(frames) + 50, blocks(frames)).log_z
    assert moved.value == pytest.approx(found.value + 50, abs=1e-11)


@pytest.mark.parametrize(("n", "m"), [(500, 200), (100, 4000), (4000, 100)])
def test_bennett_error_is_that_of_repeated_draws(n: int, m: int) -> None:
    # with many of one kind the error is that of the other, so that neither half can be missing
    draws = target_log_weights(normal(400 * n, 7)).reshape(400, n)
    frames = target_log_weights(SHIFT + WIDTH * normal(400 * m, 8)).reshape(400, m)
    found = [bennett(a, b, Blocks(torch.arange(m) % 40, float(m))).log_z for a, b in zip(draws, frames, strict=True)]
    spread = torch.tensor([e.value for e in found]).std().item()
    claimed = torch.tensor([e.error for e in found]).mean().item()
    assert claimed == pytest.approx(spread, rel=0.2)  # as above


def test_perfect_sampler_leaves_no_error() -> None:
    ones = torch.full((30,), 2.5, dtype=torch.float64)
    found = bennett(ones, ones[:10], Blocks(torch.arange(10), 10.0)).log_z
    assert found.value == pytest.approx(2.5, abs=1e-14)
    assert found.error == 0
    assert log_z(ones).error == 0


def test_weighted_mean_and_free_energy_of_gaussians() -> None:
    x = normal(100_000, 9)
    log_weights = target_log_weights(x)
    mean = weighted_mean(x, log_weights)
    assert abs(mean.value - SHIFT) < 4 * mean.error
    found = free_energy_difference(x > 0, x <= 0, log_weights)
    right = 0.5 * math.erfc(-SHIFT / WIDTH / math.sqrt(2))
    assert abs(found.value + math.log(right / (1 - right))) < 4 * found.error
    nothing = free_energy_difference(x > 100, x <= 0, log_weights)
    assert math.isnan(nothing.value)
    assert nothing.reason == "no configuration is in one of the regions"


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
        bennett(torch.zeros(5), torch.tensor([0.0, -math.inf, 0.0]), Blocks(torch.arange(3), 3.0))


def test_ess_error_is_that_of_independent_repetitions() -> None:
    # narrow weights: the delta method is exact to first order, and 800 repetitions know a spread to 2.5 %
    log_weights = 0.3 * normal(800_000, 11).reshape(800, 1000)
    found = [ess_fraction(row) for row in log_weights]
    # of 1000 draws the tail is known to 0.17: a few look heavier than they are
    found = [e for e in found if e.reliable]
    assert len(found) > 700
    spread = torch.tensor([e.value for e in found]).std().item()
    claimed = torch.tensor([e.error for e in found]).mean().item()
    assert claimed == pytest.approx(spread, rel=0.1)
    # Kish's fraction of log-normal weights
    truth = math.exp(-(0.3**2))
    # above the upper end, which is two errors away, in 2 of 100; the lower end is further down, as if the tail went on
    assert 0.002 < sum(truth > e.bounds()[1] for e in found) / len(found) < 0.04
    assert sum(truth < e.value - 2 * e.error for e in found) > sum(truth < e.bounds()[0] for e in found)


def test_ess_interval_covers_weights_that_the_draws_lack() -> None:
    # one draw in some thousand has a weight of its own, in half of the sets none: the rest looks like a perfect sampler
    rare = (torch.rand(400, 1000, generator=torch.Generator().manual_seed(4)) < 0.7e-3).double()
    log_weights = 0.2 * normal(400_000, 5).reshape(400, 1000) + rare * math.log(3.0)
    share = 0.7e-3
    mean, square = 1 + 2 * share, (1 + 8 * share) * math.exp(0.2**2)
    truth = mean**2 / square
    found = [ess_fraction(row) for row in log_weights]
    lucky = [e for e, r in zip(found, rare, strict=True) if e.reliable and not bool(r.any())]
    assert len(lucky) > 100
    held = [low <= truth <= high for low, high in (e.bounds() for e in lucky)]
    by_error = [abs(e.value - truth) <= 2 * e.error for e in lucky]
    assert sum(by_error) < 0.75 * len(lucky)
    assert sum(held) > 0.9 * len(lucky)


def test_ess_of_heavy_weights_has_no_error() -> None:
    # a sampler of 0.6 times the width of its target: the variance of the weights is infinite
    x = normal(10_000, 12)
    found = ess_fraction(0.5 * x**2 * (1 - 0.6**2))
    assert not found.reliable
    assert math.isnan(found.error)


def test_draws_of_both_without_overlap_give_no_number() -> None:
    # 15 widths apart
    far = Blocks(torch.arange(1000) % 40, 1000.0)
    x, y = normal(1000, 13), 15 + normal(1000, 14)
    found = bennett(15 * x - 112.5, 15 * y - 112.5, far)
    assert math.isnan(found.log_z.value)
    assert math.isnan(found.log_z.error)
    assert "hardly overlap" in found.log_z.reason
    # nothing of one in reach of the other, up to the smallest double
    apart = bennett(torch.full((100,), -2000.0), torch.full((100,), 2000.0), Blocks(torch.arange(100), 100.0))
    assert math.isnan(apart.log_z.value)


def test_overlap_of_one_distribution_is_whole() -> None:
    found = bennett(torch.zeros(50), torch.zeros(20), Blocks(torch.arange(20), 20.0))
    assert found.overlap == pytest.approx(1, abs=1e-12)


def test_correlated_frames_do_not_outvote_samples() -> None:
    draws = target_log_weights(normal(20_000, 15))
    # frames of four walkers that never left where they began, to the right of the middle
    centre = torch.tensor([0.9, 1.0, 1.1, 0.8]).repeat_interleave(2500)
    frames = target_log_weights(SHIFT + WIDTH * (centre + 0.1 * normal(10_000, 16)))
    trapped = Blocks(torch.arange(4).repeat_interleave(2500), 4.0)
    found = bennett(draws, frames, trapped).log_z
    assert abs(found.value - LOG_Z) < 2 * found.error
    naive = bennett(draws, frames, Blocks(torch.arange(10_000) % 40, 10_000.0)).log_z
    assert abs(naive.value - LOG_Z) > 5 * naive.error


def test_tail_of_weights_names_what_decides() -> None:
    log_weights = target_log_weights(normal(10_000, 17))
    assert weight_tail(log_weights).reason == ""
    # of 1000 equal weights and one of 695: 41 %
    one = torch.zeros(1001)
    one[3] = math.log(695.0)
    found = weight_tail(one)
    assert found.largest_share == pytest.approx(0.41, abs=1e-3)
    assert found.reason == "the largest weight carries 41 %: errors are not reliable"


def test_a_region_without_samples_has_no_population() -> None:
    x = normal(2000, 18)
    found = weighted_fraction(x > 10, target_log_weights(x))
    assert math.isnan(found.value)
    assert found.reason == "none of 2000 samples: not known"
    few = weighted_fraction(x > x.sort().values[-4], target_log_weights(x))
    assert math.isnan(few.error)
    assert "effective samples" in few.reason


def test_intervals_of_reweighted_populations_hold_the_truth() -> None:
    edge = 1.6
    truth = 0.5 * math.erfc((edge - SHIFT) / WIDTH / math.sqrt(2))
    held = quoted = 0
    for seed in range(300):
        x = normal(1000, 100 + seed)
        found = weighted_fraction(x > edge, target_log_weights(x))
        quoted += found.reliable
        held += found.bounds()[0] <= truth <= found.bounds()[1]
    assert quoted > 290
    # 95 % less three standard deviations of 300 repetitions
    assert held / quoted > 0.91


def test_variance_and_entropy_of_a_gaussian_are_its_own_and_so_are_their_errors() -> None:
    x = normal(400_000, 11)
    u, w = (x - SHIFT) ** 2 / (2 * WIDTH**2) - 3.0, target_log_weights(x)
    # of half a squared normal number, and log (s sqrt(2 pi e))
    truth = {weighted_variance: 0.5, entropy: math.log(WIDTH * math.sqrt(2 * math.pi * math.e))}
    for estimator, expected in truth.items():
        found = estimator(u, w)
        assert abs(found.value - expected) < 4 * found.error  # four standard errors
        parts = [estimator(a, b) for a, b in zip(u.reshape(400, 1000), w.reshape(400, 1000), strict=True)]
        spread = float(torch.tensor([part.value for part in parts]).std())
        mean_error = float(torch.tensor([part.error for part in parts if part.reliable]).mean())
        assert mean_error == pytest.approx(spread, rel=0.15)  # 400 repetitions know it to 3.5 %; tails are heavy
    # the constant of the energy cancels
    assert entropy(u + 7, w - 7).value == pytest.approx(entropy(u, w).value)


def test_systematic_resampling_takes_each_draw_as_often_as_its_weight_rounded() -> None:
    log_weights = torch.log(torch.tensor([0.5, 0.0, 2.3, 1.2, 0.0], dtype=torch.float64))
    generator = torch.Generator().manual_seed(0)
    counts = torch.stack(
        [torch.bincount(systematic_resample(log_weights, 8, generator), minlength=5) for _ in range(4000)]
    ).double()
    expected = 8 * torch.tensor([0.5, 0.0, 2.3, 1.2, 0.0], dtype=torch.float64) / 4
    assert bool(((counts - expected).abs() < 1).all())
    # unbiased: rounding up and down with a spread of 1/2 at most, in 4000 repetitions
    torch.testing.assert_close(counts.mean(0), expected, rtol=0, atol=4 * 0.5 / math.sqrt(4000))


def test_systematic_resampling_of_equal_weights_is_every_draw_once() -> None:
    found = systematic_resample(torch.full((50,), -700.0), 50, torch.Generator().manual_seed(1))
    assert torch.equal(found, torch.arange(50))
    assert torch.equal(systematic_resample(torch.zeros(1), 3, torch.Generator()), torch.zeros(3, dtype=torch.long))


def test_resampling_without_any_weight_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Every weight is zero"):
        systematic_resample(torch.full((3,), -math.inf), 3, torch.Generator())
    with pytest.raises(ConfigurationError, match=r"at least one draw; got shape \(0,\)"):
        systematic_resample(torch.zeros(0), 3, torch.Generator())
