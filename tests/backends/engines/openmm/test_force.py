"""A potential as an OpenMM force, in OpenMM."""

from __future__ import annotations

import copy
import pickle
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from smoothflow import FlowPotential
from smoothflow.backends.engines.openmm import OpenMMPotential, to_openmm_force
from smoothflow.backends.engines.openmm.force import TensorForceFunction
from smoothflow.core.errors import ConfigurationError, MissingDependencyError, SimulationError, TopologyError
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


def test_a_potential_that_knows_no_elements_takes_any(chain: Potential, chain_positions: Tensor, pdb: Any) -> None:
    chain.topology = None
    found = context(to_openmm_force(chain, pdb.topology, [4, 5, 6, 7]), 22)
    x = np.zeros((22, 3))
    x[4:8] = chain_positions[0]
    assert energy_and_forces(found, x)[0] == pytest.approx(chain.energy(chain_positions[:1]).item(), rel=1e-14)


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
    energy_and_forces(found, x.numpy())
    x[0, 0] = 2.0
    with pytest.raises(openmm.OpenMMException, match=r"the force on atom 0 \(MOL1-C1\) is not finite"):
        energy_and_forces(found, x.numpy())


def test_another_number_of_particles_stops_openmm(chain: Potential) -> None:
    with pytest.raises(openmm.OpenMMException, match="has 4 atoms and was given 5"):
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


@pytest.mark.parametrize("particles", [[0, 1, 2], [0, 1, 2, 4], [0, 1, 2, 2], [0, 1, 2, -1]])
def test_particles_that_do_not_fit_are_refused(chain: Potential, particles: list[int]) -> None:
    with pytest.raises(ConfigurationError):
        to_openmm_force(chain, chain.topology, particles)


def test_copies_of_a_system_keep_the_potential_and_other_forces(flow: FlowPotential, positions: Tensor) -> None:
    # a bias on a torsion and a restraint of a bond, each with a parameter of the Context
    bias = openmm.CustomTorsionForce("height*cos(theta)")
    bias.addGlobalParameter("height", 5.0)
    bias.addTorsion(4, 6, 8, 14)
    spring = openmm.CustomBondForce("stiffness*(r-0.3)^2")
    spring.addGlobalParameter("stiffness", 100.0)
    spring.addBond(0, 21)
    original = context(to_openmm_force(flow), 22, bias, spring)  # owns the System
    system = original.getSystem()
    copies = [
        system,
        copy.deepcopy(system),
        pickle.loads(pickle.dumps(system)),
        openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system)),
    ]
    x = positions[:1].clone().requires_grad_(True)
    a, b, c, d = (x[0, i] for i in (4, 6, 8, 14))
    first, second = torch.linalg.cross(b - a, c - b), torch.linalg.cross(c - b, d - c)
    cosine = first @ second / (first.norm() * second.norm())
    for height, stiffness in ((5.0, 100.0), (-3.0, 0.0)):
        expected = flow.energy(x) + height * cosine + stiffness * ((x[0, 0] - x[0, 21]).norm() - 0.3) ** 2
        (gradient,) = torch.autograd.grad(expected.sum(), x, retain_graph=True)
        for each in copies:
            reference = openmm.Platform.getPlatformByName("Reference")
            found = openmm.Context(each, openmm.VerletIntegrator(0.001), reference)
            found.setParameter("height", height)
            found.setParameter("stiffness", stiffness)
            energy, force = energy_and_forces(found, positions[0].numpy())
            assert energy == pytest.approx(expected.item(), rel=1e-12)
            torch.testing.assert_close(force, -gradient[0], rtol=1e-9, atol=1e-8)


def test_a_molecule_inside_a_larger_system_feels_the_flow_alone(flow: FlowPotential, positions: Tensor) -> None:
    # a particle without element and one more atom come first; the molecule is in reverse order
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    topology.addAtom("EP", None, residue)
    topology.addAtom("AR", app.Element.getBySymbol("Ar"), residue)
    atoms = [topology.addAtom(a.name, app.Element.getBySymbol(a.element), residue) for a in flow.topology.atoms[::-1]]
    for i, j in flow.topology.bonds:
        topology.addBond(atoms[21 - i], atoms[21 - j])
    topology.setPeriodicBoxVectors(3 * np.eye(3) * unit.nanometer)
    particles = [23 - i for i in range(22)]
    found = context(to_openmm_force(flow, topology, particles), 24)
    x = np.concatenate([[[3.0, 0.0, 0.0], [0.0, 3.0, 0.0]], positions[0].numpy()[::-1]])
    energy, force = energy_and_forces(found, x)
    energies, forces = flow.energy_and_forces(positions[:1])
    assert energy == pytest.approx(energies.item(), rel=1e-12)
    torch.testing.assert_close(force[particles], forces[0], rtol=1e-9, atol=1e-8)
    assert not force[:2].any()


def test_equal_elements_in_another_order_are_seen_in_the_bonds(flow: FlowPotential) -> None:
    order = list(range(22))
    names = [str(atom) for atom in flow.topology.atoms]
    i, j = names.index("ALA2-CA"), names.index("ALA2-C")
    order[i], order[j] = j, i
    with pytest.raises(TopologyError, match=r"Bonds differ .* another order"):
        to_openmm_force(flow, flow.topology.take(order))


def test_a_periodic_molecule_is_refused(flow: FlowPotential, pdb: Any) -> None:
    topology = copy.copy(pdb.topology)
    topology.setPeriodicBoxVectors(3 * np.eye(3) * unit.nanometer)
    with pytest.raises(ConfigurationError, match=r"setPeriodicBoxVectors\(None\)"):
        to_openmm_force(flow, topology)


@pytest.mark.parametrize(
    ("factor", "message"), [(10.0, "positions in Å seem to have been taken for nm"), (0.1, "Multiply them by 10")]
)
def test_positions_in_another_unit_stop_openmm_at_the_first_step(
    flow: FlowPotential, positions: Tensor, factor: float, message: str
) -> None:
    found = context(to_openmm_force(flow), 22)
    with pytest.raises(openmm.OpenMMException, match=message):
        energy_and_forces(found, factor * positions[0].numpy())
    energy, _ = energy_and_forces(found, positions[0].numpy())
    # once checked, geometries are the simulation's own
    assert energy_and_forces(found, 1.5 * positions[0].numpy())[0] > energy
    restored = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(found.getSystem()))
    fresh = openmm.Context(restored, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    with pytest.raises(openmm.OpenMMException, match=message):
        energy_and_forces(fresh, factor * positions[0].numpy())


def test_the_coordinate_that_makes_an_energy_infinite_is_named(flow: FlowPotential, positions: Tensor) -> None:
    found = context(to_openmm_force(flow), 22)
    x = positions[0].numpy().copy()
    energy_and_forces(found, x)
    i, j = flow.topology.bonds[3]
    x[i] = x[j]
    with pytest.raises(openmm.OpenMMException, match=r'coordinate ".*" \(nm, rad\) is farthest .* it is 0, '):
        energy_and_forces(found, x)
    x[i] = np.nan
    with pytest.raises(openmm.OpenMMException, match=rf"position of atom {i} .* not defined"):
        energy_and_forces(found, x)


def test_openmm_absent_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch, chain: Potential) -> None:
    for owner, name in ((openmm.PythonForce, "setParticles"), (openmm, "PythonForce")):
        monkeypatch.delattr(owner, name)
        with pytest.raises(ConfigurationError, match=rf"OpenMM {openmm.__version__} has no PythonForce"):
            to_openmm_force(chain)
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(MissingDependencyError, match=r"smoothflow\[openmm\]"):
        to_openmm_force(chain)


def test_a_force_of_tensors_gives_what_the_potential_does_and_checks_where_it_begins_and_ends(
    chain: Potential, chain_positions: Tensor
) -> None:
    function = TensorForceFunction(chain)
    for i in (0, 1, 0):
        x = chain_positions[i].float()
        energy, forces = function(None, x)
        expected_energy, expected_forces = chain.energy_and_forces(x.double())
        assert float(energy) == pytest.approx(float(expected_energy), rel=1e-14)
        # in the precision of the platform
        assert forces.dtype == torch.float32
        torch.testing.assert_close(forces, expected_forces.float(), rtol=1e-6, atol=0)
    with pytest.raises(SimulationError, match=r"position of .* is not finite"):
        function(None, torch.full((4, 3), torch.nan))
    with pytest.raises(ConfigurationError, match="has 4 atoms and was given 5"):
        TensorForceFunction(chain)(None, torch.zeros(5, 3))
    assert type(pickle.loads(pickle.dumps(function))) is TensorForceFunction


def test_on_a_gpu_the_force_is_one_of_tensors_where_there_is_the_package(
    chain: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class PythonTorchForce(openmm.HarmonicBondForce):  # type: ignore[misc]
        def __init__(self, function: Any) -> None:
            super().__init__()
            made.append(function)

        def setParticles(self, particles: Sequence[int]) -> None:
            made.append(list(particles))

    monkeypatch.setitem(sys.modules, "openmmtorch", types.SimpleNamespace(PythonTorchForce=PythonTorchForce))
    to_openmm_force(chain)
    assert made == []
    chain.device = torch.device("cuda")
    assert isinstance(to_openmm_force(chain), PythonTorchForce)
    assert isinstance(made[0], TensorForceFunction)
    assert made[1] == []
    # an older version of it, or none
    for older in (types.SimpleNamespace(), None):
        monkeypatch.setitem(sys.modules, "openmmtorch", older)
        assert isinstance(to_openmm_force(chain), openmm.PythonForce)
