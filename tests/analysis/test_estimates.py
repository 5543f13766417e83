"""Means with errors, and how they are printed."""

import math

import pytest
import torch
from smoothflow.analysis.estimates import Estimate, format_measured, fraction_of, mean_of_independent, mean_of_series


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
        claimed.append(mean_of_series(values).error / mean_of_independent(values).error)
    # twenty blocks know their spread to 16 %, twenty series to 4 %
    assert sum(claimed) / len(claimed) == pytest.approx(math.sqrt(19), rel=0.15)


def test_mean_of_independent_values() -> None:
    found = mean_of_independent(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    assert (found.value, found.n) == (3.0, 4)
    assert found.error == pytest.approx(math.sqrt(14 / 3 / 4))


def test_fraction_of_none_is_known_to_one_in_n() -> None:
    assert fraction_of(torch.zeros(1000, dtype=torch.bool)) == Estimate(0.0, 0.001, 1000)
    half = fraction_of(torch.arange(1000) % 2 == 0)
    assert half.error == pytest.approx(math.sqrt(0.25 / 1000))
