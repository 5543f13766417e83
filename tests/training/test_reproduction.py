"""Runs made again: the same bits, and what is wrong where they are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.core.potential import Potential
from smoothflow.molecules.frames import Frames
from smoothflow.runs.progress import Progress
from smoothflow.training.config import LossWeights, TrainSettings
from smoothflow.training.reproduction import recorded_source, reproduce
from smoothflow.training.run import train

SMALL = FlowSettings(hidden=8, n_hidden_layers=1, line_pairs=1, interval_pairs=1, circle_pairs=1)
SETTINGS = TrainSettings(flow=SMALL, steps=12, batch_size=32, validate_every=4, averaging=0.9, seed=5)


class Stop(Exception):
    pass


def stop_at_10(progress: Progress) -> None:
    if progress.done == 10:
        raise Stop


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, peroxide_frames: Frames) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    train(peroxide_frames, SETTINGS, folder, source={"frames": "f.h5", "machine": "a machine"})
    return folder


def test_a_reproduced_run_is_the_same_to_the_last_bit(tmp_path: Path, run: Path, peroxide_frames: Frames) -> None:
    assert recorded_source(run)["frames"] == "f.h5"
    # also when it is interrupted itself
    with pytest.raises(Stop):
        reproduce(run, peroxide_frames, tmp_path / "again", on_progress=stop_at_10)
    found = reproduce(run, peroxide_frames, tmp_path / "again", source={"machine": "another"})
    assert found.agrees()
    assert (found.n_validations, found.n_held_out) == (3, 160)
    names = {each.name for each in found.numbers}
    assert {"step", "train_nll", "val_nll", "val_force_mse", "val_loss", "largest weight"} <= names
    assert all(each.recorded == each.reproduced for each in found.numbers)
    assert found.changed == {"machine": ("a machine", "another")}
    text = (tmp_path / "again" / "metrics.csv").read_text()
    assert text == (run / "metrics.csv").read_text()


def test_differences_of_a_reproduction_are_named(tmp_path: Path, peroxide_frames: Frames) -> None:
    run = tmp_path / "run"
    train(peroxide_frames, SETTINGS, run, source={"machine": "an old machine"})
    # as if it had been trained by another version: one number of an early validation
    lines = (run / "metrics.csv").read_text().splitlines()
    column = lines[0].split(",").index("val_nll")
    cells = lines[1].split(",")
    cells[column] = str(float(cells[column]) * (1 + 1e-6))
    lines[1] = ",".join(cells)
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    found = reproduce(run, peroxide_frames, tmp_path / "again", source={"machine": "a new machine"})
    different = {each.name: each.difference for each in found.numbers if each.difference}
    assert different == {"val_nll": pytest.approx(1e-6, rel=1e-3)}
    assert not found.agrees()
    assert found.agrees(2e-6)
    assert found.changed == {"machine": ("an old machine", "a new machine")}


def test_samples_are_weighted_by_the_same_force_field(
    tmp_path: Path, peroxide_frames: Frames, force_field: Potential
) -> None:
    settings = SETTINGS.model_copy(update={"weights": LossWeights(reverse_kl=0.1), "n_samples": 8, "steps": 4})
    train(peroxide_frames, settings, tmp_path / "run", force_field)
    found = reproduce(tmp_path / "run", peroxide_frames, tmp_path / "again", force_field)
    assert found.agrees()
    assert "val_reverse_kl" in {each.name for each in found.numbers}


def test_runs_that_cannot_be_reproduced_are_refused(tmp_path: Path, run: Path, peroxide_frames: Frames) -> None:
    with pytest.raises(ConfigurationError, match=r"trained on other frames \(1600 of them; here are 1599\)"):
        reproduce(run, peroxide_frames[:-1], tmp_path / "again")
    # one component of one force
    forces = peroxide_frames.require_forces().copy()
    forces[0, 0, 0] += 1e-3
    with pytest.raises(ConfigurationError, match="other frames"):
        reproduce(run, replace(peroxide_frames, forces=forces), tmp_path / "again")
    with pytest.raises(ConfigurationError, match="is the run itself"):
        reproduce(run, peroxide_frames, run)
    with pytest.raises(FileFormatError, match="not a folder of a training run: it has no config"):
        reproduce(tmp_path, peroxide_frames, tmp_path / "again")
    with pytest.raises(Stop):
        train(peroxide_frames, SETTINGS, tmp_path / "part", on_progress=stop_at_10)
    with pytest.raises(ConfigurationError, match="not finished: step 8 of 12"):
        reproduce(tmp_path / "part", peroxide_frames, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_run_that_began_with_a_model_needs_that_model(tmp_path: Path, run: Path, peroxide_frames: Frames) -> None:
    model = tmp_path / "first.safetensors"
    model.write_bytes((run / "model.safetensors").read_bytes())
    settings = TrainSettings(initial_model=str(model), steps=4, batch_size=32, validate_every=4)
    train(peroxide_frames, settings, tmp_path / "tuned")
    assert reproduce(tmp_path / "tuned", peroxide_frames, tmp_path / "again").agrees()
    train(peroxide_frames, SETTINGS.model_copy(update={"seed": 6}), tmp_path / "other")
    model.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    with pytest.raises(ConfigurationError, match="began with another model"):
        reproduce(tmp_path / "tuned", peroxide_frames, tmp_path / "third")


@pytest.mark.parametrize("name", ["frames.json", "metrics.csv", "source.json"])
def test_damaged_files_are_named(tmp_path: Path, run: Path, peroxide_frames: Frames, name: str) -> None:
    copy = tmp_path / "copy"
    for path in run.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(run)).write_bytes(path.read_bytes())
    (copy / name).write_text(json.dumps([1, 2]))
    with pytest.raises(FileFormatError, match=name):
        reproduce(copy, peroxide_frames, tmp_path / "again")
