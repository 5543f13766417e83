"""Jumps leave the reference's distribution as it is, however poor the model that proposes them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.jumps import Jumps
from smoothflow.core.units import thermal_energy
from smoothflow.potentials.shipped import load
from torch import Tensor

KT = thermal_energy(300.0)
SHORT, LONG = 0.1, 0.2
"""Bond lengths between which the poor model draws evenly, nm."""


class EvenBonds:
    """Proposes a diatomic molecule with any bond length between two, evenly: it knows nothing of the reference."""

    temperature = 450.0

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        length = SHORT + (LONG - SHORT) * torch.rand(n, generator=generator, dtype=torch.float64)
        x = torch.zeros(n, 2, 3, dtype=torch.float64)
        x[:, 1, 2] = length
        return x, -2 * length.log()

    def energy(self, x: Tensor) -> Tensor:
        length = (x[:, 1] - x[:, 0]).norm(dim=-1)
        inside = (length >= SHORT) & (length <= LONG)
        # the density of positions modulo rigid motion is that of the length over r^2
        return torch.where(inside, 2 * thermal_energy(self.temperature) * length.log(), torch.inf)


def double_well(x: Tensor) -> Tensor:
    """Minima at 0.12 and 0.18 nm, 6 kT apart by the barrier, and a field along z."""
    r = x[:, 1] - x[:, 0]
    s = (r.norm(dim=-1) - 0.15) / 0.03
    return KT * (6 * (s**2 - 1) ** 2 + 0.4 * s - 10.0 * r[:, 2])


def chain(n_steps: int, per_attempt: int, seed: int) -> Tensor:
    jumps, generator = Jumps(EvenBonds(), 300.0), torch.Generator().manual_seed(seed)
    x = torch.tensor([[0.0, 0, 0], [0, 0, 0.12]], dtype=torch.float64)
    energy, found = float(double_well(x[None])), []
    for _ in range(n_steps):
        jump = jumps.attempt(x, energy, double_well, generator, per_attempt)
        x, energy = jump.positions, jump.energy
        assert energy == pytest.approx(float(double_well(x[None])), rel=1e-12)
        found.append(x[1] - x[0])
    return torch.stack(found)


def test_jumps_of_a_poor_model_give_the_distribution_of_the_reference() -> None:
    found = chain(6000, 20, seed=1)
    length = found.norm(dim=-1).numpy()
    # p(r) ~ r^2 exp(-U_r/kT) sinh(a r)/(a r), with the orientation in the field integrated out
    r = np.linspace(SHORT, LONG, 20_001)
    s = (r - 0.15) / 0.03
    density = r**2 * np.exp(-(6 * (s**2 - 1) ** 2 + 0.4 * s)) * np.sinh(10 * r) / (10 * r)
    cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    cumulative /= cumulative[-1]
    # one jump in some four is made: after twenty of them states are independent
    assert stats.kstest(length, lambda x: np.interp(x, r, cumulative)).pvalue > 0.01
    cosine = (found[:, 2] / found.norm(dim=-1)).numpy()
    # Langevin's function of the field, at each length
    expected = float((np.gradient(cumulative) * (1 / np.tanh(10 * r) - 1 / (10 * r))).sum())
    assert cosine.mean() == pytest.approx(expected, abs=4 * cosine.std() / math.sqrt(len(cosine)))
    # evenly about the field
    angle = torch.atan2(found[:, 1], found[:, 0]).numpy()
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 0.01


def test_jumps_take_turns_whether_attempted_one_by_one_or_together() -> None:
    jumps, generator = Jumps(EvenBonds(), 300.0), torch.Generator().manual_seed(3)
    x = torch.tensor([[5.0, 1.0, 0], [5.0, 1.0, 0.12]], dtype=torch.float64)
    moved = jumps.attempt(x, float(double_well(x[None])), double_well, generator, 200)
    assert 0 < moved.accepted < 200
    torch.testing.assert_close(moved.positions.mean(0), x.mean(0), rtol=0, atol=1e-14)


def test_jumps_that_are_refused_leave_positions_bit_for_bit() -> None:
    jumps, generator = Jumps(EvenBonds(), 300.0), torch.Generator().manual_seed(3)
    x = torch.tensor([[0.1, 0.2, 0.3], [0.1, 0.2, 0.42]], dtype=torch.float64)
    jump = jumps.attempt(x, -1e6, double_well, generator, 50)
    assert jump.accepted == 0
    assert jump.energy == -1e6
    assert torch.equal(jump.positions, x)


@pytest.mark.parametrize("worthless", [torch.nan, torch.inf])
def test_proposals_without_an_energy_are_refused(worthless: float) -> None:
    jumps, generator = Jumps(EvenBonds(), 300.0), torch.Generator().manual_seed(3)
    x = torch.tensor([[0.0, 0, 0], [0, 0, 0.12]], dtype=torch.float64)
    jump = jumps.attempt(x, 0.0, lambda y: torch.full((len(y),), worthless), generator, 20)
    assert jump.accepted == 0


def test_what_draws_no_samples_proposes_nothing() -> None:
    with pytest.raises(ConfigurationError, match="draws no samples"):
        Jumps(object(), 300.0)
    with pytest.raises(ConfigurationError, match=r"positive and finite; it is 0\.0 K"):
        Jumps(load("ala2-affine"), 0.0)
