"""The provider ``torch`` wherever a command asks for a force field, against the same one in OpenMM."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from smoothflow import load, read_frames, write_frames

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
