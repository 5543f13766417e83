"""Independent frames, against processes whose correlation is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from smoothflow.analysis.correlation import mixing, r_hat, statistical_inefficiency, wells
from smoothflow.analysis.estimates import mean_of_series
from smoothflow.core.manifolds import Circle, Product


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


def two_wells(n_walkers: int, n: int, rate: float, seed: int) -> np.ndarray:
    """Walkers in equilibrium between wells at -80 and 60 degrees, the second with a quarter of the weight."""
    rng = np.random.default_rng(seed)
    well = rng.random((n_walkers, n)) < 0.25
    jump = rng.random((n_walkers, n)) < rate
    jump[:, 0] = True
    last = np.maximum.accumulate(np.where(jump, np.arange(n), 0), axis=1)
    centre = np.where(np.take_along_axis(well, last, 1), 60.0, -80.0)
    return np.radians(centre + 15 * rng.normal(size=centre.shape)).reshape(-1)


def test_walkers_that_never_moved_are_worth_one_frame_each() -> None:
    replica = np.arange(4).repeat(500)
    rng = np.random.default_rng(2)
    centre = np.array([-80.0, -80.0, 60.0, -80.0]).repeat(500)
    angle = np.radians(centre + 15 * rng.normal(size=2000))
    turned = np.exp(1j * angle)
    # about its own mean each walker seems to be worth hundreds
    own = sum(500 / statistical_inefficiency(turned[replica == w]) for w in range(4))
    assert own > 1000
    assert len(turned) / statistical_inefficiency(turned, replica) < 8
    assert r_hat(turned, replica) > 2


def test_memory_of_two_wells_is_that_of_their_jumps() -> None:
    replica = np.arange(20).repeat(5000)
    series = (two_wells(20, 5000, 0.02, 0) > 0).astype(complex)
    # each step forgets with probability 0.02: rho(t) = 0.98^t; statistical error about 3 %
    assert statistical_inefficiency(series, replica) == pytest.approx(1.98 / 0.02, rel=0.12)


def test_wells_and_transitions_are_counted() -> None:
    replica = np.arange(3).repeat(300)
    rng = np.random.default_rng(5)
    centre = np.concatenate([np.full(300, -80.0), np.repeat([-80.0, 60.0], 150), np.repeat([60.0, -80.0, 60.0], 100)])
    angle = np.radians(centre + 12 * rng.normal(size=900))
    core = wells(angle)
    assert set(core) == {-1, 0, 1}
    found = mixing(torch.from_numpy(angle)[:, None], Product.of(Circle(), ["phi"]), replica)
    assert found.torsions["phi"].transitions == (0, 1, 2)
    assert found.torsions["phi"].n_wells == 2
    assert "fewer" not in str(found.reasons)


def test_walkers_that_never_left_one_well_are_reported() -> None:
    replica = np.arange(8).repeat(300)
    rng = np.random.default_rng(6)
    angle = np.radians(np.where(replica % 2 == 0, -80.0, 60.0) + 12 * rng.normal(size=len(replica)))
    found = mixing(torch.from_numpy(angle)[:, None], Product.of(Circle(), ["phi 2"]), replica)
    assert any(reason == "walkers never left one well: phi 2" for reason in found.reasons)


def test_one_walker_that_never_left_its_well_has_no_errors() -> None:
    angle = torch.from_numpy(np.radians(-80 + 12 * np.random.default_rng(7).normal(size=4000)))
    found = mixing(angle[:, None], Product.of(Circle(), ["phi"]))
    assert found.blocks.reason == "no error: one walker, which never left one well"
    assert not mean_of_series(angle, found.blocks).reliable


@pytest.mark.parametrize("n_walkers", [4, 8])
@pytest.mark.parametrize("rate", [0.0005, 0.02])
def test_intervals_of_walkers_hold_the_truth(n_walkers: int, rate: float) -> None:
    n, held, quoted = 500, 0, 0
    for seed in range(200):
        replica = np.arange(n_walkers).repeat(n)
        angle = torch.from_numpy(two_wells(n_walkers, n, rate, seed))
        # a fast observable with a part that hops: its own memory would say too little
        noise = np.random.default_rng(seed).normal(size=len(angle))
        values = torch.from_numpy((angle.numpy() > 0) + 0.5 * noise)
        found = mean_of_series(values, mixing(angle[:, None], Product.of(Circle(), ["phi"]), replica).blocks)
        quoted += found.reliable
        held += found.bounds()[0] <= 0.25 <= found.bounds()[1]
    # all walkers begin in one well with probability 0.32 (four) or 0.1 (eight), and say so if none leaves it
    assert quoted > 120
    # 95 % less three standard deviations; errors of independent frames hold in 5 to 60 %
    assert held / quoted > 0.95 - 3 * np.sqrt(0.95 * 0.05 / quoted)


def test_frames_that_are_copies_of_others_have_no_errors() -> None:
    rng = np.random.default_rng(5)
    angle = torch.from_numpy(rng.uniform(-np.pi, np.pi, 400))
    domain = Product.of(Circle(2 * np.pi), ["phi"])
    assert mixing(angle[:, None], domain, np.repeat(np.arange(4), 100)).blocks.reason == ""
    tiled = mixing(angle.repeat(10)[:, None], domain, np.repeat(np.arange(40), 100))
    assert tiled.blocks.reason == "no error: 90 % of the frames are copies of others"
    assert np.isnan(mean_of_series(angle.repeat(10), tiled.blocks).error)
    # a chain that stays where it is repeats a state right after it, which its memory tells
    chain = mixing(angle.repeat_interleave(3)[:, None], domain, np.repeat(np.arange(4), 300))
    assert chain.blocks.reason == ""
