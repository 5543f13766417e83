"""A model by name in OpenMM-ML, alone and inside a larger system."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from openmmml import MLPotential
from smoothflow import FlowPotential
from smoothflow.core.errors import ConfigurationError, FileFormatError, TopologyError
from torch import Tensor


def energy_and_forces(
    system: openmm.System, positions: np.ndarray, parameters: dict[str, float] | None = None
) -> tuple[float, Tensor]:
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), reference)
    context.setPositions(positions)
    for name, value in (parameters or {}).items():
        context.setParameter(name, value)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, torch.tensor(state.getForces(asNumpy=True)._value)


def force_field(topology: app.Topology) -> openmm.System:
    return app.ForceField("amber99sbildn.xml", "tip3p.xml").createSystem(topology, nonbondedMethod=app.NoCutoff)


@pytest.fixture
def solution(pdb: Any) -> app.Modeller:
    """The molecule with two molecules of water beside it; the first of them comes before it."""
    names = ("O", "H1", "H2")
    water = np.array([[0.0, 0.0, 0.0], [0.09572, 0.0, 0.0], [-0.024, 0.0927, 0.0]])
    topology = app.Topology()
    residue = topology.addResidue("HOH", topology.addChain())
    atoms = [topology.addAtom(name, app.Element.getBySymbol(name[0]), residue) for name in names]
    for hydrogen in atoms[1:]:
        topology.addBond(atoms[0], hydrogen)
    centre = pdb.getPositions(asNumpy=True)._value.mean(0)
    modeller = app.Modeller(topology, (water + centre - [0.0, 0.0, 0.7]) * unit.nanometer)
    modeller.add(pdb.topology, pdb.positions)
    modeller.add(topology, (water + centre + [0.0, 0.2, 0.8]) * unit.nanometer)
    return modeller


SOLUTE = list(range(3, 25))


def test_a_model_file_makes_a_system(model: Path, flow: FlowPotential, pdb: Any, positions: Tensor) -> None:
    energies, forces = flow.energy_and_forces(positions[:1])
    for argument in (model, str(model), flow):
        system = MLPotential("smoothflow", model=argument).createSystem(pdb.topology)
        restored = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
        for each in (system, restored):
            energy, force = energy_and_forces(each, positions[0].numpy())
            assert energy == pytest.approx(energies.item(), rel=1e-12)
            torch.testing.assert_close(force, forces[0], rtol=1e-9, atol=1e-8)


def test_a_solute_keeps_its_interactions_with_the_solvent(flow: FlowPotential, pdb: Any, solution: Any) -> None:
    x = np.array(solution.getPositions().value_in_unit(unit.nanometer))
    everything = force_field(solution.topology)
    mixed = MLPotential("smoothflow", model=flow).createMixedSystem(
        solution.topology, everything, SOLUTE, interpolate=True
    )
    whole, whole_forces = energy_and_forces(everything, x)
    inside, inside_forces = energy_and_forces(force_field(pdb.topology), x[SOLUTE])
    ours, our_forces = flow.energy_and_forces(torch.tensor(x[SOLUTE])[None])
    for fraction in (0.0, 0.4, 1.0):
        energy, forces = energy_and_forces(mixed, x, {"lambda_interpolate": fraction})
        # what the solute does to itself is exchanged, and nothing else
        # OpenMM-ML rounds the Coulomb constant to nine digits: 1e-8 of terms of 1e2 kJ/mol, and of 1e3 kJ/mol/nm
        assert energy == pytest.approx(whole + fraction * (ours.item() - inside), rel=0, abs=1e-5)
        expected = whole_forces.clone()
        expected[SOLUTE] += fraction * (our_forces[0] - inside_forces)
        torch.testing.assert_close(forces, expected, rtol=1e-9, atol=3e-5)


def test_what_is_not_the_molecule_is_refused(flow: FlowPotential, pdb: Any, solution: Any) -> None:
    potential = MLPotential("smoothflow", model=flow)
    system = force_field(solution.topology)
    with pytest.raises(TopologyError, match="has 22 atoms and the OpenMM topology has 28"):
        potential.createSystem(solution.topology)
    with pytest.raises(ConfigurationError, match="22 atoms and 25 different particles"):
        potential.createMixedSystem(solution.topology, system, range(25))
    # a bond is cut, and closed by a link atom where the potential has another one
    with pytest.raises(TopologyError, match="atom 3 is H in the first and C in the second"):
        potential.createMixedSystem(solution.topology, system, [SOLUTE[0], *SOLUTE[2:]])
    with pytest.raises(ConfigurationError, match="Use createSystem"):
        potential.createMixedSystem(pdb.topology, force_field(pdb.topology), range(22))


def test_a_periodic_molecule_is_refused_but_a_solute_in_a_box_is_not(
    flow: FlowPotential, pdb: Any, solution: Any
) -> None:
    potential = MLPotential("smoothflow", model=flow)
    topology = copy.copy(pdb.topology)
    topology.setPeriodicBoxVectors(np.eye(3) * 3 * unit.nanometer)
    with pytest.raises(ConfigurationError, match=r"setPeriodicBoxVectors\(None\)"):
        potential.createSystem(topology)
    solution.topology.setPeriodicBoxVectors(np.eye(3) * 3 * unit.nanometer)
    potential.createMixedSystem(solution.topology, force_field(solution.topology), SOLUTE)


def test_arguments_that_do_not_exist_are_refused(flow: FlowPotential, pdb: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no model"):
        MLPotential("smoothflow")
    with pytest.raises(ConfigurationError, match="unknown argument temperature"):
        MLPotential("smoothflow", model=flow, temperature=300.0)
    with pytest.raises(ConfigurationError, match="no argument precision"):
        MLPotential("smoothflow", model=flow).createSystem(pdb.topology, precision="single")
    with pytest.raises(FileFormatError, match="There is no file"):
        MLPotential("smoothflow", model=tmp_path / "nowhere.safetensors")
    unreadable = tmp_path / "system.xml"
    unreadable.touch()
    with pytest.raises(ConfigurationError, match=r'No loader is called "\.xml".* Known: .*\.safetensors'):
        MLPotential("smoothflow", model=unreadable)


def test_openmmml_is_imported_without_torch_and_outlives_our_failure() -> None:
    program = """
import sys
sys.modules["torch"] = None
import openmmml
try:
    openmmml.MLPotential("smoothflow", model="model.safetensors")
except ImportError as error:
    print(error.name)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "torch"
