"""Part of a system by commands: from the frames of the whole to dynamics of the part."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from smoothflow import load, write_frames
from smoothflow.molecules.foreign import ExchangeWarning
from smoothflow.molecules.frames import PART_OF, Frames
from smoothflow.molecules.frames_file import read_frames

Smoothflow = Callable[..., Any]
SETTINGS = "steps: 5\nvalidate_every: 5\nbatch_size: 32\nflow:\n  interval_pairs: 1\n  circle_pairs: 1\n  hidden: 8\n"


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Independent frames of capped alanine with their energies and forces: those of the model that draws them."""
    model = load("ala2-smooth")
    with torch.no_grad():
        positions, _ = model.sample(300, seed=1)
    energies, forces = (found.numpy() for found in model.energy_and_forces(positions))
    frames = Frames(model.topology, 300.0, positions.numpy(), forces, energies, provenance={"charge": 0})
    path = tmp_path_factory.mktemp("whole") / "frames.h5"
    write_frames(path, frames)
    return path


def convert(smoothflow: Smoothflow, *arguments: object) -> Any:
    """The outcome of a conversion that warns of energies."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", ExchangeWarning)
        done = smoothflow("convert", *arguments)
    assert done.code == 0, done.err
    assert "are left out: they are those of the whole system" in " ".join(done.err.split())
    return done


@pytest.fixture
def heavy(smoothflow: Smoothflow, whole: Path, tmp_path: Path) -> Path:
    """Frames of the heavy atoms of capped alanine, with their forces."""
    done = convert(smoothflow, whole, tmp_path / "heavy.h5", "--select", "not element H")
    assert 'part of  │ 22 atoms, by "not element H"' in done.out
    return tmp_path / "heavy.h5"


def test_frames_of_a_part_keep_forces_and_lose_energies(heavy: Path, whole: Path) -> None:
    frames, part = read_frames(whole), read_frames(heavy)
    chosen = [i for i, symbol in enumerate(frames.topology.elements) if symbol != "H"]
    np.testing.assert_array_equal(part.positions, frames.positions[:, chosen])
    np.testing.assert_array_equal(part.forces, frames.forces[:, chosen])
    assert part.energies is None
    assert part.provenance[PART_OF]["atoms of the system"] == 22


@pytest.mark.parametrize(
    ("select", "bonds", "n_atoms"), [("not element H", None, 10), ("name CH3 CA CB O", "chain", 5)]
)
def test_a_model_of_a_part_runs_like_any_other(
    smoothflow: Smoothflow, whole: Path, tmp_path: Path, select: str, bonds: str | None, n_atoms: int
) -> None:
    joined = [] if bonds is None else ["--bonds", bonds]
    frames, config, model = tmp_path / "part.h5", tmp_path / "config.yaml", tmp_path / "run" / "model.safetensors"
    config.write_text(SETTINGS)
    convert(smoothflow, whole, frames, "--select", select, *joined)
    done = smoothflow("train", frames, "--config", config, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    done = smoothflow("sample", model, "--out", tmp_path / "samples.h5", "-n", 20)
    assert done.code == 0, done.err
    assert len(read_frames(tmp_path / "samples.h5").topology) == n_atoms
    for engine in ("native", "ase", "openmm"):
        out = tmp_path / f"{engine}.h5"
        done = smoothflow("md", model, "--engine", engine, "--steps", 20, "--out", out)
        assert done.code == 0, done.err
        assert read_frames(out).positions.shape[1:] == (n_atoms, 3)


@pytest.mark.parametrize(
    "command",
    [
        ("evaluate", "MODEL", "PART", "--reference", "openmm:amber99sbildn.xml"),
        ("evaluate", "MODEL", "PART"),
        ("evaluate", "ala2-smooth", "PART", "--reference", "openmm:amber99sbildn.xml"),
        ("convert", "PART", "OUT", "--reference", "openmm:amber99sbildn.xml", "--structure", "capped-alanine"),
        (
            "convert",
            "WHOLE",
            "OUT",
            "--select",
            "backbone",
            "--reference",
            "openmm:a.xml",
            "--structure",
            "capped-alanine",
        ),
        ("train", "PART", "--out", "OUT", "--reference", "openmm:amber99sbildn.xml", "--structure", "capped-alanine"),
        ("thermo", "MODEL"),
    ],
    ids=lambda command: f"{command[0]}-{len(command)}",
)
def test_energies_of_a_part_are_refused_in_one_line(
    smoothflow: Smoothflow, whole: Path, heavy: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    model = tmp_path / "run" / "model.safetensors"
    if "MODEL" in command:
        (tmp_path / "config.yaml").write_text(SETTINGS)
        smoothflow("train", heavy, "--config", tmp_path / "config.yaml", "--out", tmp_path / "run")
    names = {"MODEL": model, "PART": heavy, "WHOLE": whole, "OUT": tmp_path / "out.h5"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExchangeWarning)
        done = smoothflow(*(names.get(word, word) for word in command))
    assert done.code == 2
    errors = [line for line in done.err.splitlines() if line.startswith("error")]
    assert len(errors) == 1
    assert "of 22 atoms" in errors[0]
    assert "a potential of mean force" in errors[0]
    assert not (tmp_path / "out.h5").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--select", "name CA CH3"], "is not connected: it has 2 pieces"),
        (["--select", "name Q"], "holds none of the 22 atoms"),
        (["--bonds", "chain"], "Name these with --select"),
        (["--select", "name CA CH3", "--bonds", "all"], "are not bonds"),
    ],
)
def test_selections_that_make_no_part_stop_the_command(
    smoothflow: Smoothflow, whole: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = smoothflow("convert", whole, tmp_path / "out.h5", *options)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("error:") == 1
    assert not (tmp_path / "out.h5").exists()


def test_all_atoms_are_no_part(smoothflow: Smoothflow, whole: Path, tmp_path: Path) -> None:
    done = smoothflow("convert", whole, tmp_path / "out.h5", "--select", "all")
    assert done.code == 0, done.err
    found, frames = read_frames(tmp_path / "out.h5"), read_frames(whole)
    assert found.digest() == frames.digest()
    assert found.provenance == frames.provenance
