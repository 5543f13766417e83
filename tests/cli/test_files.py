"""Commands on molecules and files of others: nothing is taken for capped alanine, and no option is dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from smoothflow.core.architecture import FlowSettings
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames, write_frames
from smoothflow.molecules.pdb import write_pdb
from smoothflow.molecules.topologies import topology_from_smiles
from smoothflow.potentials.model_file import save_model
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential

Smoothflow = Callable[..., Any]
XTB = "ase:tblite:GFN2-xTB"


@pytest.fixture
def peroxide(tmp_path: Path) -> Path:
    """A folder with frames of a molecule that does not ship with the package, and an untrained model of it."""
    topology, positions = topology_from_smiles("OO")
    noise = np.random.default_rng(0).normal(size=(40, len(topology), 3))
    frames = Frames(topology, 300.0, positions.numpy() + 0.002 * noise)
    flow = FlowSettings(interval_pairs=1, circle_pairs=1, hidden=4)
    potential = initial_potential(frames, TrainSettings(flow=flow))
    save_model(potential, tmp_path / "model.safetensors", {"frames": {"potential": XTB}})
    write_frames(tmp_path / "frames.h5", frames)
    write_pdb(topology, positions, tmp_path / "molecule.pdb")
    return tmp_path


def test_reference_and_structure_are_those_of_the_model(smoothflow: Smoothflow, peroxide: Path) -> None:
    model, frames = peroxide / "model.safetensors", peroxide / "frames.h5"
    found = smoothflow("evaluate", model, frames, "-n", 4, "--json")
    assert found.code == 0, found.err
    named = smoothflow(
        "evaluate", model, frames, "-n", 4, "--json", "--reference", XTB, "--structure", peroxide / "molecule.pdb"
    )
    assert json.loads(found.out)["mean_energy"] == pytest.approx(json.loads(named.out)["mean_energy"])
    drawn = smoothflow("sample", model, "-n", 4, "--reference", XTB, "--out", peroxide / "s.h5")
    assert drawn.code == 0, drawn.err
    assert read_frames(peroxide / "s.h5").provenance["weighted to"] == f"{XTB} of the model's molecule"


def test_a_model_that_names_no_reference_is_not_compared_with_ambers(smoothflow: Smoothflow, peroxide: Path) -> None:
    frames = read_frames(peroxide / "frames.h5")
    flow = FlowSettings(interval_pairs=1, circle_pairs=1, hidden=4)
    save_model(initial_potential(frames, TrainSettings(flow=flow)), peroxide / "bare.safetensors", {})
    found = smoothflow("evaluate", peroxide / "bare.safetensors", peroxide / "frames.h5")
    assert found.code == 2
    assert "does not name the force field of its frames" in found.err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "simulate {pdb} --out {tmp}/x.h5 --calculator tblite --reference ase:emt",
            "--calculator is short for --reference",
        ),
        ("simulate {pdb} --out {tmp}/x.h5 --reference tblite:GFN2-xTB", 'Did you mean "ase:tblite:GFN2-xTB"'),
        ("sample {model} --out {tmp}/x.h5 --reference amber99sbildn.xml", 'Did you mean "openmm:amber99sbildn.xml"'),
        ("simulate {pdb} --out {tmp}/x.h5 --charge -1", "does not compute electrons"),
        (
            "simulate {pdb} --out {tmp}/x.h5 --calculator tblite --charge -1",
            "electrons, which cannot have multiplicity",
        ),
        ("sample {model} --out {tmp}/x.h5 --structure {pdb}", "for a force field"),
        ("train {frames} --out {tmp}/run --structure {pdb}", "for a force field"),
        ("convert {frames} {tmp}/x.xyz --temperature 350", "says that itself: leave --temperature out"),
        ("convert {frames} {tmp}/x.xyz --charge 1", "for a reference"),
        ("convert {frames} {tmp}/x.xyz --structure capped-alanine", "the frames has 4"),
    ],
)
def test_options_that_would_be_dropped_are_refused(
    smoothflow: Smoothflow, peroxide: Path, command: str, message: str
) -> None:
    files = {"pdb": "molecule.pdb", "model": "model.safetensors", "frames": "frames.h5"}
    places = {name: peroxide / file for name, file in files.items()}
    found = smoothflow(*command.format(tmp=peroxide, **places).split())
    assert found.code == 2
    assert message in " ".join(found.err.split())
    assert len(found.err.splitlines()) == 1


def test_convert_reads_other_hdf5_files_or_says_what_they_are(smoothflow: Smoothflow, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["particles/all/position"] = np.zeros(3)
    found = smoothflow("convert", tmp_path / "x.h5", tmp_path / "y.h5", "--temperature", 300)
    assert found.code == 2
    assert "H5MD" in found.err


def test_convert_puts_atoms_into_the_order_of_a_model(smoothflow: Smoothflow, peroxide: Path) -> None:
    frames = read_frames(peroxide / "frames.h5")
    order = [3, 0, 2, 1]
    forces = np.arange(frames.positions.size, dtype=np.float32).reshape(frames.positions.shape)
    moved = Frames(frames.topology.take(order), 300.0, frames.positions[:, order], forces[:, order])
    write_frames(peroxide / "moved.h5", moved)
    found = smoothflow("convert", peroxide / "moved.h5", peroxide / "x.h5", "--match", peroxide / "model.safetensors")
    assert found.code == 0, found.err
    back = read_frames(peroxide / "x.h5")
    assert back.topology == frames.topology
    # the same numbers, moved
    assert np.array_equal(back.positions, frames.positions)
    assert np.array_equal(back.forces, forces)
    assert not list(peroxide.glob("y.h5"))
    found = smoothflow("convert", peroxide / "moved.h5", peroxide / "y.h5", "--match", "ala2-smooth")
    assert found.code == 2
    assert "22 atoms" in found.err
