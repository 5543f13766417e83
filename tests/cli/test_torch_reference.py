"""The provider ``torch`` wherever a command asks for a force field, against the same one in OpenMM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from smoothflow import load, read_frames, reference, write_frames
from smoothflow.core.units import thermal_energy

from .conftest import Smoothflow

FILES = "amber99sbildn.xml,amber99_obc.xml"
MODEL = "ala2-affine"


def run(smoothflow: Smoothflow, *arguments: object) -> str:
    found = smoothflow(*arguments)
    assert found.code == 0, found.err
    return found.out


def test_samples_are_weighted_to_the_same_force_field(smoothflow: Smoothflow, tmp_path: Path) -> None:
    weights = {}
    for provider in ("openmm", "torch"):
        path = tmp_path / f"{provider}.h5"
        run(smoothflow, "sample", MODEL, "-n", 20, "--reweight", f"{provider}:{FILES}", "--out", path)
        weights[provider] = read_frames(path).log_weights
    # of energies of up to 1e7 kJ/mol; OpenMM may have chosen a platform of mixed precision
    np.testing.assert_allclose(weights["torch"], weights["openmm"], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_weights_are_of_energies_in_float64_whatever_the_model_computes_in(
    smoothflow: Smoothflow, tmp_path: Path, precision: str
) -> None:
    path = tmp_path / "samples.h5"
    options = ["-n", 20, "--reference", f"torch:{FILES}", "--dtype", precision]
    run(smoothflow, "sample", "ala2-smooth", *options, "--out", path)
    frames = read_frames(path)
    kT = thermal_energy(frames.temperature)
    energy = -(frames.energies / -kT + frames.log_weights) * kT
    witness = reference(f"torch:{FILES}", "capped-alanine")
    assert witness.dtype == torch.float64
    expected = witness.energy(torch.from_numpy(frames.positions).double()).numpy()
    # kJ/mol: the file rounds positions to float32, by 1e-8 nm, where forces are some 1e3 kJ/mol/nm; energies in float32
    # are off by ten times as much
    np.testing.assert_allclose(energy, expected, rtol=0, atol=2e-4)


WRONG = {
    "unknown file": ("amber99sbildm.xml", "capped-alanine", "There is no force-field file"),
    "missing parameters": ("amber99_obc.xml", "capped-alanine", "does not fit"),
    "missing residue": ("amber99sbildn.xml", "aspirin", "does not fit"),
    "no file": ("", "capped-alanine", "needs force-field files"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("suffix", ["", ",compiled"])
def test_errors_are_those_of_the_same_force_field_in_openmm(
    smoothflow: Smoothflow, tmp_path: Path, case: str, suffix: str
) -> None:
    files, structure, said = WRONG[case]
    lines = {}
    for provider, more in (("openmm", ""), ("torch", suffix)):
        command = ["sample", MODEL, "-n", 2, "--structure", structure, "--out", tmp_path / "samples.h5"]
        found = smoothflow(*command, "--reference", f"{provider}:{files}{more}")
        assert found.code == 2
        assert not found.out
        lines[provider] = found.err
    assert said in lines["torch"]
    assert lines["torch"] == lines["openmm"]


@pytest.mark.slow
def test_frames_simulated_by_torch_have_the_energies_of_openmm(smoothflow: Smoothflow, tmp_path: Path) -> None:
    frames, again, evaluated = tmp_path / "frames.h5", tmp_path / "again.h5", tmp_path / "short.h5"
    short = ["--ladder", "none", "--walkers", 1, "--workers", 1, "--interval", 0.5, "--equilibration", 0.01, "-n", 10]
    run(smoothflow, "simulate", "capped-alanine", "--reference", f"torch:{FILES}", *short, "--out", frames)
    named = ["--structure", "capped-alanine", "--reference", f"openmm:{FILES}"]
    run(smoothflow, "convert", frames, again, *named)
    ours, theirs = read_frames(frames), read_frames(again)
    # kJ/mol, kJ/mol/nm: positions were rounded to float32, by 1e-8 nm, where forces are some 1e3 kJ/mol/nm
    np.testing.assert_allclose(ours.energies, theirs.energies, rtol=0, atol=5e-3)
    np.testing.assert_allclose(ours.forces, theirs.forces, rtol=1e-4, atol=0.5)
    assert {"torch", "openmm"} <= set(ours.provenance["versions"])
    write_frames(evaluated, ours)
    found = run(smoothflow, "evaluate", MODEL, evaluated, "--reference", f"torch:{FILES}", "-n", 10, "--json")
    assert json.loads(found)
    assert load(MODEL).topology == ours.topology


def test_forces_of_the_force_field_are_checked(smoothflow: Smoothflow) -> None:
    run(smoothflow, "check", f"torch:{FILES}", "--structure", "capped-alanine", "--tests", "forces")
