"""Configurations far from all data: float32 and float64 give the same number, or one that nobody takes for a number."""

from __future__ import annotations

import pytest
import torch
from smoothflow.core.errors import GeometryError
from smoothflow.core.plugins import registry
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.shipped import load
from torch import Tensor


@pytest.fixture(scope="module", params=registry().names("model"))
def pair(request: pytest.FixtureRequest) -> tuple[FlowPotential, FlowPotential]:
    """A model that ships in both precisions."""
    return load(request.param), load(request.param, torch.float32)


def sample(potential: FlowPotential) -> Tensor:
    with torch.no_grad():
        positions, _ = potential.sample(1, torch.Generator().manual_seed(0))
    return positions


def pulled(positions: Tensor, distance: float) -> Tensor:
    positions = positions.clone()
    positions[:, 5] += distance
    return positions


def test_far_from_all_data_both_precisions_agree(pair: tuple[FlowPotential, FlowPotential]) -> None:
    double, single = pair
    x = sample(double)
    mirrored = x * torch.tensor([-1.0, 1.0, 1.0], dtype=x.dtype)
    # the same numbers in both
    cases = torch.cat([x, mirrored, 10 * x, *(pulled(x, d) for d in (0.03, 0.1, 1.0, 10.0, 1e3, 1e6))]).float()
    expected, expected_forces = double.energy_and_forces(cases.double())
    energies, forces = single.energy_and_forces(cases)
    assert bool(energies.isfinite().all())
    # rounding of a hundred terms, each a few times the machine's epsilon of 1e-7
    torch.testing.assert_close(energies.double(), expected, rtol=2e-5, atol=0.05)
    size = expected_forces.flatten(1).norm(dim=-1)
    finite = forces.flatten(1).isfinite().all(-1)
    # the last is beyond the largest float32 in one of the models
    assert bool(finite[:-1].all())
    different = (forces.double() - expected_forces).flatten(1).norm(dim=-1) / size
    assert float(different[finite].max()) < 1e-3
    # an energy grows without bounds, and never saturates
    assert bool((expected[4:].diff() > 0).all())


def test_configurations_outside_the_molecule_have_no_energy(pair: tuple[FlowPotential, FlowPotential]) -> None:
    for potential, dtype in zip(pair, (torch.float64, torch.float32), strict=True):
        x = sample(pair[0]).to(dtype)
        overlapping = x.clone()
        first, second = potential.topology.bonds[3]
        overlapping[:, first] = overlapping[:, second]
        beyond = 1e19 if dtype == torch.float32 else 1e200
        for case in (overlapping, pulled(x, beyond)):
            energy, forces = potential.energy_and_forces(case)
            assert not bool(energy.isfinite().all() and forces.isfinite().all())
        for value in (float("nan"), float("inf")):
            with pytest.raises(GeometryError, match=r"position of atom \d+ \(.*\) is not finite"):
                potential.energy_and_forces(pulled(x, value))
