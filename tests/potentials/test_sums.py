from __future__ import annotations

import pytest
import torch
from closed_forms import HarmonicWell, atoms_of
from smoothflow.core.errors import ConfigurationError, TopologyError
from smoothflow.core.topology import Topology
from smoothflow.potentials.sums import SumPotential
from smoothflow.potentials.toys import CorrelatedTorus, PeriodicRings, VonMises


def well(elements: str) -> HarmonicWell:
    return HarmonicWell(len(elements), 2.0, Topology(atoms_of(elements), ()))


def test_energies_and_forces_add_with_their_weights() -> None:
    parts = [PeriodicRings(), CorrelatedTorus(), VonMises([1.0, 2.0], [3.0, 4.0])]
    weights = [0.5, -2.0, 3.0]
    x = torch.rand(7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    energy, forces = SumPotential(parts, weights).energy_and_forces(x)
    results = [part.energy_and_forces(x) for part in parts]
    torch.testing.assert_close(energy, sum(w * e for w, (e, _) in zip(weights, results, strict=True)))
    torch.testing.assert_close(forces, sum(w * f for w, (_, f) in zip(weights, results, strict=True)))


def test_weights_are_one_unless_given() -> None:
    x = torch.full((1, 2), 0.3)
    toy = CorrelatedTorus()
    torch.testing.assert_close(SumPotential([toy, toy]).energy(x), 2 * toy.energy(x))


def test_the_topology_is_that_of_the_parts() -> None:
    first, second = well("CH"), well("CH")
    assert SumPotential([first, second]).topology is first.topology


def test_other_systems_are_refused() -> None:
    with pytest.raises(TopologyError, match=r"shape \(3, 3\)"):
        SumPotential([well("CH"), well("CHH")])
    with pytest.raises(TopologyError, match="atom 0 is C in the first and H"):
        SumPotential([well("CH"), well("HC")])


def test_a_sum_needs_potentials_and_as_many_weights() -> None:
    with pytest.raises(ConfigurationError, match="got 0 and 0"):
        SumPotential([])
    with pytest.raises(ConfigurationError, match="got 1 and 2"):
        SumPotential([CorrelatedTorus()], [1.0, 2.0])
