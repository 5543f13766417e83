"""A SMILES string in the place of a structure file, from the command line to frames."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from smoothflow import read_frames, reference
from smoothflow.core.units import BOLTZMANN

from .conftest import Smoothflow

PEROXIDE = ["OO", "--reference", "ase:tblite:GFN2-xTB", "--engine", "ase", "--ladder", "none", "--walkers", "1"]
SHORT = [*PEROXIDE, "--timestep", "0.5", "--interval", "0.5", "--equilibration", "0.005", "--workers", "1"]


@pytest.mark.slow
def test_a_molecule_is_simulated_from_its_smiles_string(smoothflow: Smoothflow, tmp_path: Path) -> None:
    path = tmp_path / "frames.h5"
    found = smoothflow("simulate", *SHORT, "-n", 10, "--out", path)
    assert found.code == 0, found.err
    frames = read_frames(path)
    assert frames.topology.elements == ("O", "O", "H", "H")
    assert frames.provenance["structure"] == "OO.smi"
    energy, forces = reference("ase:tblite:GFN2-xTB", "OO").energy_and_forces(torch.from_numpy(frames.positions))
    spread = BOLTZMANN * frames.temperature
    # float32 positions: their rounding of 1e-8 nm times forces of 1e3 kJ/mol/nm
    torch.testing.assert_close(energy.double(), torch.from_numpy(frames.energies), rtol=1e-7, atol=1e-3 * spread)
    torch.testing.assert_close(forces, torch.from_numpy(frames.forces), rtol=1e-3, atol=0.5)
    # more frames of the same: the molecule is embedded as it was
    again = smoothflow("simulate", *SHORT, "-n", 20, "--out", path)
    assert again.code == 0, again.err
    assert len(read_frames(path)) > len(frames)
    # and its conversion, in which the string is the structure
    converted = smoothflow(
        *("convert", path, tmp_path / "again.h5", "--structure", "OO", "--reference", "ase:tblite:GFN2-xTB")
    )
    assert converted.code == 0, converted.err


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        ("O1O", "valid SMILES"),
        ("capped-alanin", 'Did you mean "capped-alanine"'),
        ("nothing.pdb", "There is no file"),
        ("O.O", "molecule"),
    ],
)
def test_bad_structures_give_an_error_of_one_line(
    smoothflow: Smoothflow, tmp_path: Path, structure: str, said: str
) -> None:
    found = smoothflow("simulate", structure, *SHORT[1:], "-n", 1, "--out", tmp_path / "frames.h5")
    assert found.code == 2
    assert said in found.err
    assert found.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_molecule_unknown_to_a_force_field_of_residues_is_refused(smoothflow: Smoothflow, tmp_path: Path) -> None:
    found = smoothflow("simulate", "OO", "--out", tmp_path / "frames.h5")
    assert found.code == 2
    assert "does not fit" in found.err
