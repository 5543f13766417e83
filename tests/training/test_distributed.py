"""A training by several processes is the training by one, and the death of one of them loses nothing."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.errors import ConfigurationError, TrainingError
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import write_frames
from smoothflow.training.batches import Batches, split
from smoothflow.training.config import LossWeights, RefiningSettings, TrainSettings
from smoothflow.training.processes import Rank, in_processes
from smoothflow.training.run import train

HERE = Path(__file__).parent
SETTINGS = TrainSettings(
    flow=FlowSettings(hidden=12, n_hidden_layers=1, line_pairs=1, interval_pairs=1, circle_pairs=1),
    steps=12,
    batch_size=64,
    validate_every=4,
    learning_rate=5e-3,
    averaging=0.9,
    dtype="float64",
    seed=5,
)
ROUNDING = 1e-12  # sums of gradients of order one in another order, in float64, divided by their own size in Adam


class Recorded:
    """A folder with frames, in which trainings run as programs of their own."""

    def __init__(self, folder: Path, frames: Frames) -> None:
        self.folder = folder
        write_frames(folder / "f.h5", frames)

    def train(self, run: str, record: str, settings: TrainSettings, *killed: str, by: str = "") -> tuple[int, str]:
        """Exit code, and what was printed about errors."""
        (self.folder / record).mkdir()
        (self.folder / "s.yaml").write_text(settings.model_dump_json(), encoding="utf-8")  # JSON is YAML
        files = [str(self.folder / name) for name in ("s.yaml", "f.h5", run, record)]
        command = [sys.executable, *by.split(), str(HERE / "recorded_training.py"), *files, *killed]
        # the script's potential is one of the tests' closed forms
        paths = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        environment["PYTHONWARNINGS"] = "error::FutureWarning"
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        return done.returncode, done.stderr

    def difference(self, one: str, other: str, rank: int, step: int) -> float:
        """Of the parameters of the single process ``one``, and those of a process of ``other``, after a step."""
        ours = torch.load(self.folder / one / f"0-{step}.pt")
        theirs = torch.load(self.folder / other / f"{rank}-{step}.pt")
        return float((ours - theirs).abs().max())

    def metrics(self, run: str) -> list[dict[str, float]]:
        with (self.folder / run / "metrics.csv").open(newline="") as file:
            return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.fixture
def recorded(tmp_path: Path, peroxide_frames: Frames) -> Recorded:
    return Recorded(tmp_path, peroxide_frames)


@pytest.mark.slow
def test_two_processes_are_one_and_the_death_of_one_loses_nothing(recorded: Recorded, peroxide_frames: Frames) -> None:
    recorded.train("one", "of-one", SETTINGS)
    shared = SETTINGS.model_copy(update={"processes": 2})
    code, said = recorded.train("two", "of-two", shared, "1", "10")
    assert code == 1
    assert "TrainingError: Process 1 of 2 (counted from 0) was ended by SIGKILL" in said.splitlines()[-1]
    for step in range(1, 10):
        for rank in (0, 1):
            assert recorded.difference("of-one", "of-two", rank, step) < ROUNDING
    log = (recorded.folder / "two" / "run.log").read_text(encoding="utf-8")
    assert "stopped: TrainingError: Process 1" in log
    # one process goes on where two were stopped
    train(peroxide_frames, SETTINGS, recorded.folder / "two")
    log = (recorded.folder / "two" / "run.log").read_text(encoding="utf-8")
    assert "going on from step 8" in log
    one, two = recorded.metrics("one"), recorded.metrics("two")
    assert [row["step"] for row in two] == [4, 8, 12]
    for ours, theirs in zip(one, two, strict=True):
        assert theirs == pytest.approx(ours, rel=1e-10)  # forces are sums of thousands of terms
    ends = [
        torch.load(recorded.folder / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("one", "two")
    ]
    for name, value in ends[0]["state_dict"].items():
        torch.testing.assert_close(ends[1]["state_dict"][name], value, rtol=0, atol=ROUNDING)


@pytest.mark.slow
def test_samples_are_the_same_and_torchrun_starts_processes_too(recorded: Recorded) -> None:
    weights = LossWeights(force=1e-4, reverse_kl=0.5, alpha_two=0.1)
    settings = SETTINGS.model_copy(update={"weights": weights, "n_samples": 8, "steps": 4, "validate_every": 2})
    recorded.train("one", "of-one", settings)
    shared = settings.model_copy(update={"processes": 2})
    code, said = recorded.train("two", "of-two", shared, by="-m torch.distributed.run --standalone --nproc-per-node 2")
    assert code == 0, said
    for step in range(1, 5):
        for rank in (0, 1):
            assert recorded.difference("of-one", "of-two", rank, step) < ROUNDING
    for ours, theirs in zip(recorded.metrics("one"), recorded.metrics("two"), strict=True):
        assert theirs == pytest.approx(ours, rel=1e-10)


@pytest.mark.slow
def test_processes_refine_on_one_pool(recorded: Recorded) -> None:
    share = RefiningSettings(pool_size=600, refresh_every=3, frames_share=0.3, outside_share=0.1, fewest_effective=5)
    # an untrained shear makes worse samples, whose weights are e^20
    flow = replace(SETTINGS.flow, shear=False)
    settings = SETTINGS.model_copy(
        update={"flow": flow, "refining": share, "steps": 6, "validate_every": 2, "likelihood_steps": 1}
    )
    code, said = recorded.train("one", "of-one", settings)
    assert code == 0, said
    code, said = recorded.train("two", "of-two", settings.model_copy(update={"processes": 2}))
    assert code == 0, said
    for step in range(1, 7):
        for rank in (0, 1):
            # a sample's weight, near e^10 at first, multiplies what sums in another order differ by, step after step
            assert recorded.difference("of-one", "of-two", rank, step) < 1e4 * ROUNDING
    ours, theirs = recorded.metrics("one"), recorded.metrics("two")
    assert [row["energy_evaluations"] for row in theirs] == [row["energy_evaluations"] for row in ours]
    assert [row["pool_ess"] for row in theirs] == pytest.approx([row["pool_ess"] for row in ours], rel=1e-6)
    log = (recorded.folder / "two" / "run.log").read_text(encoding="utf-8")
    assert log.count("pool of step") == 2
    assert "worth fewer" not in log


@pytest.mark.slow
def test_error_of_a_process_is_the_error_of_the_run(
    tmp_path: Path, peroxide_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    # such forces are refused before the training, where frames are looked at as a whole
    monkeypatch.setattr("smoothflow.training.run.check_labels", lambda frames, source: None)
    shared = SETTINGS.model_copy(update={"processes": 2, "dtype": "float32"})
    training, _ = split(peroxide_frames, SETTINGS.validation_fraction, SETTINGS.seed)
    batches = Batches(torch.from_numpy(training), 64, SETTINGS.seed, lambda: 0, 4, 12, Rank(1, 2, 2))
    bad = int(list(batches)[2][5])  # in the share of the second process
    forces = peroxide_frames.require_forces().copy()
    forces[bad] = 3e38  # finite in float32, but its square is not
    with pytest.raises(TrainingError, match=rf"At step 2 the force(_mse)? of frame {bad} is not finite"):
        train(replace(peroxide_frames, forces=forces), shared, tmp_path / "run")


def test_processes_share_a_batch() -> None:
    batches = [Batches(torch.arange(50), 12, 3, lambda: 0, 3, 3, Rank(i, 3, 3)) for i in range(3)]
    for step, shares in enumerate(zip(*batches, strict=True)):
        assert {len(share) for share in shares} == {4}
        assert torch.equal(torch.cat(shares).sort().values, batches[0].batch(step).sort().values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processes": 3}, "3 processes cannot share a batch of 64 frames equally"),
        ({"processes": 7, "batch_size": 10_000}, "7 processes cannot share a batch of 1440 frames equally"),
        ({"processes": 240, "batch_size": 240}, "240 processes cannot share 160 held-out frames"),
    ],
)
def test_impossible_numbers_of_processes_are_refused(
    tmp_path: Path, peroxide_frames: Frames, changes: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        train(peroxide_frames, SETTINGS.model_copy(update=changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.cuda
@pytest.mark.parametrize(("device", "processes"), [("cuda", 64), ("cuda:0", 2)])
def test_every_process_needs_a_device(tmp_path: Path, peroxide_frames: Frames, device: str, processes: int) -> None:
    settings = SETTINGS.model_copy(update={"device": device, "processes": processes})
    with pytest.raises(ConfigurationError, match="processes need as many devices"):
        train(peroxide_frames, settings, tmp_path / "run")


def test_settings_that_disagree_with_torchrun_are_refused(
    tmp_path: Path, peroxide_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="torchrun started 4 processes, and processes is 1"):
        train(peroxide_frames, SETTINGS, tmp_path / "run")


def test_arguments_that_cannot_be_pickled_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="cannot be sent to other processes"):
        in_processes(2, print, lambda: None, print)
