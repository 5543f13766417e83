"""Means with errors, and how they are printed."""

import math

import pytest
import torch
from scipy import stats
from smoothflow.analysis.correlation import mean_of_time_series
from smoothflow.analysis.estimates import (
    Blocks,
    Estimate,
    Verdict,
    differing,
    format_measured,
    fraction_of,
    fraction_of_series,
    mean_of_independent,
    mean_of_series,
    pareto_k,
    percent,
    plain,
    read_estimate,
    student,
    wilson,
)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (1.23456, 0.0123, "1.235 ± 0.012"),
        (-195.3042, 0.0996, "-195.30 ± 0.10"),
        (12554.3, 310.0, "12554 ± 310"),
        (0.5, math.nan, "0.5"),
        (math.inf, math.nan, "inf"),
        (3.2e11, 2.1e10, "(3.20 ± 0.21)e11"),
    ],
)
def test_printed_digits_follow_the_error(value: float, error: float, text: str) -> None:
    assert format_measured(value, error) == text
    assert str(Estimate(value, error, 10)) == text


def test_error_of_a_correlated_series() -> None:
    generator = torch.Generator().manual_seed(0)
    # autoregressive, x' = 0.9 x + noise: the variance of the mean is (1 + 0.9) / (1 - 0.9) = 19 times the naive one
    claimed = []
    for _ in range(20):
        noise, x, series = torch.randn(4000, generator=generator).tolist(), 0.0, []
        for step in noise:
            x = 0.9 * x + step
            series.append(x)
        values = torch.tensor(series)
        claimed.append(mean_of_time_series(values).error / mean_of_independent(values).error)
    # forty blocks know their spread to 11 %, twenty series to 3 %
    assert sum(claimed) / len(claimed) == pytest.approx(math.sqrt(19), rel=0.15)


def test_mean_of_independent_values() -> None:
    found = mean_of_independent(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (found.value, found.n) == (3.0, 4)
    assert found.error == pytest.approx(math.sqrt(14 / 3 / 4))


def test_fraction_of_none_is_known_to_one_in_n() -> None:
    none = fraction_of(torch.zeros(1000, dtype=torch.bool))
    assert (none.value, none.error, none.n) == (0.0, 0.001, 1000)
    # z^2 / (n + z^2)
    assert none.bounds() == (0.0, pytest.approx(4 / 1004))
    assert percent(none) == "below 0.4 %"
    half = fraction_of(torch.arange(1000) % 2 == 0)
    assert half.error == pytest.approx(math.sqrt(0.25 / 1000))


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 7, 19, 63])
def test_student_is_that_of_scipy(degrees: int) -> None:
    exact = stats.t.ppf(stats.norm.cdf(2.0), degrees)
    # an asymptotic series: worst at two degrees of freedom
    assert student(degrees) == pytest.approx(exact, rel=0.08 if degrees == 2 else 0.01)


def test_wilson_is_that_of_scipy() -> None:
    level = 2 * stats.norm.cdf(2.0) - 1
    for hits in (0, 3, 50):
        theirs = stats.binomtest(hits, 50).proportion_ci(confidence_level=level, method="wilson")
        assert wilson(hits / 50, 50) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


@pytest.mark.parametrize("shape", [0.2, 0.5, 1.0])
def test_pareto_k_of_a_pareto_tail(shape: float) -> None:
    x = torch.from_numpy(stats.genpareto.rvs(shape, size=50_000, random_state=3))
    tail = x.sort().values[-671:]
    theirs, _, _ = stats.genpareto.fit((tail - x.sort().values[-672]).numpy(), floc=0)
    # the error of k is (1 + k) / sqrt(671), which the weak prior does not change
    assert pareto_k(x) == pytest.approx(shape, abs=4 * (1 + shape) / math.sqrt(671))
    assert pareto_k(x) == pytest.approx(theirs, abs=0.05)


def test_equal_values_have_no_tail() -> None:
    assert pareto_k(torch.ones(1000)) == -math.inf
    assert math.isnan(pareto_k(torch.ones(10)))


def test_a_mean_that_one_value_decides_has_no_error() -> None:
    values = torch.zeros(1000, dtype=torch.float64)
    values[::2] = 1.0
    assert mean_of_independent(values).reliable
    values[7] = 1e6
    found = mean_of_independent(values)
    assert found.value == pytest.approx(1000.499)
    assert math.isnan(found.error)
    assert "one draw of 1000 makes 100 %" in found.reason
    assert "±" not in str(found)


def test_a_mean_without_a_variance_has_no_error() -> None:
    x = torch.from_numpy(stats.pareto.rvs(1.1, size=10_000, random_state=0))
    found = mean_of_independent(x)
    assert not found.reliable
    assert math.isnan(found.error)


def test_errors_of_few_blocks_are_those_of_student() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 5.0]).repeat_interleave(10)
    blocks = Blocks(torch.arange(4).repeat_interleave(10), 4.0)
    found = mean_of_series(values, blocks)
    # four values, each seen ten times: the interval of two errors is that of t with 3 degrees of freedom
    exact = stats.sem([1, 2, 4, 5]) * stats.t.ppf(stats.norm.cdf(2.0), 3)
    assert 2 * found.error == pytest.approx(exact, rel=0.01)


def test_a_fraction_that_no_frame_shows_has_no_number() -> None:
    blocks = Blocks(torch.arange(8).repeat_interleave(100), 8.0)
    found = fraction_of_series(torch.zeros(800, dtype=torch.bool), blocks)
    assert math.isnan(found.value)
    assert str(found) == "none of 800 frames: not known"


def test_a_rare_fraction_of_frames_has_an_interval_above_zero() -> None:
    flags = torch.zeros(3200, dtype=torch.bool)
    for walker in (2, 9, 17, 28):
        flags[100 * walker : 100 * walker + 75] = True
    found = fraction_of_series(flags, Blocks(torch.arange(32).repeat_interleave(100), 32.0))
    low, high = found.bounds()
    # Clopper and Pearson's interval of 3 in 32 is 2 % to 25 %
    assert 0.01 < low < 0.04 < 3 / 32 < 0.2 < high < 0.35


def test_a_fraction_that_one_walker_of_eight_shows_has_no_error() -> None:
    flags = torch.zeros(800, dtype=torch.bool)
    flags[200:260] = True
    found = fraction_of_series(flags, Blocks(torch.arange(8).repeat_interleave(100), 8.0))
    assert found.value == 0.075
    assert not found.reliable
    assert found.reason == "seen in what is worth 0.6 independent frames"


def test_independent_frames_of_an_observable_that_moves_fast_are_more_than_those_of_a_slow_one() -> None:
    # two states left at a rate r per frame have the autocorrelation (1 - r)^t about their mean, so g = 2/r - 1
    generator, n, rate = torch.Generator().manual_seed(1), 200_000, 0.02
    jumps = torch.rand(n, generator=generator) < rate
    states = torch.rand(n, generator=generator, dtype=torch.float64) < 0.5
    slow = states[torch.where(jumps, torch.arange(n), 0).cummax(0).values].double()
    noise = (torch.rand(n, generator=generator) < 0.5).double()
    memory = 2 / rate - 1
    blocks = Blocks(torch.arange(n) // 1000, n / memory)
    assert blocks.n_effective_of(slow) == pytest.approx(n / memory, rel=0.1)
    # half of the variance of the sum is slow: n / (1/2 + g/2)
    assert blocks.n_effective_of(slow + noise) == pytest.approx(n / (0.5 + 0.5 * memory), rel=0.15)
    assert blocks.n_effective_of(noise) > 0.5 * n


def test_estimates_survive_json() -> None:
    for found in (
        Estimate(1.0, 0.1, 5),
        Estimate(0.1, 0.1, 5, interval=(0.01, 0.4)),
        Estimate(1.0, 0.1, 5).because("no error: one walker"),
    ):
        again = read_estimate(plain(found))
        assert (again.value, again.n, again.reason, again.interval) == (
            found.value,
            found.n,
            found.reason,
            found.interval,
        )
        assert math.isnan(again.error) == math.isnan(found.error)
    assert plain(Estimate(1.0, 0.1, 5)) == {"value": 1.0, "error": 0.1, "n": 5}


def test_estimates_of_one_quantity_that_disagree_are_reported() -> None:
    one = Estimate(-195.546, 0.019, 10)
    assert differing("log Z", {"frames": one, "samples": Estimate(-195.54, 0.01, 10)}) == []
    (told,) = differing("log Z", {"frames": one, "samples": Estimate(-195.321, 0.01, 10)})
    # 0.225 / hypot(0.019, 0.01)
    assert told == "log Z of frames and of samples differ by 10.5 errors"
    assert differing("log Z", {"frames": one.because("one walker"), "samples": Estimate(0.0, 0.01, 10)}) == []


def test_a_verdict_says_why() -> None:
    assert str(Verdict(())) == "reliable"
    assert str(Verdict(("a", "b"))) == "not reliable: a; b"
