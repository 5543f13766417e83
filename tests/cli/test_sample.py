"""Sampling and reweighting from the shell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from smoothflow.molecules.frames_file import read_frames

Smoothflow = Callable[..., Any]
Chain = Any


def test_averages_can_be_asked_for_afterwards(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    out, walk = tmp_path / "samples.h5", tmp_path / "chain.h5"
    command = ["sample", chain.model, "--reference", "openmm:amber99sbildn.xml,amber99_obc.xml", "--out", out]
    assert smoothflow(*command, "-n", 30).code == 0
    first = read_frames(out)
    basins = ["--basin", "alpha", "--basin", "up:psi=100..170", "--frames", chain.frames]
    found = smoothflow(*command, "-n", 50, *basins, "--metropolis", walk, "--json")
    assert found.code == 0
    assert read_frames(out)[:30].digest() == first.digest()
    numbers = json.loads(found.out)
    # the frames hold their energies, of which ten were checked
    assert (numbers["n_samples"], numbers["n_evaluations"], numbers["not_finite"]) == (50, 60, 0)
    assert set(numbers["both"]["populations"]) == {"phi > 0", "alpha", "up"}
    assert set(numbers["frames"]["free_energies"]) == {"up above alpha"}
    assert numbers["chain"]["n_steps"] == len(read_frames(walk)) == 50
    table = smoothflow(*command, "-n", 50, *basins).out
    assert "population of up" in table
    assert "both" in table
