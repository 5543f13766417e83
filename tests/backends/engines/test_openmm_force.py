"""A potential as an OpenMM force, in OpenMM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from smoothflow.backends.engines.openmm import OpenMMPotential, to_openmm_force
from smoothflow.core.errors import ConfigurationError, TopologyError
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Topology
from torch import Tensor


def context(force: Any, n_particles: int, *others: Any) -> openmm.Context:
    system = openmm.System()
    for _ in range(n_particles):
        system.addParticle(1.0)
    for each in (force, *others):
        system.addForce(each)
    return openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))


def energy_and_forces(found: openmm.Context, positions: Sequence[Any] | np.ndarray) -> tuple[float, Tensor]:
    found.setPositions(positions)
    state = found.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, torch.tensor(state.getForces(asNumpy=True)._value)


def test_openmm_computes_the_same_energies_and_forces(chain: Potential, chain_positions: Tensor) -> None:
    found = context(to_openmm_force(chain), 4)
    energies, forces = chain.energy_and_forces(chain_positions)
    for i, x in enumerate(chain_positions):
        energy, force = energy_and_forces(found, x.numpy())
        assert energy == pytest.approx(energies[i].item(), rel=1e-14)
        torch.testing.assert_close(force, forces[i], rtol=1e-14, atol=0)


def test_a_force_field_survives_the_way_through_a_python_force(amber: OpenMMPotential, positions: Tensor) -> None:
    energy, force = energy_and_forces(context(to_openmm_force(amber, amber.topology), 22), positions[0].numpy())
    energies, forces = amber.energy_and_forces(positions[:1])
    assert energy == pytest.approx(energies.item(), rel=1e-12)
    torch.testing.assert_close(force, forces[0], rtol=1e-10, atol=1e-8)


def test_xml_keeps_the_potential(chain: Potential, chain_positions: Tensor) -> None:
    original = context(to_openmm_force(chain), 4)
    system = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(original.getSystem()))
    restored = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    x = chain_positions[0].numpy()
    energy, force = energy_and_forces(original, x)
    assert energy_and_forces(restored, x)[0] == energy
    assert torch.equal(energy_and_forces(restored, x)[1], force)


def test_a_subset_of_atoms_adds_to_other_forces(chain: Potential, chain_positions: Tensor) -> None:
    particles = [5, 0, 3, 1]
    well = openmm.CustomExternalForce("50*(x^2+y^2+z^2)")
    for i in range(6):
        well.addParticle(i)
    found = context(to_openmm_force(chain, particles=particles), 6, well)
    x = 0.1 * torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[particles] = chain_positions[0]
    energy, force = energy_and_forces(found, x.numpy())
    chain_energy, chain_forces = chain.energy_and_forces(chain_positions[:1])
    assert energy == pytest.approx(chain_energy.item() + 50 * (x**2).sum().item(), rel=1e-12)
    expected = -100 * x
    expected[particles] += chain_forces[0]
    torch.testing.assert_close(force, expected, rtol=1e-12, atol=1e-10)


def test_numbers_that_are_not_finite_stop_openmm_and_name_the_atom(
    not_finite: Potential, chain_positions: Tensor
) -> None:
    found = context(to_openmm_force(not_finite), 4)
    x = chain_positions[0].clone()
    x[0, 0] = 2.0
    with pytest.raises(openmm.OpenMMException, match=r"the force on atom 0 \(MOL1-C1\) is not finite"):
        energy_and_forces(found, x.numpy())


def test_another_number_of_particles_stops_openmm(chain: Potential) -> None:
    with pytest.raises(openmm.OpenMMException, match="of 4 atoms and was given 5"):
        energy_and_forces(context(to_openmm_force(chain), 5), np.eye(5, 3))


def test_elements_and_their_order_are_checked(chain: Potential, amber: OpenMMPotential, pdb: Any) -> None:
    assert isinstance(chain.topology, Topology)
    to_openmm_force(amber, pdb.topology)
    swapped = Topology(chain.topology.atoms[::-1], ())
    with pytest.raises(TopologyError, match="atom 0 is C in the first and H in the second"):
        to_openmm_force(chain, swapped)
    to_openmm_force(chain, swapped, particles=[3, 2, 1, 0])
    with pytest.raises(TopologyError, match="has 4 atoms and the OpenMM topology has 22"):
        to_openmm_force(chain, pdb.topology)


@pytest.mark.parametrize("particles", [[0, 1, 2], [0, 1, 2, 4]])
def test_particles_that_do_not_fit_are_refused(chain: Potential, particles: list[int]) -> None:
    with pytest.raises(ConfigurationError):
        to_openmm_force(chain, chain.topology, particles)
