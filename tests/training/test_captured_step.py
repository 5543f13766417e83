"""Training by recorded steps: the same training, with no question on the way, and errors that still name the frame.

On the CPU traced graphs stand for CUDA graphs; the whole step is traced, so no part of it depends on values.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.errors import ConfigurationError, TrainingError
from smoothflow.core.potential import Potential
from smoothflow.molecules.frames import Frames
from smoothflow.potentials.model_file import read_model
from smoothflow.runs.progress import Progress
from smoothflow.training import captured_step, module, refining
from smoothflow.training.batches import Batches
from smoothflow.training.config import LossWeights, RefiningSettings, TrainSettings, read_settings
from smoothflow.training.run import train

SMALL = FlowSettings(hidden=12, n_hidden_layers=1, line_pairs=1, interval_pairs=1, circle_pairs=1)
SETTINGS = TrainSettings(
    flow=SMALL, steps=20, batch_size=64, validate_every=10, learning_rate=5e-3, averaging=0.9, seed=5, dtype="float64"
)
COMPILED = SETTINGS.model_copy(update={"compile": True})


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU trains as a GPU does."""
    monkeypatch.setattr(module, "_is_on_gpu", lambda _: True)


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def require_same_training(one: Path, other: Path) -> None:
    for ours, theirs in zip(metrics(one), metrics(other), strict=True):
        for name, value in theirs.items():
            # what is not known yet is left out by both
            assert (ours[name] == "") == (value == ""), name
            if value == "":
                continue
            # the same operations in float64; forces lose digits where bonds are stiff
            assert float(ours[name]) == pytest.approx(float(value), rel=1e-6, abs=1e-9), name
    models = [read_model(run / "model.safetensors").flow.state_dict() for run in (one, other)]
    for name, value in models[1].items():
        torch.testing.assert_close(models[0][name], value, rtol=1e-6, atol=1e-8)


def test_recorded_training_is_the_same_training(
    tmp_path: Path, peroxide_frames: Frames, captures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(peroxide_frames, SETTINGS, tmp_path / "plain")
    called: list[int] = []
    advance = captured_step.CapturedStep._advance

    def counted(self: captured_step.CapturedStep, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        called.append(1)
        return advance(self, *tensors)

    monkeypatch.setattr(captured_step.CapturedStep, "_advance", counted)
    train(peroxide_frames, COMPILED, tmp_path / "captured")
    require_same_training(tmp_path / "captured", tmp_path / "plain")
    # traced once, and compared twice; all steps were replays
    assert len(called) == 3


def test_recorded_refining_is_the_same_refining(
    tmp_path: Path, peroxide_frames: Frames, force_field: Potential, captures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refining, "n_cores", lambda: 1)
    # without what is outside the bulk: descents magnify rounding, as a step is taken or not
    share = RefiningSettings(pool_size=400, refresh_every=8, frames_share=0.3, fewest_effective=10)
    plain, captured = (each.model_copy(update={"refining": share}) for each in (SETTINGS, COMPILED))
    train(peroxide_frames, plain, tmp_path / "plain", target=force_field)
    train(peroxide_frames, captured, tmp_path / "captured", target=force_field)
    require_same_training(tmp_path / "captured", tmp_path / "plain")
    log = (tmp_path / "captured" / "run.log").read_text(encoding="utf-8")
    assert log.count("pool of step") == 3
    assert "worth fewer" not in log.split("pool of step 8")[1]


@pytest.mark.slow
def test_recorded_training_begins_after_the_steps_on_the_likelihood_alone(
    tmp_path: Path, peroxide_frames: Frames, captures: None
) -> None:
    first = {"likelihood_steps": 10}
    train(peroxide_frames, SETTINGS.model_copy(update=first), tmp_path / "plain")
    train(peroxide_frames, COMPILED.model_copy(update=first), tmp_path / "captured")
    require_same_training(tmp_path / "captured", tmp_path / "plain")


@pytest.mark.slow
def test_recorded_training_goes_on_from_its_checkpoint(tmp_path: Path, peroxide_frames: Frames, captures: None) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done == 20:
            raise Stop

    train(peroxide_frames, COMPILED, tmp_path / "whole")
    with pytest.raises(Stop):
        train(peroxide_frames, COMPILED, tmp_path / "parts", on_progress=stop)
    train(peroxide_frames, COMPILED, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")


@pytest.mark.slow
def test_training_on_samples_records_the_loss_of_frames_alone(
    tmp_path: Path, peroxide_frames: Frames, force_field: Potential, captures: None
) -> None:
    few = {"weights": LossWeights(reverse_kl=0.5), "steps": 20, "n_samples": 8}
    train(peroxide_frames, SETTINGS.model_copy(update=few), tmp_path / "plain", target=force_field)
    train(peroxide_frames, COMPILED.model_copy(update=few), tmp_path / "captured", target=force_field)
    require_same_training(tmp_path / "captured", tmp_path / "plain")


def test_a_frame_that_is_not_finite_is_named_when_results_are_read(
    tmp_path: Path, peroxide_frames: Frames, captures: None
) -> None:
    forces = peroxide_frames.forces.copy()
    batches = Batches(*_training(peroxide_frames), COMPILED.batch_size, COMPILED.seed, lambda: 0, 10, 20)
    frame = int(batches.batch(7)[11])
    # its square is too large for float32
    forces[frame, 2, 1] = 1e30
    spoilt = replace(peroxide_frames, forces=forces)
    first = next(step for step in range(20) if frame in batches.batch(step).tolist())
    with pytest.raises(TrainingError, match=rf"At step {first} the force of frame {frame} is not finite\. Training"):
        train(spoilt, COMPILED.model_copy(update={"dtype": "float32"}), tmp_path / "run")


def _training(frames: Frames) -> tuple[torch.Tensor]:
    from smoothflow.training.batches import split

    return (torch.from_numpy(split(frames, COMPILED.validation_fraction, COMPILED.seed)[0]),)


def test_batches_are_chosen_where_the_frames_are() -> None:
    here = Batches(torch.arange(100), 10, 3, lambda: 0, 10, 20)
    assert here.batch(3).device.type == "cpu"
    there = Batches(torch.arange(100, device="meta"), 10, 3, lambda: 0, 10, 20)
    assert there.batch(3).device.type == "meta"


def test_tf32_is_a_precision_of_float32_on_a_gpu(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("tf32: true\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="tf32 is a precision of float32 on a GPU"):
        read_settings(path)
    path.write_text("tf32: true\ndevice: cuda\ndtype: float64\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="set device to cuda and dtype to float32"):
        read_settings(path)
    path.write_text("tf32: true\ndevice: cuda\n", encoding="utf-8")
    assert read_settings(path).tf32


@pytest.mark.cuda
def test_training_on_a_gpu_is_the_same_with_recorded_steps(tmp_path: Path, peroxide_frames: Frames) -> None:
    on_gpu = {"device": "cuda"}
    train(peroxide_frames, SETTINGS.model_copy(update=on_gpu), tmp_path / "plain")
    train(peroxide_frames, COMPILED.model_copy(update=on_gpu), tmp_path / "captured")
    require_same_training(tmp_path / "captured", tmp_path / "plain")
