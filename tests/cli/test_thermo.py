"""``smoothflow thermo``: three columns, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scipy import constants
from smoothflow.core.units import thermal_energy

from .conftest import Smoothflow

MODEL, GOOD = "ala2-affine", "ala2-smooth"
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


def test_samples_of_a_file_give_what_the_same_samples_would(smoothflow: Smoothflow, tmp_path: Path) -> None:
    path = tmp_path / "samples.h5"
    assert smoothflow("sample", GOOD, "-n", 400, "--reference", OWN, "--out", path).code == 0
    options = ["--reference", OWN, "--samples", path, "--json"]
    found = smoothflow("thermo", GOOD, *options)
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert content["n_samples"] == 400
    # the same estimate of the same weights, less what masses and the standard state add
    summary = smoothflow("sample", GOOD, "-n", 400, "--reference", OWN, "--out", path, "--json")
    weighed = json.loads(summary.out)["samples"]
    kinetic = 33 * thermal_energy(300.0)
    assert content["anharmonic"]["internal_energy"]["value"] == pytest.approx(weighed["mean_energy"]["value"] + kinetic)
    assert content["anharmonic"]["internal_energy"]["error"] == pytest.approx(weighed["mean_energy"]["error"])
    error = thermal_energy(300.0) * weighed["log_z"]["error"]
    assert content["anharmonic"]["helmholtz_energy"]["error"] == pytest.approx(error)
    wrong = {
        ("--reference", "torch:amber96.xml,amber96_obc.xml", "--samples", path): "energy of the reference",
        ("--samples", path): "Say which",
        ("--reference", OWN, "--samples", path, "-n", 100): "leave out --n-samples",
        ("--reference", OWN, "--samples", tmp_path / "no.h5"): "no.h5",
    }
    for options, said in wrong.items():
        found = smoothflow("thermo", GOOD, *options)
        assert found.code == 2, options
        assert said in " ".join(found.err.split()), found.err
    other = smoothflow("thermo", MODEL, "--reference", OWN, "--samples", path)
    assert "density of the model" in other.err


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
