"""Both ensembles together: closed forms of Gaussians, repeated draws, and pymbar as an independent witness."""

from __future__ import annotations

import logging
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from smoothflow.analysis.correlation import blocks_of
from smoothflow.analysis.estimates import Blocks
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
    return BothEnsembles(log_weights_of(x), log_weights_of(y), blocks_of([y.numpy().astype(complex)]))


@pytest.fixture(scope="module")
def pymbar() -> Any:
    # it says at every import that it would be faster with JAX
    logging.disable(logging.WARNING)
    try:
        import pymbar
    finally:
        logging.disable(logging.NOTSET)
    return pymbar


def test_averages_of_gaussians_are_those_of_the_closed_form() -> None:
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
    both = BothEnsembles(log_weights_of(x), log_weights_of(y), Blocks(torch.arange(200) % 40, 200.0))
    # Bennett's equation, solved to rounding
    assert float(both.weights.sum()) == pytest.approx(200, abs=1e-9)


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
    alone, copies = (
        free_energy_difference(z > 0, z <= 0, blocks=blocks_of([z.numpy().astype(complex)])) for z in (y, repeated)
    )
    assert copies.value == pytest.approx(alone.value, abs=1e-12)
    # two errors of 64 and of 20 or more blocks
    assert copies.error == pytest.approx(alone.error, rel=0.4)


def test_frames_alone_are_averaged_by_counting() -> None:
    _, y = draws(1, 20_000, 3)
    found = free_energy_difference(y > 0, y <= 0, blocks=blocks_of([y.numpy().astype(complex)]))
    assert abs(found.value + math.log(RIGHT / (1 - RIGHT))) < 4 * found.error
    # independent frames: the variance of a log-odds ratio
    exact = math.sqrt(1 / (20_000 * RIGHT * (1 - RIGHT)))
    assert found.error == pytest.approx(exact, rel=0.5)  # three errors of an error of 20 blocks


def test_averages_are_those_of_pymbar(pymbar: Any) -> None:
    x, y = draws(3000, 1000, 4)
    pooled = torch.cat([x, y])
    both = BothEnsembles(log_weights_of(x), log_weights_of(y), Blocks(torch.arange(1000) % 64, 1000.0))
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
    both = BothEnsembles(log_weights, log_weights_of(y), Blocks(torch.arange(100) % 40, 100.0))
    values = torch.cat([x, y])
    values[7] = math.inf
    assert math.isfinite(both.mean(values).value)
    assert math.isnan(both.free_energy_difference(values > 100, values < 0).value)


@pytest.mark.parametrize(("n", "m"), [(2000, 2000), (3000, 1000)])
def test_errors_of_independent_draws_are_those_of_pymbar(pymbar: Any, n: int, m: int) -> None:
    x, y = draws(n, m, 9)
    pooled = torch.cat([x, y])
    # every frame is a block
    both = BothEnsembles(log_weights_of(x), log_weights_of(y), Blocks(torch.arange(m), float(m)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Unknown solver options")
        reduced = np.stack([np.zeros(n + m), -log_weights_of(pooled).numpy()])
        theirs = pymbar.MBAR(reduced, [n, m], relative_tolerance=1e-12)
        for values in (log_weights_of(pooled), (-pooled).exp(), pooled**2):
            sigma = theirs.compute_expectations(values.numpy())["sigma"][1]
            # alike to first order in 1/n; of the first two, log Z's part with its sign turned would make 5 to 8 %
            assert both.mean(values).error == pytest.approx(sigma, rel=0.02)


def test_frames_that_lack_a_region_do_not_outvote_samples_that_have_it() -> None:
    x, _ = draws(10_000, 1, 6)
    edge = 1.0
    truth = 0.5 * math.erfc((edge - SHIFT) / WIDTH / math.sqrt(2))
    # walkers that hardly ever went beyond the edge: 0.2 % where 19 % is right
    rng = torch.Generator().manual_seed(7)
    y = SHIFT + WIDTH * torch.randn(40_000, generator=rng, dtype=torch.float64)
    inside, beyond = y[y < edge][:8000], y[y > edge][:16]
    frames = torch.cat([inside, beyond])[torch.randperm(8016, generator=rng)]
    eight = Blocks((torch.arange(8016) // 1002), 8.0)
    both = BothEnsembles(log_weights_of(x), log_weights_of(frames), eight)
    found = both.fraction(torch.cat([x, frames]) > edge)
    low, high = found.bounds()
    assert low < truth < high


def test_averages_without_overlap_are_not_numbers() -> None:
    both = BothEnsembles(torch.full((100,), -2000.0), torch.full((100,), 2000.0), Blocks(torch.arange(100), 100.0))
    for found in (
        both.mean(torch.zeros(200)),
        both.fraction(torch.arange(200) % 2 == 0),
        both.free_energy_difference(torch.arange(200) < 100, torch.arange(200) >= 100),
    ):
        assert math.isnan(found.value)
        assert "hardly overlap" in found.reason
