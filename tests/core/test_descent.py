"""Steps down the gradient."""

from __future__ import annotations

import pytest
import torch
from closed_forms import HarmonicWell
from smoothflow.core.descent import FIRST_DISPLACEMENT, descend


def test_harmonic_wells_are_descended_to_their_minimum() -> None:
    well = HarmonicWell(2, stiffness=500.0)
    start = torch.tensor([[[0.1, 0.0, 0.0], [0.0, 0.02, 0.0]]], dtype=torch.float64)
    below = descend(well, start, 300)
    # a step that would change the energy by 1e-6 kJ/mol is not tried
    assert float(well.energy(below)) < 1e-4
    assert float(well.energy(descend(well, start, 1))) < float(well.energy(start))


def test_first_step_moves_the_atom_of_the_largest_force_by_the_first_displacement() -> None:
    start = torch.tensor([[[0.1, 0.0, 0.0], [0.0, 0.02, 0.0]]], dtype=torch.float64)
    moved = (descend(HarmonicWell(2, stiffness=500.0), start, 1) - start).norm(dim=-1)
    # forces are proportional to the distances from the origin
    torch.testing.assert_close(moved[0], torch.tensor([FIRST_DISPLACEMENT, FIRST_DISPLACEMENT / 5]).double())


def test_step_that_would_raise_the_energy_is_not_taken() -> None:
    start = torch.tensor([[[0.002, 0.0, 0.0]]], dtype=torch.float64)  # the first step would end at -0.003
    assert torch.equal(descend(HarmonicWell(1, stiffness=500.0), start, 1), start)


@pytest.mark.parametrize("n_steps", [1, 20])
def test_each_configuration_goes_its_own_way(n_steps: int) -> None:
    well = HarmonicWell(2, stiffness=500.0)
    start = 0.1 * torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    alone = torch.cat([descend(well, one[None], n_steps) for one in start])
    assert torch.equal(descend(well, start, n_steps), alone)


def test_configuration_without_finite_forces_stays_where_it_is() -> None:
    class Pole(HarmonicWell):
        def energy(self, positions: torch.Tensor) -> torch.Tensor:
            return super().energy(positions) - positions[:, 0].norm(dim=-1).log()

    start = torch.tensor([[[0.0, 0.0, 0.0]], [[0.5, 0.0, 0.0]]], dtype=torch.float64)
    below = descend(Pole(1, stiffness=1.0), start, 5)
    assert torch.equal(below[0], start[0])
    assert float(below[1, 0, 0]) > 0.5
