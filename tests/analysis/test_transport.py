"""Wasserstein distances against closed forms, and against all permutations of few points."""

import math
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import norm
from smoothflow.analysis.transport import wasserstein_in_space, wasserstein_on_line, wasserstein_on_torus
from smoothflow.core.errors import ConfigurationError

NOISE = np.random.default_rng(0)


def test_line_between_two_normal_distributions() -> None:
    levels = (np.arange(20_000) + 0.5) / 20_000
    first, second = norm.ppf(levels, 1.0, 0.5), norm.ppf(levels, -0.4, 1.3)
    expected = math.hypot(1.4, 0.8)  # W2^2 = (mu1 - mu2)^2 + (s1 - s2)^2
    found = wasserstein_on_line(NOISE.permutation(first), NOISE.permutation(second))
    assert found == pytest.approx(expected, rel=1e-4)  # of the tails, half of the last level is missing


def test_line_between_sets_of_different_size() -> None:
    # half of the mass at 0 goes to 1
    assert wasserstein_on_line(np.array([0.0]), np.array([1.0, 0.0])) == pytest.approx(math.sqrt(0.5), rel=1e-14)
    a = NOISE.normal(size=7)
    assert wasserstein_on_line(a, np.repeat(a, 3)) == 0
    # quantiles 0, 0, 1 | 0, 1 in sixths: only the fourth sixth moves
    assert wasserstein_on_line(np.array([1.0, 0, 0]), np.array([0, 1.0])) == pytest.approx(math.sqrt(1 / 6), rel=1e-14)


def test_line_is_the_space_of_one_dimension() -> None:
    a, b = NOISE.normal(size=200), NOISE.exponential(size=200)
    assert wasserstein_in_space(a[:, None], b[:, None]) == pytest.approx(wasserstein_on_line(a, b), rel=1e-12)


def test_torus_of_a_copy_shifted_across_the_seam() -> None:
    # between 150 and 180 degrees; the copy ends on the other side of the seam
    points = math.pi - NOISE.uniform(0, math.pi / 6, (300, 2))
    shifted = (points + np.array([0.3, 0.4]) + math.pi) % (2 * math.pi) - math.pi
    assert (shifted[:, 0] < 0).any()
    assert wasserstein_on_torus(points, shifted) == pytest.approx(0.5, rel=1e-12)
    # neither turns nor the order of the points matter
    turned = NOISE.permutation(shifted) + 2 * math.pi * NOISE.integers(-3, 4, (300, 2))
    assert wasserstein_on_torus(points, turned) == pytest.approx(0.5, rel=1e-12)


def test_torus_of_opposite_points_is_half_a_turn_in_each_direction() -> None:
    found = wasserstein_on_torus(np.zeros((5, 3)), np.full((5, 3), math.pi))
    assert found == pytest.approx(math.pi * math.sqrt(3), rel=1e-14)


def test_torus_is_the_best_of_all_permutations() -> None:
    a, b = NOISE.uniform(-math.pi, math.pi, (2, 6, 3))
    apart = np.abs(np.angle(np.exp(1j * (a[:, None] - b[None]))))
    costs = [np.mean([(apart[i, j] ** 2).sum() for i, j in enumerate(order)]) for order in permutations(range(6))]
    assert wasserstein_on_torus(a, b) == pytest.approx(math.sqrt(min(costs)), rel=1e-12)


def test_space_of_a_shifted_copy() -> None:
    points = NOISE.normal(size=(200, 3))
    found = wasserstein_in_space(points, NOISE.permutation(points + np.array([1.0, 2.0, 2.0])))
    assert found == pytest.approx(3, rel=1e-12)


def test_sets_that_cannot_be_matched_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"sets of one size; got shapes \(2, 1\) and \(3, 1\)"):
        wasserstein_in_space(np.zeros((2, 1)), np.zeros((3, 1)))
    with pytest.raises(ConfigurationError, match="leave out those that are not finite"):
        wasserstein_on_line(np.array([0.0, np.inf]), np.zeros(2))
    with pytest.raises(ConfigurationError, match="a set is empty"):
        wasserstein_on_torus(np.zeros((0, 2)), np.zeros((0, 2)))
