"""``smoothflow thermo``: three columns, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import constants

from .conftest import Smoothflow

MODEL = "ala2-affine"
OWN = "torch:amber99sbildn.xml,amber99_obc.xml"


def test_state_functions_of_a_reference_stand_in_three_columns(smoothflow: Smoothflow) -> None:
    options = ["--reference", OWN, "-n", 300, "--basin", "beta", "--structure", "capped-alanine"]
    numbers = ["--symmetry", 27, "--rigid-symmetry", 1]
    found = smoothflow("thermo", MODEL, *options, *numbers, "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert content["harmonic"]["heat_capacity"]["value"] == pytest.approx(63 * constants.R)
    assert content["quantum"]["heat_capacity"]["value"] < content["harmonic"]["heat_capacity"]["value"]
    assert len(content["wavenumbers"]) == 60
    assert content["symmetry_number"] == 27
    assert content["rigid_symmetry_number"] == 1
    table = smoothflow("thermo", MODEL, *options, *numbers)
    assert table.code == 0
    assert "C_V, J/mol/K" in table.out


def test_without_a_reference_it_is_the_model_itself(smoothflow: Smoothflow) -> None:
    found = smoothflow("thermo", MODEL, "-n", 100, "--concentration", 1, "--json")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert content["ess"] is None
    assert content["anharmonic"]["helmholtz_energy"]["error"] == 0
    assert content["standard"] == {"value": 1.0, "unit": "mol/l"}


def test_what_cannot_be_is_one_line(smoothflow: Smoothflow, tmp_path: Path) -> None:
    cases = {
        ("--pressure", 1, "--concentration", 1): "leave one of them out",
        ("--pressure", 0): "positive number of bar",
        ("--charge", 1): "Name it with --reference",
        ("--structure", "aspirin"): "aspirin",
        ("--structure", tmp_path / "no.pdb"): "There is no file",
        ("--basin", "nowhere"): 'No basin is called "nowhere"',
        ("--basin", "left:phi=20..120"): 'not in the basin "left"',
        ("--basin", "x:chi=0..9"): "chi",
        ("--reference", "openmm:no.xml"): "There is no force-field file",
        ("--symmetry", 0): "greater than or equal to 1",
    }
    for options, said in cases.items():
        found = smoothflow("thermo", MODEL, "-n", 100, *options)
        assert found.code == 2, options
        assert not found.out
        assert said in " ".join(found.err.split()), found.err
        assert "Traceback" not in found.err
