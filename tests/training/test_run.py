"""Training runs: the loss falls, nothing is lost, and a run that goes on is the run that was never stopped."""

from __future__ import annotations

import csv
import math
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._inductor.config
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.errors import CompilationError, ConfigurationError, FileFormatError, GeometryError, TrainingError
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import write_frames
from smoothflow.molecules.topologies import topology_from_smiles
from smoothflow.potentials.model_file import read_header, read_model
from smoothflow.runs.progress import Progress
from smoothflow.training.batches import Batches, split
from smoothflow.training.config import LossWeights, TrainSettings
from smoothflow.training.losses import likelihood_and_forces
from smoothflow.training.module import FlowTraining
from smoothflow.training.run import initial_potential, train

SMALL = FlowSettings(hidden=12, n_hidden_layers=1, line_pairs=1, interval_pairs=1, circle_pairs=1)
SETTINGS = TrainSettings(
    flow=SMALL, steps=60, batch_size=64, validate_every=20, learning_rate=5e-3, averaging=0.9, seed=5
)


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def weights(model: Path) -> dict[str, torch.Tensor]:
    return read_model(model).flow.state_dict()


class Stop(Exception):
    pass


def stop_at(step: int) -> object:
    def on_progress(progress: Progress) -> None:
        if progress.done >= step:
            raise Stop

    return on_progress


def test_training_approaches_the_force_field(tmp_path: Path, peroxide_frames: Frames) -> None:
    seen: list[Progress] = []
    settings = SETTINGS.model_copy(update={"steps": 120})
    model = train(peroxide_frames, settings, tmp_path / "run", on_progress=seen.append)
    rows = metrics(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == [20, 40, 60, 80, 100, 120]
    assert float(rows[-1]["val_loss"]) < float(rows[0]["val_loss"]) - 0.1
    assert float(rows[-1]["val_force_mse"]) < 0.5 * float(rows[0]["val_force_mse"])
    assert (seen[-1].done, seen[-1].total) == (120, 120)
    # the numbers in the file are those of the best model on the held-out frames, computed anew in float64
    _, held_out = split(peroxide_frames, settings.validation_fraction, settings.seed)
    best = min(rows, key=lambda row: float(row["val_loss"]))
    potential = read_model(model)
    nll, forces = likelihood_and_forces(
        potential, torch.from_numpy(peroxide_frames.positions[held_out]).double(), create_graph=False
    )
    error = (forces.numpy() - peroxide_frames.forces[held_out] / thermal_energy(300.0)) ** 2
    assert float(best["val_nll"]) == pytest.approx(float(nll.detach().mean()), abs=1e-3)  # float32 in training
    assert float(best["val_force_mse"]) == pytest.approx(float(error.mean()), rel=1e-3)
    n = len(held_out)
    assert int(best["val_n"]) == n
    for name, values in (("nll", nll.detach().numpy()), ("force_mse", error.mean(axis=(1, 2)))):
        assert float(best[f"val_{name}_error"]) == pytest.approx(values.std(ddof=1) / np.sqrt(n), rel=1e-3)
    header = read_header(model)
    assert header["provenance"]["frames"]["sha256"] == peroxide_frames.digest()
    assert header["provenance"]["step"] == int(best["step"])


def test_resumed_run_is_the_run_that_never_stopped(tmp_path: Path, peroxide_frames: Frames) -> None:
    whole = train(peroxide_frames, SETTINGS, tmp_path / "whole")
    for step in (30, 50):
        with pytest.raises(Stop):
            train(peroxide_frames, SETTINGS, tmp_path / "parts", on_progress=stop_at(step))
    parts = train(peroxide_frames, SETTINGS, tmp_path / "parts")
    assert metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name
    first, second = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("whole", "parts")
    )
    for name, value in first["state_dict"].items():
        assert torch.equal(value, second["state_dict"][name]), name
    for one, other in zip(
        first["optimizer_states"][0]["state"].values(), second["optimizer_states"][0]["state"].values(), strict=True
    ):
        for name, value in one.items():
            assert torch.equal(value, other[name]), name
    # and a finished run is left alone
    written = parts.stat().st_mtime_ns
    assert train(peroxide_frames, SETTINGS, tmp_path / "parts") == parts
    assert parts.stat().st_mtime_ns == written


def test_killed_run_is_resumed(tmp_path: Path, peroxide_frames: Frames) -> None:
    write_frames(tmp_path / "f.h5", peroxide_frames)
    (tmp_path / "s.yaml").write_text(SETTINGS.model_dump_json(), encoding="utf-8")  # JSON is YAML
    script = f"""
import os, signal
from smoothflow.training.config import read_settings
from smoothflow.molecules.frames_file import read_frames
from smoothflow.training.run import train
def on_progress(progress):
    if progress.done == 50:
        os.kill(os.getpid(), signal.SIGKILL)
train(read_frames({str(tmp_path / "f.h5")!r}), read_settings({str(tmp_path / "s.yaml")!r}),
      {str(tmp_path / "run")!r}, on_progress=on_progress)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [int(row["step"]) for row in metrics(tmp_path / "run")] == [20, 40]
    steps: list[int] = []
    train(peroxide_frames, SETTINGS, tmp_path / "run", on_progress=lambda progress: steps.append(progress.done))
    assert steps == [50, 60]
    assert "going on from step 40" in (tmp_path / "run" / "run.log").read_text()
    assert [int(row["step"]) for row in metrics(tmp_path / "run")] == [20, 40, 60]


def test_reverse_kl_pulls_the_samples_to_the_force_field(
    tmp_path: Path, peroxide_frames: Frames, force_field: Potential
) -> None:
    settings = SETTINGS.model_copy(
        update={"weights": LossWeights(nll=0.0, force=0.0, reverse_kl=1.0), "steps": 40, "n_samples": 32}
    )
    with pytest.raises(ConfigurationError, match="give a potential"):
        train(peroxide_frames, settings, tmp_path / "run")
    train(peroxide_frames, settings, tmp_path / "run", target=force_field)
    rows = metrics(tmp_path / "run")
    assert float(rows[-1]["val_reverse_kl"]) < float(rows[0]["val_reverse_kl"])


def test_forces_come_after_the_likelihood(tmp_path: Path, peroxide_frames: Frames) -> None:
    train(peroxide_frames, SETTINGS.model_copy(update={"likelihood_steps": 30}), tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert [bool(row["train_force_mse"]) for row in rows] == [False, True, True]
    assert all(float(row["val_force_mse"]) > 0 for row in rows)
    # of the steps 20 to 40, ten were trained on forces, and the mean is over these
    assert float(rows[1]["train_force_mse"]) > 0.5 * float(rows[1]["val_force_mse"])


def test_importance_weights_enter_the_likelihood(peroxide_frames: Frames) -> None:
    log_weights = np.zeros(len(peroxide_frames))
    log_weights[:800] = -700.0
    settings = SETTINGS.model_copy(update={"weights": LossWeights(force=0.0)})
    potential = initial_potential(peroxide_frames, settings)
    weighted = FlowTraining(potential.float(), replace(peroxide_frames, log_weights=log_weights), settings)
    plain = FlowTraining(potential.float(), peroxide_frames, settings)
    everything = torch.arange(len(peroxide_frames))
    expected = plain._frame_terms(potential, plain._tensors(everything[800:]))["nll"].mean()
    found = weighted._frame_terms(potential, weighted._tensors(everything))["nll"].mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)  # float32


def test_not_finite_loss_names_the_frame(tmp_path: Path, peroxide_frames: Frames) -> None:
    forces = peroxide_frames.require_forces().copy()
    training, _ = split(peroxide_frames, SETTINGS.validation_fraction, SETTINGS.seed)
    bad = int(training[123])
    forces[bad] = 3e38  # finite in float32, but its square is not
    with pytest.raises(TrainingError, match=rf"force(_mse)? of frame {bad} is not finite"):
        train(replace(peroxide_frames, forces=forces), SETTINGS, tmp_path / "run")
    assert "stopped: TrainingError" in (tmp_path / "run" / "run.log").read_text()


def test_folder_of_another_run_is_refused(tmp_path: Path, peroxide_frames: Frames) -> None:
    with pytest.raises(Stop):
        train(peroxide_frames, SETTINGS, tmp_path / "run", on_progress=stop_at(30))
    with pytest.raises(ConfigurationError, match=r"learning_rate is 0\.005 there and 0\.1 here"):
        train(peroxide_frames, SETTINGS.model_copy(update={"learning_rate": 0.1}), tmp_path / "run")
    with pytest.raises(ConfigurationError, match="SHA-256 of the frames is"):
        train(peroxide_frames[:1500], SETTINGS, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(FileFormatError, match="damaged"):
        train(peroxide_frames, SETTINGS, tmp_path / "run")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch /tmp/smoothflow-was-here",)


def test_checkpoint_runs_no_code(tmp_path: Path, peroxide_frames: Frames) -> None:
    with pytest.raises(Stop):
        train(peroxide_frames, SETTINGS, tmp_path / "run", on_progress=stop_at(10))
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(pickle.dumps({"global_step": Evil()}))
    with pytest.raises(FileFormatError, match="damaged"):
        train(peroxide_frames, SETTINGS, tmp_path / "run")
    assert not Path("/tmp/smoothflow-was-here").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path, peroxide_frames: Frames) -> None:
    def again(progress: Progress) -> None:
        with pytest.raises(ConfigurationError, match="another process"):
            train(peroxide_frames, SETTINGS, tmp_path / "run")
        raise Stop

    with pytest.raises(Stop):
        train(peroxide_frames, SETTINGS, tmp_path / "run", on_progress=again)


def test_interrupt_stays_an_interrupt(tmp_path: Path, peroxide_frames: Frames) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(peroxide_frames, SETTINGS, tmp_path / "run", on_progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler


def test_missing_forces_and_unusable_folders_are_refused(tmp_path: Path, peroxide_frames: Frames) -> None:
    with pytest.raises(FileFormatError, match="no forces"):
        train(replace(peroxide_frames, forces=None), SETTINGS, tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFormatError, match="cannot be made"):
        train(peroxide_frames, SETTINGS, tmp_path / "file" / "run")
    with pytest.raises(TrainingError, match="too few"):
        train(peroxide_frames[:20], SETTINGS, tmp_path / "run")
    with pytest.raises(GeometryError, match="in Å"):
        train(replace(peroxide_frames, positions=10 * peroxide_frames.positions), SETTINGS, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_users_zmatrix_serves_a_linear_group() -> None:
    topology, positions = topology_from_smiles("CC#N")
    x = positions.numpy() + 0.002 * np.random.default_rng(0).normal(size=(50, 6, 3))
    frames = Frames(topology, 300.0, x)
    collinear = ((0, -1, -1, -1), (1, 0, -1, -1), (2, 1, 0, -1), (3, 0, 1, 2), (4, 0, 1, 3), (5, 0, 1, 3))
    with pytest.raises(GeometryError, match="MOL1-N1, MOL1-C2, MOL1-C1 are collinear"):
        initial_potential(
            replace(frames, positions=positions.numpy()), SETTINGS.model_copy(update={"zmatrix": collinear})
        )
    # nitrogen (2) by its distance and angle from the methyl carbon (0)
    rows = ((0, -1, -1, -1), (3, 0, -1, -1), (1, 0, 3, -1), (2, 0, 3, 1), (4, 0, 3, 1), (5, 0, 3, 1))
    potential = initial_potential(frames, SETTINGS.model_copy(update={"zmatrix": rows})).double()
    assert "distance C1-N1" in potential.coordinates.codomain.names
    assert potential.energy(torch.from_numpy(frames.positions).double()).isfinite().all()


def test_held_out_frames_are_blocks_of_replicas(peroxide_frames: Frames) -> None:
    training, held_out = split(peroxide_frames, 0.1, seed=1)
    assert sorted([*training, *held_out]) == list(range(1600))
    assert len(held_out) == 160
    assert peroxide_frames.replica is not None
    # 20 blocks of 5 replicas each, 2 of them held out
    assert len(set(peroxide_frames.replica[held_out])) == 10
    assert not set(peroxide_frames.replica[held_out]) & set(peroxide_frames.replica[training])
    shuffled = np.random.default_rng(0).permutation(100).repeat(16).argsort(kind="stable")
    other, _ = split(peroxide_frames[shuffled], 0.1, seed=1)
    np.testing.assert_array_equal(np.sort(shuffled[other]), training)


def test_each_pass_sees_every_frame_once() -> None:
    indices = torch.arange(100, 150)
    batches = Batches(indices, 10, 3, lambda: 5, 7, 11)
    for n_pass in range(3):
        seen = torch.cat([batches.batch(5 * n_pass + k) for k in range(5)])
        assert torch.equal(seen.sort().values, indices)
    assert not torch.equal(batches.batch(0), batches.batch(5))
    steps = list(batches)
    assert len(steps) == 6  # to the last step, though the stretch is longer
    assert torch.equal(steps[0], batches.batch(5))


def test_averaged_weights_follow_their_formula(peroxide_frames: Frames) -> None:
    module = FlowTraining(initial_potential(peroxide_frames, SETTINGS).float(), peroxide_frames, SETTINGS)
    parameter = next(module.potential.parameters())
    values, expected = [1.0, 3.0, -2.0, 0.5], math.nan
    for n, value in enumerate(values):
        with torch.no_grad():
            parameter.fill_(value)
        module.on_train_batch_end()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
    averaged = next(module.averaged_potential.parameters())
    torch.testing.assert_close(averaged, torch.full_like(averaged, expected))
    assert not averaged.requires_grad


@pytest.mark.slow
def test_compiled_training_is_the_same_training(tmp_path: Path, peroxide_frames: Frames) -> None:
    settings = SETTINGS.model_copy(update={"steps": 20, "validate_every": 10})
    plain = train(peroxide_frames, settings, tmp_path / "plain")
    compiled = train(peroxide_frames, settings.model_copy(update={"compile": True}), tmp_path / "compiled")
    # float32 rounds otherwise in another order, and Adam's first steps divide by small gradients
    for ours, theirs in zip(metrics(tmp_path / "compiled"), metrics(tmp_path / "plain"), strict=True):
        for name in ("train_nll", "val_nll", "train_force", "val_force"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-3, abs=1e-3)
    assert weights(compiled).keys() == weights(plain).keys()


def test_compiled_training_without_a_compiler_says_so(tmp_path: Path, peroxide_frames: Frames) -> None:
    settings = SETTINGS.model_copy(update={"compile": True})
    with (
        torch._inductor.config.patch({"cpp.cxx": ("/nonexistent",)}),
        pytest.raises(CompilationError, match=r"needs a C\+\+ compiler"),
    ):
        train(peroxide_frames, settings, tmp_path / "run")
