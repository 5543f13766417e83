"""Percentiles against the closed form of a flow of independent normal coordinates, and on samples of a flow."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from smoothflow import FlowPotential
from smoothflow.core.errors import ConfigurationError, GeometryError
from smoothflow.potentials.familiarity import Familiarity


class ChiSquared(torch.nn.Module):
    """A flow in name: its energies are kT times half a sum of k squared normal numbers."""

    device, dtype, kT = torch.device("cpu"), torch.float64, 2.5

    def __init__(self, degrees: int) -> None:
        super().__init__()
        self.degrees = degrees

    def sample(self, n: int, generator: torch.Generator) -> tuple[None, torch.Tensor]:
        z = torch.randn((n, self.degrees), generator=generator, dtype=torch.float64)
        return None, -0.5 * z.square().sum(-1)


@pytest.mark.parametrize("degrees", [6, 60])
def test_percentiles_are_those_of_the_distribution(degrees: int) -> None:
    flow = ChiSquared(degrees)
    familiar = Familiarity(flow, 20_000)  # type: ignore[arg-type]
    shares = np.array([0.01, 0.1, 0.5, 0.9, 0.985])
    energies = flow.kT * stats.chi2(degrees).ppf(shares) / 2
    # four standard errors of shares of 20,000
    error = 100 * np.sqrt(shares * (1 - shares) / 20_000)
    assert np.all(np.abs(familiar(torch.tensor(energies)).numpy() - 100 * shares) < 4 * error)


@pytest.mark.parametrize("degrees", [6, 60])
@pytest.mark.parametrize("seed", range(5))
def test_the_tail_goes_on_beyond_the_samples_and_does_not_cry_wolf(degrees: int, seed: int) -> None:
    flow = ChiSquared(degrees)
    familiar = Familiarity(flow, 10_000, seed)  # type: ignore[arg-type]
    survival = np.array([1e-3, 1e-4, 1e-6, 1e-8])
    energies = torch.tensor(flow.kT * stats.chi2(degrees).isf(survival) / 2)
    found = 1 - familiar(energies).numpy() / 100
    assert np.all(np.diff(found) < 0)
    # energies fall off faster than the exponential: what is rare is taken for less rare, but for the noise of the scale
    # which 100 samples tell to 10 %, in logarithms
    assert np.all(np.log(found / survival) > 0.25 * np.log(survival / 0.01))
    assert np.all(found[:2] < 3 * survival[:2])
    assert found[2] < 30 * survival[2]


def test_percentiles_of_new_samples_are_uniform(make_potential: Callable[[str], FlowPotential]) -> None:
    flow = make_potential("affine")
    familiar = Familiarity(flow, 5000)
    with torch.no_grad():
        positions, log_prob = flow.sample(2000, seed=77)
    found = familiar.percentile(positions)
    # energies by encoding and by drawing agree to the rounding of an inverse
    torch.testing.assert_close(found, familiar(-flow.kT * log_prob), rtol=0, atol=0.05)
    # also with the noise of 5000 samples
    assert stats.kstest(found.numpy() / 100, "uniform").statistic < 1.95 * np.sqrt(1 / 2000 + 1 / 5000)
    assert familiar.percentile(positions[0]).shape == ()


def test_a_stretched_bond_lies_in_the_tail(make_potential: Callable[[str], FlowPotential]) -> None:
    flow = make_potential("affine")
    familiar = Familiarity(flow, 1000)
    q, _ = flow.coordinates.encode(flow.sample(1, seed=3)[0])
    stretched = q.repeat(6, 1)
    stretched[:, 0] += torch.linspace(0, 0.05, 6, dtype=torch.float64)
    found = familiar.percentile(flow.coordinates.decode(stretched)[0]).tolist()
    assert found[-1] > 99.9999
    assert sorted(found) == found


def test_samples_are_those_of_the_seed(make_potential: Callable[[str], FlowPotential]) -> None:
    flow = make_potential("affine")
    first, again, other = (Familiarity(flow, 1200, seed).energies for seed in (0, 0, 1))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert len(first) == 1200
    assert not torch.equal(first, other)


def test_what_is_not_an_energy_is_as_unusual_as_can_be() -> None:
    familiar = Familiarity(ChiSquared(6), 1000)  # type: ignore[arg-type]
    found = familiar(torch.tensor([float("nan"), float("inf"), -1e6]))
    assert found.tolist() == [100.0, 100.0, 0.0]


def test_what_cannot_be_is_refused(make_potential: Callable[[str], FlowPotential]) -> None:
    flow = make_potential("affine")
    with pytest.raises(ConfigurationError, match="at least 1000 samples; 10"):
        Familiarity(flow, 10)
    with pytest.raises(ConfigurationError, match="seed"):
        Familiarity(flow, 1000, -1)
    positions = flow.sample(1, seed=0)[0]
    positions[0, 3, 1] = float("nan")
    with pytest.raises(GeometryError, match="not finite"):
        Familiarity(flow, 1000).percentile(positions)
