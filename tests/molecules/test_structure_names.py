"""A structure is named by a path, as a molecule that ships, or by a SMILES string."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from smoothflow.core.errors import FileFormatError, MissingDependencyError, TopologyError, UnknownNameError
from smoothflow.molecules.shipped import molecule_names, molecule_path
from smoothflow.molecules.structure_names import absolute_name, is_smiles, structure_file
from smoothflow.molecules.topologies import read_structure


def test_a_path_and_a_shipped_name_are_files_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with structure_file("water") as path:
        assert path == molecule_path("water")
    (tmp_path / "CCO").write_text(molecule_path("water").read_text())
    monkeypatch.chdir(tmp_path)
    with structure_file("CCO") as path:
        assert len(read_structure(path).topology) == 3  # where there is a file of that name, it is that file
    assert path.is_file()
    assert absolute_name("CCO") == str(tmp_path / "CCO")


@pytest.mark.parametrize("smiles", ["CCO", "F/C=C/F", "[O-]C(=O)[C@@H](N)C", "ClCBr", "c1ccccc1", "C" * 300])
def test_a_smiles_string_is_a_file_while_it_is_needed(smiles: str) -> None:
    with structure_file(smiles) as path:
        assert path.read_text() == f"{smiles}\n"
        assert path.suffix == ".smi"
    assert not path.exists()
    assert absolute_name(smiles) == smiles


def test_a_smiles_string_is_embedded_the_same_way_every_time() -> None:
    structures = []
    for _ in range(2):
        with structure_file("CC(=O)NC") as path:
            structures.append(read_structure(path))
    first, second = structures
    assert first.topology.elements.count("C") == 3  # N-methylacetamide is C3H7NO
    assert first.topology.elements.count("H") == 7
    assert first.topology == second.topology
    assert torch.equal(first.positions, second.positions)
    distances = torch.cdist(first.positions[0], first.positions[0]).fill_diagonal_(1.0)
    assert 0.09 < distances.min() < 0.12  # an X-H bond


def test_no_molecule_that_ships_could_be_a_smiles_string() -> None:
    assert not [name for name in molecule_names() if is_smiles(name)]


@pytest.mark.parametrize("name", ["capped-alanin", "molekule"])
def test_a_misspelt_name_is_not_taken_for_a_smiles_string(name: str) -> None:
    with pytest.raises(UnknownNameError, match="No molecule is called"), structure_file(name):
        pass


@pytest.mark.parametrize("name", ["no.pdb", "folder/no.sdf", "", ".", "../", "CCO.smi", "x" * 5000 + ".pdb"])
def test_a_path_that_leads_to_no_file_is_refused(name: str) -> None:
    with pytest.raises((FileFormatError, UnknownNameError)), structure_file(name):
        pass


def test_a_wrong_smiles_string_is_named(tmp_path: Path) -> None:
    with structure_file("C1CC") as path, pytest.raises(TopologyError, match='"C1CC" is not a valid SMILES'):
        read_structure(path)


def test_without_rdkit_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with structure_file("CCO") as path, pytest.raises((MissingDependencyError, FileFormatError), match="smiles"):
        read_structure(path)
