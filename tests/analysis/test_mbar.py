"""Both ensembles together: closed forms of Gaussians, repeated draws, and pymbar as an independent witness."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from smoothflow.analysis.mbar import BothEnsembles
from smoothflow.analysis.reweighting import free_energy_difference, weighted_mean
from torch import Tensor

WIDTH, SHIFT = 0.8, 0.3
LOG_Z = math.log(WIDTH * math.sqrt(2 * math.pi)) + 3.0
RIGHT = 0.5 * math.erfc(-SHIFT / WIDTH / math.sqrt(2))


def log_weights_of(x: Tensor) -> Tensor:
    """Log-weights of a Gaussian of width `WIDTH` about `SHIFT`, log Z = `LOG_Z`, over the standard normal."""
    return -((x - SHIFT) ** 2) / (2 * WIDTH**2) + 3.0 + 0.5 * x**2 + 0.5 * math.log(2 * math.pi)


def draws(n: int, m: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draws of the standard normal, and of the target."""
    noise = torch.randn(n + m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise[:n], SHIFT + WIDTH * noise[n:]


def both_of(x: Tensor, y: Tensor) -> BothEnsembles:
    return BothEnsembles(log_weights_of(x), log_weights_of(y))


@pytest.fixture(scope="module")
def pymbar() -> Any:
    # it says at every import that it would be faster with JAX
    logging.disable(logging.WARNING)
    try:
        import pymbar
    finally:
        logging.disable(logging.NOTSET)
    return pymbar


def test_averages_of_gaussians() -> None:
    x, y = draws(20_000, 10_000, 0)
    both, pooled = both_of(x, y), torch.cat([x, y])
    # four standard errors each
    for found, exact in (
        (both.log_z, LOG_Z),
        (both.mean(pooled), SHIFT),
        (both.mean(pooled**2), SHIFT**2 + WIDTH**2),
        (both.free_energy_difference(pooled > 0, pooled <= 0), -math.log(RIGHT / (1 - RIGHT))),
    ):
        assert abs(found.value - exact) < 4 * found.error
    # both together know more than either alone
    assert both.mean(pooled).error < min(weighted_mean(x, log_weights_of(x)).error, WIDTH / math.sqrt(10_000))


def test_the_weights_sum_to_the_draws_of_the_target() -> None:
    x, y = draws(500, 200, 1)
    # Bennett's equation, solved to rounding
    assert float(both_of(x, y).weights.sum()) == pytest.approx(200, abs=1e-9)


def test_errors_are_those_of_repeated_draws() -> None:
    found: dict[str, list[tuple[float, float]]] = {"log Z": [], "mean": [], "difference": []}
    for seed in range(200):
        x, y = draws(500, 200, seed)
        both, pooled = both_of(x, y), torch.cat([x, y])
        difference = both.free_energy_difference(pooled > 0, pooled <= 0)
        for name, estimate in zip(found, (both.log_z, both.mean(pooled), difference), strict=True):
            found[name].append((estimate.value, estimate.error))
    for pairs in found.values():
        values, errors = np.array(pairs).T
        # the standard deviation of 200 values is known to 5 %; 20 blocks and the delta method add a few percent
        assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_correlated_frames_count_as_fewer() -> None:
    x, y = draws(2000, 1000, 2)
    repeated = y.repeat_interleave(10)
    one, ten = both_of(x, y), both_of(x, repeated)
    pooled = torch.cat([x, repeated])
    # ten copies of a frame know no more than one; the error of an error of 20 blocks is 16 %
    assert ten.mean(pooled).error > 0.6 * one.mean(torch.cat([x, y])).error
    alone, copies = (free_energy_difference(z > 0, z <= 0) for z in (y, repeated))
    assert copies.value == pytest.approx(alone.value, abs=1e-12)
    assert copies.error == pytest.approx(alone.error, rel=1e-9)


def test_frames_alone_by_counting() -> None:
    _, y = draws(1, 20_000, 3)
    found = free_energy_difference(y > 0, y <= 0)
    assert abs(found.value + math.log(RIGHT / (1 - RIGHT))) < 4 * found.error
    # independent frames: the variance of a log-odds ratio
    exact = math.sqrt(1 / (20_000 * RIGHT * (1 - RIGHT)))
    assert found.error == pytest.approx(exact, rel=0.5)  # three errors of an error of 20 blocks


def test_pymbar_finds_the_same(pymbar: Any) -> None:
    x, y = draws(3000, 1000, 4)
    pooled = torch.cat([x, y])
    both = both_of(x, y)
    reduced = np.stack([np.zeros(len(pooled)), -log_weights_of(pooled).numpy()])
    with warnings.catch_warnings():
        # pymbar gives scipy's solvers options that they do not know
        warnings.filterwarnings("ignore", message="Unknown solver options")
        theirs = pymbar.MBAR(reduced, [3000, 1000], relative_tolerance=1e-12)
        free = theirs.compute_free_energy_differences()
        mean = theirs.compute_expectations(pooled.numpy())
    bar = pymbar.bar(-log_weights_of(x).numpy(), log_weights_of(y).numpy(), relative_tolerance=1e-12)
    # pymbar's solvers stop a little before rounding does
    assert both.log_z.value == pytest.approx(-bar["Delta_f"], abs=1e-6)
    assert both.log_z.value == pytest.approx(-free["Delta_f"][0, 1], abs=1e-6)
    assert both.mean(pooled).value == pytest.approx(mean["mu"][1], abs=1e-6)
    # pymbar takes all draws as independent; the error of our error of 20 blocks is 16 %, of a part of the draws
    assert both.log_z.error == pytest.approx(bar["dDelta_f"], rel=0.3)
    assert both.mean(pooled).error == pytest.approx(mean["sigma"][1], rel=0.3)


def test_draws_without_a_weight_do_not_count() -> None:
    x, y = draws(300, 100, 5)
    log_weights = log_weights_of(x)
    log_weights[7] = -math.inf
    both = BothEnsembles(log_weights, log_weights_of(y))
    values = torch.cat([x, y])
    values[7] = math.inf
    assert math.isfinite(both.mean(values).value)
    assert both.free_energy_difference(values > 100, values < 0).value == math.inf
