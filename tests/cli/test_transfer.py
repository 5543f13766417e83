"""``smoothflow transfer``: to another force field and back, and one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from smoothflow import read_frames

from .conftest import Smoothflow

MODEL = "ala2-smooth"
OWN = "amber99sbildn.xml,amber99_obc.xml"
OTHER = "amber96.xml,amber96_obc.xml"
BASINS = ["--basin", "alpha", "--basin", "beta"]


def transfer(smoothflow: Smoothflow, out: Path, *options: object, model: object = MODEL) -> dict[str, object]:
    found = smoothflow("transfer", model, "--workers", 1, "--out", out, "--json", *options)
    assert found.code == 0, found.err
    content: dict[str, object] = json.loads(found.out)
    return content


def test_a_level_that_is_the_models_own_is_no_other(smoothflow: Smoothflow, tmp_path: Path) -> None:
    options = ["--reference", f"torch:{OWN}", "--evaluations", 200, *BASINS]
    found = transfer(smoothflow, tmp_path / "run", *options)
    # the same numbers from OpenMM, by default the force field of the model's frames; both round to single precision
    assert found["difference"]["value"] == pytest.approx(0, abs=1e-3)  # type: ignore[index]
    assert found["shifts"]["beta above alpha"]["value"] == pytest.approx(0, abs=1e-3)  # type: ignore[index]
    assert found["n_evaluations"] == [200]
    assert len(read_frames(tmp_path / "run" / "evaluations-0.h5")) == 200
    # what is printed for people
    table = smoothflow("transfer", MODEL, "--workers", 1, "--out", tmp_path / "run", *options)
    assert table.code == 0
    assert "free energy, kT" in table.out
    assert len(read_frames(tmp_path / "run" / "evaluations-0.h5")) == 200


def test_a_further_model_and_workers_go_on_with_the_folder(smoothflow: Smoothflow, tmp_path: Path) -> None:
    options = ["--reference", f"openmm:{OTHER}", "--cheap", f"torch:{OWN}", *BASINS]
    first = transfer(smoothflow, tmp_path / "run", *options, "--evaluations", 150)
    assert first["ended"] == "the budget of 150 evaluations is spent"
    command = ["transfer", MODEL, "ala2-spline", "--out", tmp_path / "run", "--json", "--workers", 2]
    found = smoothflow(*command, *options, "--evaluations", 250)
    assert found.code == 0, found.err
    assert json.loads(found.out)["n_evaluations"] == [150, 100]


def test_impossible_transfers_are_refused_in_one_line(smoothflow: Smoothflow, tmp_path: Path) -> None:
    run = tmp_path / "run"
    named = ["--reference", f"torch:{OWN}", "--workers", 1]
    transfer(smoothflow, run, *named, "--evaluations", 20)
    cases = {
        ("--reference", f"torch:{OTHER}", "--workers", 1, "--out", run): "is of another run: reference is",
        (*named, "--seed", 1, "--out", run): "is of another run: seed is",
        (*named, "--structure", "aspirin", "--out", tmp_path / "x"): "does not fit",
        (*named, "--error", "nan", "--out", tmp_path / "x"): "must be positive and finite",
        (*named, "--basin", "nowhere", "--out", tmp_path / "x"): 'No basin is called "nowhere"',
        (*named, "--basin", "a:chi=0..9", "--out", tmp_path / "x"): "chi",
        (*named, "--cheap", "openmm:no.xml", "--out", tmp_path / "x"): "There is no force-field file",
        ("--reference", "nothing:x", "--out", tmp_path / "x"): "nothing",
        (MODEL, *named, "--out", tmp_path / "x"): "One model is given twice",
    }
    for options, said in cases.items():
        found = smoothflow("transfer", MODEL, *options)
        assert found.code == 2, options
        assert not found.out
        assert said in " ".join(found.err.split()), found.err
        assert "Traceback" not in found.err
    assert not (tmp_path / "x" / "evaluations-0.h5").exists()
