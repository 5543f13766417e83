"""Basins that nobody named: where they are, how populated, and which kind of configurations misses one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from smoothflow.analysis.found_basins import COLUMNS, found_basins
from smoothflow.analysis.observation import Configurations
from smoothflow.core.manifolds import FULL_TURN, Circle, Product
from torch import Tensor

DOMAIN = Product.of(Circle(FULL_TURN), ["phi", "psi", "chi 1", "methyl 1"])


def configurations(angles: Tensor, log_weights: Tensor | None = None) -> Configurations:
    n = len(angles)
    nothing = torch.zeros(n, 1, 3, dtype=torch.float64)
    energy = torch.zeros(n, dtype=torch.float64) if log_weights is None else -log_weights
    return Configurations(nothing, angles, torch.zeros(n, dtype=torch.float64), energy, nothing, nothing)


def gathered(*groups: tuple[int, tuple[float, float, float]]) -> Tensor:
    """Angles (radians) around places in degrees, 10 degrees wide; the last column is all around."""
    noise = np.random.default_rng(0)
    parts = [
        np.column_stack([np.radians(noise.normal(place, 10.0, (n, 3))), noise.uniform(-math.pi, math.pi, n)])
        for n, place in groups
    ]
    return torch.from_numpy(np.concatenate(parts))


def test_basins_have_their_places_populations_and_free_energies() -> None:
    angles = gathered((3000, (-80, 150, 60)), (1000, (-80, -30, 60)), (500, (55, 40, 60)))
    # the second one weighs three times as much as it was drawn
    log_weights = torch.cat([torch.zeros(3000), torch.full((1000,), math.log(3)), torch.zeros(500)]).double()
    found = found_basins(DOMAIN, configurations(angles, log_weights))
    # a torsion with one well tells nothing, and methyl groups are none
    assert {basin.torsions for basin in found} == {("phi", "psi")}
    places = {tuple(round(x, -1) for x in basin.centre): basin for basin in found}
    assert set(places) == {(-80, 150), (-80, -30), (50, 40)} or set(places) == {(-80, 150), (-80, -30), (60, 40)}
    first, second, third = (
        places[-80, 150],
        places[-80, -30],
        next(b for place, b in places.items() if place[0] > 0),
    )
    assert [b.n_samples for b in (first, second, third)] == [3000, 1000, 500]
    assert second.reweighted.value == pytest.approx(3000 / 6500)
    assert third.reweighted.value == pytest.approx(500 / 6500)
    reference = next(b for b in found if b.free_energy is None)
    assert reference in (first, second)  # of equal weight
    assert third.free_energy is not None
    assert third.free_energy.value == pytest.approx(math.log(6))
    # of 500 of 6500 effective draws or fewer: 1/sqrt(500), and that of the other
    assert 1 / math.sqrt(500) < third.free_energy.error < 3 / math.sqrt(500)
    assert all(basin.missing == "" and basin.frames is None for basin in found)
    assert all(len(basin.row()) == len(COLUMNS) for basin in found)


def test_basins_that_one_kind_misses_are_told() -> None:
    samples = configurations(gathered((2000, (-80, 150, 60)), (200, (55, 40, 60))))
    frames = configurations(gathered((2000, (-80, 150, 60)), (100, (-80, 150, -60))))
    found = found_basins(DOMAIN, samples, frames)
    missing = [basin.missing for basin in found if basin.missing]
    assert len(missing) == 2
    assert "phi +55, psi +40: 200 samples of the flow" in missing[0].replace("+54", "+55").replace("+56", "+55")
    assert "chi 1 -6" in missing[1] or "chi 1 -5" in missing[1]
    assert "100 frames of dynamics, and no sample of the flow" in missing[1]


def test_a_molecule_with_one_well_has_no_basins() -> None:
    assert found_basins(DOMAIN, configurations(gathered((1000, (-80, 150, 60))))) == []
