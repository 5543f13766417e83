"""Distances of samples from frames, where both come from known distributions."""

import math

import numpy as np
import pytest
import torch
from smoothflow.analysis.correlation import blocks_of
from smoothflow.analysis.distances import Distance, distances, frames_apart, mean_over_parts, transported_torsions
from smoothflow.analysis.estimates import Blocks
from smoothflow.analysis.observation import Configurations
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.manifolds import FULL_TURN, Circle, Interval, Product
from torch import Tensor

TURN = Circle(FULL_TURN)
DOMAIN = Product.of(TURN, ["phi", "psi"])
N = 2000


def draws(n: int, seed: int, share: float = 0.5, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Torsions in two wells, the first with a share of them, and which well each is in."""
    noise = np.random.default_rng(seed)
    first = noise.random(n) < share
    centre = np.where(first[:, None], [-1.3, 2.9 + shift], [-1.3, -0.4 + shift])
    return torch.from_numpy(centre + 0.2 * noise.normal(size=(n, 2))), torch.from_numpy(first)


def observed(
    angles: Tensor, energy: Tensor, log_prob: Tensor | None = None, times: np.ndarray | None = None
) -> Configurations:
    nothing = torch.zeros(len(angles), 1, 3, dtype=torch.float64)
    density = -energy if log_prob is None else log_prob
    return Configurations(nothing, angles, density, energy, nothing, nothing, times=times)


def normal(n: int, seed: int, mean: float = 0.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(mean, 1.0, n))


def independent(n: int) -> Blocks:
    return blocks_of([np.random.default_rng(5).normal(size=n).astype(complex)])


def by_name(found: tuple[Distance, ...]) -> dict[str, Distance]:
    return {item.name: item for item in found}


def test_samples_of_the_frames_distribution_are_at_the_floor() -> None:
    frames = observed(draws(N, 0)[0], normal(N, 1))
    samples = observed(draws(N, 2)[0], normal(N, 3))
    found = by_name(distances(DOMAIN, frames, samples, independent(N), 250))
    assert list(found) == ["energy_w2", "total_variation phi and psi", "torsion_w2", "tica_w2"]
    assert (found["energy_w2"].points, found["torsion_w2"].points) == (500, 250)
    for name in ("energy_w2", "total_variation phi and psi", "torsion_w2"):
        item = found[name]
        assert item.floor.value > 0
        # equal weights: resampling takes every draw once, where all of a part are compared
        if item.points == 500:
            assert item.reweighted == item.samples
        apart = math.hypot(item.samples.error, item.floor.error)
        assert abs(item.samples.value - item.floor.value) < 4 * apart  # four standard errors
    # eight parts of 250, and as many neighbours in their ring
    assert (found["torsion_w2"].samples.n, found["torsion_w2"].floor.n) == (8 * 250, 8 * 250)


def test_shifted_samples_are_as_far_as_the_shift() -> None:
    frames = observed(draws(N, 0, share=1.0)[0], normal(N, 1))
    # across the seam in psi, and 3 kT up
    samples = observed(draws(N, 2, share=1.0, shift=0.5)[0], normal(N, 3, mean=3.0))
    found = by_name(distances(DOMAIN, frames, samples, independent(N), 250))
    # means of 500 and of 250 are known to 0.06 kT and 0.02 rad; the squares of noise and shift add up
    assert found["energy_w2"].samples.value == pytest.approx(3.0, abs=0.1)
    item = found["torsion_w2"]
    assert item.samples.value == pytest.approx(math.hypot(0.5, item.floor.value), abs=0.03)
    assert item.floor.value < 0.15


def test_weights_bring_samples_of_another_distribution_to_the_floor() -> None:
    frames = observed(draws(N, 0, share=0.9)[0], torch.zeros(N, dtype=torch.float64))
    angles, first = draws(2 * N, 2, share=0.5)
    # the sampler has 0.5 of each where the target has 0.9 and 0.1
    log_prob = torch.where(first, math.log(0.5 / 0.9), math.log(0.5 / 0.1)).double()
    samples = observed(angles, torch.zeros(2 * N, dtype=torch.float64), log_prob)
    found = by_name(distances(DOMAIN, frames, samples, independent(N), 250))
    item = found["torsion_w2"]
    # 0.4 of all move from one well to the other, 2.98 rad apart across the seam, or from edge to edge, 0.3 rad nearer
    across = 2 * math.pi - 3.3
    assert math.sqrt(0.4) * (across - 2 * 0.3) < item.samples.value < math.sqrt(0.4) * across
    assert item.reweighted.value < 0.6
    assert item.reweighted.value - item.floor.value < 4 * math.hypot(item.reweighted.error, item.floor.error)
    shares = found["total_variation phi and psi"]
    assert shares.reweighted.value < shares.samples.value


def test_the_floor_of_frames_of_walkers_that_stay_in_their_wells_shows_it() -> None:
    angles = torch.cat([draws(N // 2, 0, share=1.0)[0], draws(N // 2, 1, share=0.0)[0]])
    frames, samples = observed(angles, normal(N, 1)), observed(draws(N, 2)[0], normal(N, 3))
    reason = "no error: 2 walkers never left their wells"
    blocks = Blocks(torch.zeros(N, dtype=torch.long), 2.0, reason)
    found = by_name(distances(DOMAIN, frames, samples, blocks, 250))["torsion_w2"]
    assert found.samples.reason == found.floor.reason == reason
    assert math.isnan(found.samples.error)


def test_energies_that_are_not_finite_leave_no_number_but_by_weights() -> None:
    frames = observed(draws(N, 0)[0], normal(N, 1))
    energy = normal(N, 3)
    log_prob = -energy.clone()
    energy[::100] = math.inf
    found = by_name(distances(DOMAIN, frames, observed(draws(N, 2)[0], energy, log_prob), independent(N), 100))
    item = found["energy_w2"]
    assert math.isnan(item.samples.value)
    assert item.samples.reason == "not known: not all energies are finite"
    assert item.reweighted.reliable
    # where all samples of a part are impossible, weights do not tell either
    energy[: N // 2] = math.inf
    item = by_name(distances(DOMAIN, frames, observed(draws(N, 2)[0], energy, log_prob), independent(N), 100))[
        "torsion_w2"
    ]
    assert item.samples.reliable
    assert item.reweighted.reason == "not known: a part of the samples has no weight"


def test_one_clash_leaves_the_distance_of_energies_without_an_error() -> None:
    frames, energy = observed(draws(N, 0)[0], normal(N, 1)), normal(N, 3)
    log_prob = -energy.clone()
    energy[7] = 1e6
    item = distances(DOMAIN, frames, observed(draws(N, 2)[0], energy, log_prob), independent(N), 100)[0]
    assert "one sample of 2000 makes 100 % of the variance" in item.samples.reason
    assert item.samples.value > 1e3
    assert item.reweighted.value < 0.5


def test_components_need_times_and_say_their_lag() -> None:
    angles, energy = draws(N, 0)[0], normal(N, 1)
    samples = observed(draws(N, 2)[0], normal(N, 3))
    without = distances(DOMAIN, observed(angles, energy), samples, independent(N), 100)[-1]
    assert without.samples.reason == "not known: the frames have no times"
    timed = observed(angles, energy, times=2.0 * np.arange(N))
    item = distances(DOMAIN, timed, samples, independent(N), 100)[-1]
    assert item.definition == "2 components of sin and cos of phi, psi, lag 10 ps"
    assert item.samples.reliable
    # of variance one, in two directions: two sets of 100 points are nearer than two points
    assert 0 < item.floor.value < math.sqrt(2)


def test_lag_and_interval_of_frames() -> None:
    two = np.repeat([0, 1], 300)
    assert frames_apart(np.tile(0.5 * np.arange(300), 2), two) == (20, 0.5)
    # further apart than the lag
    assert frames_apart(40.0 * np.arange(300), None) == (1, 40.0)
    for times, replica, words in (
        (None, None, "no times"),
        (np.tile(0.5 * np.arange(300), 2), None, "not evenly spaced"),
        (np.delete(np.arange(300.0), 7), None, "not evenly spaced"),
        (np.arange(300.0)[::-1], None, "not evenly spaced"),
        (np.array([5.0]), None, "not evenly spaced"),
        (np.arange(100.0), None, "only 90 pairs of frames are 10 ps apart"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            frames_apart(times, replica)


def test_torsions_are_all_phi_and_psi_or_else_the_slow_ones() -> None:
    names = ["omega2", "phi1", "methyl 3", "psi1", "chi1", "phi2"]
    assert transported_torsions(Product.of(TURN, names)) == [1, 3, 5]
    assert transported_torsions(Product.of(TURN, ["omega2", "methyl 3", "torsion C1-C2", "improper H4"])) == [2]
    assert transported_torsions(Product.of(TURN, ["methyl 3"])) == []


def test_a_molecule_without_torsions_has_the_distance_of_energies_alone() -> None:
    domain = Product.of(Interval(0.0, math.inf), ["bond O-H1", "bond O-H2"])
    bonds = torch.full((40, 2), 0.1, dtype=torch.float64)
    found = distances(domain, observed(bonds, normal(40, 0)), observed(bonds, normal(40, 1)), independent(40))
    assert [item.name for item in found] == ["energy_w2"]


@pytest.mark.parametrize("n", [2, 3, 5, 7, 15])
def test_few_configurations_have_numbers_and_hardly_any_errors(n: int) -> None:
    found = by_name(
        distances(
            DOMAIN, observed(draws(n, 0)[0], normal(n, 1)), observed(draws(n, 2)[0], normal(n, 3)), independent(40)
        )
    )
    item = found["energy_w2"]
    assert item.points == max(1, n // 4)
    assert item.floor.value > 0
    assert (item.floor.reason == "no error: one comparison") == (n == 2)


def test_errors_of_the_mean_over_parts_hold() -> None:
    noise = np.random.default_rng(0)
    held = 0
    for _ in range(1000):
        found = mean_over_parts(list(noise.normal(3.0, 0.2, 4)), 50)
        low, high = found.bounds()
        held += low <= 3.0 <= high
    assert held == pytest.approx(954.5, abs=20)  # three standard deviations of 1000 repetitions


@pytest.mark.parametrize("n", [4, 8])
def test_errors_of_the_mean_over_neighbours_hold_and_are_not_far_too_large(n: int) -> None:
    # distances of parts whose means differ, where values that share a part correlate most; and where they hardly do
    noise = np.random.default_rng(0)
    for between in (0.0, 1.0):
        parts = np.sort(between * noise.normal(size=(600, n, 1)) + noise.normal(size=(600, n, 50)), axis=-1)
        apart = np.sqrt(((parts - np.roll(parts, -1, axis=1)) ** 2).mean(-1))
        found = [mean_over_parts(list(row), 50, ring=True) for row in apart]
        held = np.mean([low <= apart.mean() <= high for low, high in (x.bounds() for x in found)])
        assert held > 0.954 - 3 * math.sqrt(0.046 / 600)  # three standard deviations of 600 repetitions
        # Student's t of two degrees of freedom is 4.5 instead of 2
        assert np.median([x.error for x in found]) < 3 * apart.mean(1).std()


def test_a_row_has_the_floor_and_the_number_of_points() -> None:
    frames, samples = observed(draws(N, 0)[0], normal(N, 1)), observed(draws(N, 2)[0], normal(N, 3))
    item = by_name(distances(DOMAIN, frames, samples, independent(N), 100))["torsion_w2"]
    title, value, remark = item.row()
    assert title == "T-W2"
    assert value == f"{item.samples}; reweighted {item.reweighted}"
    assert remark == f"radians, 100 points, phi, psi; floor {item.floor}"
