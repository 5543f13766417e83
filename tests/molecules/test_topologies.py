"""Topologies from other packages agree with each other; files that are none are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ase
import ase.data
import mdtraj
import numpy as np
import pytest
import torch
from openmm import app
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.errors import (
    FileFormatError,
    GeometryError,
    MissingDependencyError,
    TopologyError,
    UnknownNameError,
)
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules import topologies
from smoothflow.molecules.conversions import (
    topology_from_ase,
    topology_from_mdtraj,
    topology_from_openmm,
    topology_to_ase,
    topology_to_mdtraj,
    topology_to_openmm,
)
from smoothflow.molecules.elements import atomic_numbers, element, masses, symbol_of
from smoothflow.molecules.pdb import write_pdb
from smoothflow.molecules.shipped import molecule_names, molecule_path
from smoothflow.molecules.topologies import (
    topology_from_pdb,
    topology_from_smiles,
)


def test_shipped_molecules() -> None:
    assert len(molecule_names()) == 6
    with pytest.raises(UnknownNameError, match='Did you mean "chignolin"'):
        molecule_path("chignoline")


def test_openmm_there_and_back(molecule) -> None:
    converted = topology_to_openmm(molecule.topology)
    assert topology_from_openmm(converted) == molecule.topology
    expected = [atom.element.mass._value for atom in converted.atoms()]
    torch.testing.assert_close(masses(molecule.topology), torch.tensor(expected).double(), rtol=2e-3, atol=0)


def test_mdtraj_there_and_back(molecule) -> None:
    assert topology_from_mdtraj(topology_to_mdtraj(molecule.topology)) == molecule.topology


def test_ase_there_and_back_but_for_bonds(molecule) -> None:
    atoms = topology_to_ase(molecule.topology, molecule.positions[0])
    assert topology_from_ase(atoms, guess_bonds=False) == Topology(molecule.topology.atoms, ())
    assert topology_from_ase(atoms) == molecule.topology


@pytest.mark.parametrize(
    ("to", "back"), [(topology_to_openmm, topology_from_openmm), (topology_to_mdtraj, topology_from_mdtraj)]
)
def test_residues_whose_atoms_alternate_keep_the_order_of_atoms(to, back) -> None:
    # both programs go through their atoms residue by residue
    atoms = tuple(Atom("C", f"C{i}", f"R{i % 2}", i % 2) for i in range(4))
    converted = to(Topology(atoms, ((0, 1), (1, 2), (2, 3))))
    found = list(converted.atoms() if callable(converted.atoms) else converted.atoms)
    assert [atom.name for atom in found] == ["C0", "C1", "C2", "C3"]
    assert back(converted).bonds == ((0, 1), (1, 2), (2, 3))


@pytest.mark.parametrize(("to", "program"), [(topology_to_openmm, "OpenMM"), (topology_to_mdtraj, "MDTraj")])
def test_an_element_that_a_program_lacks_is_named(to, program: str) -> None:
    with pytest.raises(TopologyError, match=rf'{program} does not know the element "Qq" of atom 0 \(MOL1-Q1\)'):
        to(Topology((Atom("Qq", "Q1", "MOL", 0),), ()))


def test_atom_types_of_ase_that_are_not_names_are_not_taken_for_names() -> None:
    atoms = ase.Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    atoms.set_array("atomtypes", np.array(["OW", "HW", "HW"]))
    assert [atom.name for atom in topology_from_ase(atoms).atoms] == ["O1", "H1", "H2"]


def test_mdtraj_reads_the_same(molecule) -> None:
    trajectory = mdtraj.load_pdb(str(molecule_path(molecule.name)))
    topology = topology_from_mdtraj(trajectory.topology)
    assert topology.elements == molecule.topology.elements
    assert topology.bonds == molecule.topology.bonds
    torch.testing.assert_close(torch.from_numpy(trajectory.xyz).double(), molecule.positions, rtol=0, atol=1e-6)


def test_mdtraj_stands_in_for_openmm(molecule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topologies, "find_spec", lambda name: None if name == "openmm" else object())
    topology, positions = topology_from_pdb(molecule_path(molecule.name))
    assert topology.bonds == molecule.topology.bonds
    torch.testing.assert_close(positions, molecule.positions, rtol=0, atol=1e-6)  # MDTraj's are float32


def test_ase_bonds_are_guessed_right(molecule) -> None:
    atoms = ase.Atoms(molecule.topology.elements, molecule.positions[0].numpy() * 10)
    topology = topology_from_ase(atoms)
    assert topology.elements == molecule.topology.elements
    assert topology.bonds == molecule.topology.bonds
    InternalCoordinates(topology).check_geometry(molecule.positions)


@pytest.mark.parametrize(("factor", "message"), [(0.1, "in nm where Å are expected"), (10, "in Å where nm")])
def test_bonds_are_not_guessed_in_the_wrong_unit(alanine, factor: float, message: str) -> None:
    with pytest.raises(GeometryError, match=message):
        topology_from_ase(ase.Atoms(alanine.topology.elements, alanine.positions[0].numpy() * 10 * factor))


def test_molecules_from_smiles_have_the_bonds_of_their_structures() -> None:
    topology, positions = topology_from_smiles("CC(=O)Oc1ccccc1C(=O)O")
    assert topology.bonds == topology_from_pdb(molecule_path("aspirin"))[0].bonds
    InternalCoordinates(topology).check_geometry(positions)
    topology, positions = topology_from_smiles("CCCCCCCCCCCCCCCCCCCC" * 3)  # not embedded at the first attempt
    InternalCoordinates(topology).check_geometry(positions)
    with pytest.raises(TopologyError, match="not a valid SMILES"):
        topology_from_smiles("C1CC")


def test_pdb_there_and_back(molecule, tmp_path: Path) -> None:
    path = tmp_path / "out.pdb"
    positions = molecule.random_positions(3)
    write_pdb(molecule.topology, positions, path, "THREE FRAMES")
    topology, back = topology_from_pdb(path)
    assert topology == molecule.topology
    torch.testing.assert_close(back, positions, rtol=0, atol=0.5001e-4)  # three decimals in Å
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.pdb"]


def test_pdb_that_does_not_fit_leaves_no_file(alanine, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="does not fit into the columns"):
        write_pdb(alanine.topology, alanine.positions + 1e4, tmp_path / "out.pdb")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["capped-alanine", "alanine-tetrapeptide", "proline-dipeptide", "chignolin"])
def test_force_field_accepts_the_shipped_peptides(name: str) -> None:
    force_field = app.ForceField("amber99sbildn.xml", "amber99_obc.xml")
    pdb = app.PDBFile(str(molecule_path(name)))
    system = force_field.createSystem(pdb.topology)
    assert system.getNumParticles() == pdb.topology.getNumAtoms()


def test_a_missing_structure_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="There is no file"):
        topology_from_pdb(tmp_path / "none.pdb")


HALF_A_FILE = molecule_path("capped-alanine").read_bytes()[:700]


@pytest.mark.parametrize("content", [b"", b"hello\nworld\n", bytes(range(256)), HALF_A_FILE])
def test_files_that_are_not_pdb_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pdb"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=r"bad\.pdb"):
        topology_from_pdb(path)


def test_an_atom_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.pdb"
    lines = molecule_path("capped-alanine").read_text().splitlines()
    oxygen = next(line for line in lines if line[12:16].strip() == "O")
    path.write_text("\n".join(lines).replace(oxygen, f"{oxygen}\n{oxygen}"))
    with pytest.raises(TopologyError, match=r'twice.pdb" has an atom twice: 6 O ACE A 1'):
        topology_from_pdb(path)


def test_a_residue_without_known_bonds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unknown.pdb"
    text = molecule_path("capped-alanine").read_text().replace("ALA", "XYZ")
    path.write_text("\n".join(line for line in text.splitlines() if not line.startswith("CONECT")))
    topology, _ = topology_from_pdb(path)
    with pytest.raises(TopologyError, match=r'residue "XYZ" is not a standard one, add CONECT records'):
        InternalCoordinates(topology)


def test_virtual_sites_are_refused() -> None:
    topology = app.Topology()
    topology.addAtom("M", None, topology.addResidue("HOH", topology.addChain()))
    with pytest.raises(TopologyError, match="virtual sites"):
        topology_from_openmm(topology)


@pytest.mark.parametrize("of_each_atom", [masses, atomic_numbers])
def test_unknown_element_is_refused_by_its_atom(of_each_atom: Callable[[Topology], object]) -> None:
    with pytest.raises(TopologyError, match=r'"Qq" of atom 1 \(MOL1-Q\) is not the symbol of an element'):
        of_each_atom(Topology((Atom("H", "H", "MOL", 0), Atom("Qq", "Q", "MOL", 0)), ()))


def test_atomic_numbers_are_those_of_ase() -> None:
    symbols = ase.data.chemical_symbols[1:]
    assert atomic_numbers(Topology(tuple(Atom(s, s, "MOL", 0) for s in symbols), ())) == list(range(1, 119))
    assert [symbol_of(number) for number in (1, 118, 0, 119)] == ["H", "Og", "0", "119"]


def test_masses_are_standard_atomic_weights() -> None:
    topology = Topology(tuple(Atom(s, s, "MOL", 0) for s in ("H", "C", "S")), ())
    torch.testing.assert_close(masses(topology), torch.tensor([1.008, 12.011, 32.06]).double(), rtol=1e-4, atol=0)
    assert element("Cl").number == 17


@pytest.mark.parametrize("call", [lambda: topology_from_pdb(molecule_path("water")), lambda: topology_from_smiles("O")])
def test_missing_packages_are_named(call, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("openmm", "mdtraj", "rdkit"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'smoothflow\[(openmm|smiles)\]'"):
        call()


def test_no_engine_is_imported() -> None:
    code = (
        "import sys\n"
        "from smoothflow.coordinates import fitting, internal, molecules, pdb, topologies\n"
        "assert not {'openmm', 'ase', 'mdtraj', 'rdkit'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
