from __future__ import annotations

import pytest
import torch
from smoothflow.core.errors import ConfigurationError, TopologyError
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Atom, Topology
from smoothflow.potentials.sums import SumPotential
from smoothflow.potentials.toys import CorrelatedTorus, PeriodicRings, VonMises


class Spring(Potential):
    def __init__(self, *elements: str) -> None:
        super().__init__()
        self.topology = Topology(tuple(Atom(element, element, "MOL", 0) for element in elements), ())
        self.shape = (len(elements), 3)

    def energy(self, positions: torch.Tensor) -> torch.Tensor:
        return positions.square().sum((-2, -1))


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
    first, second = Spring("C", "H"), Spring("C", "H")
    assert SumPotential([first, second]).topology is first.topology


def test_other_systems_are_refused() -> None:
    with pytest.raises(TopologyError, match=r"shape \(3, 3\)"):
        SumPotential([Spring("C", "H"), Spring("C", "H", "H")])
    with pytest.raises(TopologyError, match="atom 0 is C in the first and H"):
        SumPotential([Spring("C", "H"), Spring("H", "C")])


def test_a_sum_needs_potentials_and_as_many_weights() -> None:
    with pytest.raises(ConfigurationError, match="got 0 and 0"):
        SumPotential([])
    with pytest.raises(ConfigurationError, match="got 1 and 2"):
        SumPotential([CorrelatedTorus()], [1.0, 2.0])
