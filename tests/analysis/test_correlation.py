"""Independent frames, against processes whose correlation is known."""

from __future__ import annotations

import numpy as np
import pytest
from smoothflow.analysis.correlation import statistical_inefficiency


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
def test_inefficiency_of_an_autoregressive_process(memory: float) -> None:
    rng = np.random.default_rng(0)
    x = np.empty(200_000)
    x[0] = rng.normal()
    for i, noise in enumerate(rng.normal(size=len(x) - 1)):
        x[i + 1] = memory * x[i] + noise
    # 1 + 2 sum rho^t; the estimate's statistical error is about 2 % here
    assert statistical_inefficiency(x.astype(complex)) == pytest.approx((1 + memory) / (1 - memory), rel=0.08)


def test_a_constant_series_is_worth_one_value() -> None:
    assert statistical_inefficiency(np.ones(50, dtype=complex)) == 50


def test_independent_angles_are_all_worth_counting() -> None:
    angles = np.random.default_rng(1).uniform(-np.pi, np.pi, 10_000)
    assert statistical_inefficiency(np.exp(1j * angles)) == pytest.approx(1, abs=0.1)
