"""Histograms of torsions and their divergence."""

import math

import numpy as np
import pytest
import torch
from smoothflow.analysis.structure import (
    histogram_divergence,
    ramachandran_pairs,
    torsion_divergence,
    torsion_histogram,
    total_variation,
)
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.manifolds import FULL_TURN, Circle, Column, Interval, Product


def test_pairs_of_phi_and_psi_are_found_by_residue() -> None:
    turn = Circle(FULL_TURN)
    names = ["psi2", "omega1", "phi1", "phi2", "psi1", "phi3"]
    domain = Product((Column("phi0", Interval()), *(Column(name, turn) for name in names)))
    assert ramachandran_pairs(domain) == ((3, 5), (4, 1))
    assert ramachandran_pairs(Product.of(turn, ["psi", "phi"])) == ((1, 0),)


def test_torsions_are_counted_in_their_bins_and_wrapped() -> None:
    phi = torch.tensor([-math.pi + 0.01, math.pi + 0.01, 0.01])
    psi = torch.tensor([0.01, 0.01, -0.01])
    counts = torsion_histogram(phi, psi, n_bins=4)
    expected = np.zeros((4, 4))
    expected[0, 2], expected[2, 1] = 2, 1
    np.testing.assert_array_equal(counts, expected)
    weighted = torsion_histogram(phi, psi, torch.tensor([0.5, 0.25, 2.0]), n_bins=4)
    assert (weighted[0, 2], weighted[2, 1]) == (0.75, 2.0)


def test_divergence_of_histograms_counted_by_hand() -> None:
    data, model = np.array([3.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 4.0, 0.0])
    # three occupied bins: q = (1.5, 0.5, 4.5) / 6.5
    expected = 0.75 * math.log(0.75 * 6.5 / 1.5) + 0.25 * math.log(0.25 * 6.5 / 0.5)
    assert histogram_divergence(data, model) == pytest.approx(expected, rel=1e-14)
    with pytest.raises(ConfigurationError, match="empty"):
        histogram_divergence(data, np.zeros(4))


def test_divergence_of_dense_histograms_is_that_of_the_distributions() -> None:
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(20))
    exact = float((p * np.log(p / q)).sum())
    found = histogram_divergence(p * 1e9, q * 1e9)
    assert found == pytest.approx(exact, rel=1e-6)  # half a count in 1e9, over shares down to 1e-3


def test_divergence_against_its_noise_floor() -> None:
    generator = torch.Generator().manual_seed(0)
    data, same, other = (0.6 * torch.randn(20_000, 2, generator=generator) for _ in range(3))
    equal = torsion_divergence(("phi", "psi"), data, same)
    # both are noise of the same size; a bin's worth of noise varies by a few per cent
    assert equal.divergence.value == pytest.approx(equal.noise_floor.value, rel=0.2)
    shifted = torsion_divergence(("phi", "psi"), data, other + torch.tensor([0.6, 0.0]))
    # Gaussians one standard deviation apart: 1/2, above the noise
    assert shifted.divergence.value == pytest.approx(0.5 + equal.noise_floor.value, abs=0.05)
    assert shifted.divergence.n == 10_000


def test_total_variation_of_histograms_counted_by_hand() -> None:
    first, second = np.array([3.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 1.0, 0.0])
    # shares 3/4, 1/4, 0 and 1/2, 0, 1/2
    assert total_variation(first, second) == pytest.approx(0.5, rel=1e-15)
    assert total_variation(second, first) == total_variation(5 * first, second)
    assert total_variation(first, 7 * first) == 0
    assert total_variation(np.eye(2), 1 - np.eye(2)) == 1
    with pytest.raises(ConfigurationError, match="empty"):
        total_variation(first, np.zeros(4))


def test_total_variation_of_equal_distributions_is_its_noise() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(50))
    n = 10_000
    found = np.mean([total_variation(rng.multinomial(n, p), rng.multinomial(n, p)) for _ in range(100)])
    # half the mean absolute difference of two normal numbers of variance p / n each
    assert found == pytest.approx(float(np.sqrt(p * (1 - p) / (math.pi * n)).sum()), rel=0.03)  # 100 repetitions
