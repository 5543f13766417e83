"""A committee's mean and spread, against NumPy's, and what cannot sit in one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from closed_forms import AnharmonicSprings, HarmonicWell, Springs, atoms_of
from smoothflow.core.committee import CommitteePotential
from smoothflow.core.errors import ConfigurationError, TopologyError
from smoothflow.core.topology import Topology

PAIRS = [(0, 1), (1, 2), (0, 2)]


@pytest.fixture
def committee() -> CommitteePotential:
    return CommitteePotential([Springs(PAIRS, 0.1, 1e4), Springs(PAIRS, 0.12, 3e4), AnharmonicSprings(PAIRS, 0.11)])


@pytest.fixture
def positions() -> torch.Tensor:
    return torch.randn((5, 3, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_mean_and_spread_are_those_of_the_members(committee: CommitteePotential, positions: torch.Tensor) -> None:
    found = [member.energy_and_forces(positions) for member in committee.members]
    energies = np.stack([energy.numpy() for energy, _ in found])
    forces = np.stack([force.numpy() for _, force in found])
    energy, force, energy_spread, force_spread = (x.numpy() for x in committee.energy_forces_and_spread(positions))
    np.testing.assert_allclose(energy, energies.mean(0), rtol=1e-13)
    np.testing.assert_allclose(force, forces.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(energy_spread, energies.std(0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(force_spread, np.sqrt(forces.var(0, ddof=1).sum(-1)), rtol=1e-12)
    np.testing.assert_array_equal(committee.energies(positions).numpy().T, energies)
    for ours, again in zip(committee.energy_and_forces(positions), (energy, force), strict=True):
        np.testing.assert_array_equal(ours.numpy(), again)


def test_the_mean_is_a_potential_whose_forces_are_its_gradient(
    committee: CommitteePotential, positions: torch.Tensor
) -> None:
    x = positions.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(committee.energy(x).sum(), x)
    torch.testing.assert_close(-gradient, committee.energy_and_forces(positions)[1])


def test_a_single_configuration_in_float32_is_answered_as_it_was_asked(
    committee: CommitteePotential, positions: torch.Tensor
) -> None:
    energies = committee.energies(positions[0].float())
    assert (energies.shape, energies.dtype) == ((3,), torch.float32)
    shapes = [tuple(x.shape) for x in committee.energy_forces_and_spread(positions[0])]
    assert shapes == [(), (3, 3), (), (3,)]


def test_members_that_agree_have_no_spread(positions: torch.Tensor) -> None:
    twins = CommitteePotential([Springs(PAIRS, 0.1, 1e4), Springs(PAIRS, 0.1, 1e4)])
    *_, energy_spread, force_spread = twins.energy_forces_and_spread(positions)
    assert float(energy_spread.abs().max()) == 0
    assert float(force_spread.abs().max()) == 0


def well(elements: str, temperature: float | None = None) -> HarmonicWell:
    potential = HarmonicWell(len(elements), 2.0, Topology(atoms_of(elements), ()))
    if temperature is not None:
        potential.temperature = temperature
    return potential


def test_a_committee_has_the_molecule_and_temperature_of_its_members() -> None:
    first = well("CH", 300.0)
    committee = CommitteePotential([first, well("CH", 300.0)])
    assert committee.topology is first.topology
    assert committee.temperature == 300.0
    assert CommitteePotential([well("CH"), well("CH")]).temperature is None


def test_other_molecules_and_temperatures_are_refused() -> None:
    with pytest.raises(TopologyError, match=r"shape \(3, 3\)"):
        CommitteePotential([well("CH"), well("CHH")])
    with pytest.raises(TopologyError, match="potential 1 of the committee"):
        CommitteePotential([well("CH"), well("HC")])
    with pytest.raises(ConfigurationError, match="for 300 and 600 K"):
        CommitteePotential([well("CH", 300.0), well("CH", 600.0)])
    with pytest.raises(ConfigurationError, match="no common zero"):
        CommitteePotential([well("CH", 300.0), well("CH")])
    with pytest.raises(ConfigurationError, match="two members or more; got 1"):
        CommitteePotential([well("CH")])
    twice = well("CH")
    with pytest.raises(ConfigurationError, match="twice"):
        CommitteePotential([twice, twice])
