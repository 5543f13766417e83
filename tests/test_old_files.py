"""Files of earlier versions: they load, and give the numbers that they gave when they were written.

``data/v2/make.py``, ``data/v1/make.py`` and ``data/first/make.py`` wrote them; neither the files nor the stored numbers
are ever made anew.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from smoothflow import FlowPotential, FlowSettings, Simulation, load, registry
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.integrators.checkpoint import read_checkpoint
from smoothflow.molecules.frames import COLUMNS
from smoothflow.molecules.frames_file import FramesReader, read_frames
from smoothflow.studies.comparison.settings import read_comparison
from smoothflow.training.config import TrainSettings, read_settings
from smoothflow.training.run import begin_with, train

DATA = Path(__file__).parent / "data"
V2, V1, FIRST = DATA / "v2", DATA / "v1", DATA / "first"
OUR_TRANSFORMS = ("transform", "smoothflow")
STORED: dict[str, Any] = json.loads((V1 / "values.json").read_text(encoding="utf-8"))


def require_values(potential: FlowPotential, stored: dict[str, Any], tolerance: float) -> None:
    """Compare energies and forces, relative to the largest of each."""
    energies, forces = potential.energy_and_forces(torch.tensor(stored["positions"], dtype=torch.float64))
    for found, name in ((energies, "energies"), (forces, "forces")):
        expected = torch.tensor(stored[name], dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["smooth", "spline", "affine"])
def test_models_with_arcs_compute_what_they_computed(name: str) -> None:
    stored = json.loads((V2 / "values.json").read_text(encoding="utf-8"))
    require_values(load(V2 / f"{name}.safetensors"), stored[name], 1e-10)


@pytest.mark.parametrize("name", sorted(STORED["models"]))
def test_models_compute_what_they_computed(name: str) -> None:
    # float64 in another order of operations
    require_values(load(V1 / "models" / f"{name}.safetensors"), STORED["models"][name], 1e-10)


def test_there_is_a_model_of_every_transform() -> None:
    ours = {name for (kind, name), entry in registry().entries.items() if (kind, entry.distribution) == OUR_TRANSFORMS}
    assert ours == set(STORED["models"])


def test_frames_hold_what_was_written() -> None:
    with FramesReader(V1 / "frames.h5") as reader:
        frames = reader.read()
        np.testing.assert_array_equal(reader.state()["walkers"], np.arange(6.0).reshape(2, 3))
    for name, (dtype, _) in COLUMNS.items():
        np.testing.assert_array_equal(getattr(frames, name), np.array(STORED["frames"][name], dtype=dtype))
    # what runs in folders know their frames by
    assert frames.digest() == STORED["frames"]["digest"]


def test_settings_are_read() -> None:
    comparison = read_comparison(str(V1 / "comparison.yaml"))
    assert comparison.training == read_settings(V1 / "config.yaml")
    assert comparison.cells == [("smooth", "nll+fm")]
    assert comparison.training_of("smooth", "nll+fm").weights.force == 0.01


@pytest.mark.filterwarnings("ignore:The loaded checkpoint was produced with Lightning")
def test_a_training_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(V1 / "run", run)
    settings = read_settings(V1 / "config.yaml")
    # what a settings file leaves out has the default of today; the folder knows that the flow had no shear
    older = settings.model_copy(update={"flow": replace(settings.flow, shear=False)})
    with pytest.raises(ConfigurationError, match="shear"):
        train(read_frames(V1 / "frames.h5"), settings, run)
    model = train(read_frames(V1 / "frames.h5"), older, run)
    assert "going on from step 10" in (run / "run.log").read_text(encoding="utf-8")
    # ten steps of Adam in float32, of which another processor rounds each otherwise
    require_values(load(model), STORED["run"], 1e-3)


def test_dynamics_goes_on_where_it_was_stopped() -> None:
    simulation = Simulation.load(V1 / "md.checkpoint", load(V1 / "models" / "smooth.safetensors"))
    assert simulation.step == 10
    simulation.run()
    for name, expected in STORED["dynamics"].items():
        found = getattr(simulation.state, name)
        # ten steps multiply the rounding of float64 by less than a thousand
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-10)


def test_files_of_the_first_code_that_wrote_them() -> None:
    stored = json.loads((FIRST / "values.json").read_text(encoding="utf-8"))
    require_values(load(FIRST / "model.safetensors"), stored, 1e-10)
    frames = read_frames(FIRST / "frames.h5")
    np.testing.assert_array_equal(frames.energies, stored["energies"])
    assert frames.times is None


def rewrite(source: Path, path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with safe_open(source, framework="pt") as file:
        header = json.loads(file.metadata()["smoothflow"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(header)
    save_file(tensors, path, {"smoothflow": json.dumps(header)})


def test_settings_that_are_younger_than_a_model_have_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "older.safetensors"
    rewrite(V1 / "models" / "smooth.safetensors", path, lambda header: header["settings"].pop("n_harmonics"))
    require_values(load(path), STORED["models"]["smooth"], 1e-10)
    _, settings = begin_with(path, read_frames(V1 / "frames.h5"), TrainSettings())
    assert settings.flow.n_harmonics == FlowSettings().n_harmonics


def newer_safetensors(source: Path, path: Path) -> None:
    rewrite(source, path, lambda header: header.update(schema=9, settings="of the future"))


def newer_hdf5(source: Path, path: Path) -> None:
    shutil.copy(source, path)
    with h5py.File(path, "r+") as file:
        file.attrs["schema"] = 9
        del file["topology"]


@pytest.mark.parametrize(
    ("source", "make_newer", "read"),
    [
        (V1 / "models" / "smooth.safetensors", newer_safetensors, load),
        (V1 / "md.checkpoint", newer_safetensors, read_checkpoint),
        (V1 / "frames.h5", newer_hdf5, read_frames),
    ],
)
def test_files_of_newer_versions_are_refused(
    tmp_path: Path, source: Path, make_newer: Callable[[Path, Path], None], read: Callable[[Path], Any]
) -> None:
    path = tmp_path / source.name
    make_newer(source, path)
    with pytest.raises(FileFormatError, match=r"has schema 9; this version reads up to \d\."):
        read(path)
