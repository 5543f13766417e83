"""Train by two processes and by one, compare after each step; kill one of the two at random moments and go on.

    python tools/soak/distributed_training.py --steps 200 --kills 20 --json docs/reliability/distributed-training.json

Capped alanine, likelihood and forces, float64. What is killed goes on from its last checkpoint; at the end the
parameters after each of its steps are compared with those of the process that trained alone and undisturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from record import keep
from smoothflow.core.errors import TrainingError
from smoothflow.training.run_folder import RunFolder, last_step

SCRIPT = Path(__file__).parents[2] / "tests" / "training" / "recorded_training.py"
SIMULATE = ["simulate", "capped-alanine", "--ladder", "none", "--walkers", "1", "--interval", "0.02"]
SETTINGS = """
steps: {steps}
validate_every: {validate_every}
processes: {processes}
batch_size: 64
dtype: float64
flow: {{hidden: 32}}
"""
PATIENCE = 120.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


class Trainings:
    """A folder with frames and trainings on them."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder
        self.steps = steps
        simulate = [sys.executable, "-m", "smoothflow", *SIMULATE, "-n", "1000", "--out", str(folder / "frames.h5")]
        subprocess.run(simulate, check=True, env=ENVIRONMENT, capture_output=True)

    def start(self, run: str, processes: int) -> subprocess.Popen[str]:
        """A training that records the parameters after each step in the folder ``run``-record."""
        settings = self.folder / f"{processes}.yaml"
        validate_every = max(1, self.steps // 20)
        text = SETTINGS.format(steps=self.steps, validate_every=validate_every, processes=processes)
        settings.write_text(text, encoding="utf-8")
        record = self.folder / f"{run}-record"
        record.mkdir(exist_ok=True)
        files = [settings, self.folder / "frames.h5", self.folder / run, record]
        command = [sys.executable, str(SCRIPT), *map(str, files)]
        return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)

    def finish(self, run: str, processes: int) -> None:
        """Train to the end."""
        process = self.start(run, processes)
        _, said = process.communicate()
        if process.returncode != 0:
            raise TrainingError(f"The training {run} failed: {said}")

    def largest_difference(self, run: str, other: str) -> tuple[float, int]:
        """Of any parameter after any step, in any process of the other run, and how many records were compared."""
        differences = []
        for path in (self.folder / f"{other}-record").glob("*.pt"):
            step = path.stem.partition("-")[2]
            ours = torch.load(self.folder / f"{run}-record" / f"0-{step}.pt")
            differences.append(float((ours - torch.load(path)).abs().max()))
        return max(differences), len(differences)


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that a training has started, and that have not ended."""
    found = []
    for child in psutil.Process(process.pid).children():
        # one that ends just now has no command any more
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child)
    return found


def kill_one(process: subprocess.Popen[str], rng: random.Random, longest: float) -> float | None:
    """Kill one of two processes at a random moment; seconds until all had ended, or None if they had finished."""
    seconds = rng.uniform(0, longest)
    began = time.monotonic()
    while process.poll() is None and (len(ranks(process)) < 2 or time.monotonic() < began + seconds):
        time.sleep(0.01)
    if process.poll() is not None:
        return None
    both = ranks(process)
    if len(both) < 2:
        # one has finished already
        process.communicate()
        return None
    rng.choice(both).kill()
    killed = time.monotonic()
    _, said = process.communicate(timeout=PATIENCE)
    _, alive = psutil.wait_procs(both, timeout=PATIENCE)
    if alive:
        raise TrainingError("A process of a training lives on, though another one was killed.")
    if process.returncode == 0:
        return None
    if "was ended by SIGKILL" not in said:
        raise TrainingError(f"A killed process is reported as: {said}")
    return time.monotonic() - killed


def main(steps: int, kills: int, json: Path | None) -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        trainings = Trainings(Path(name), steps)
        trainings.finish("one", 1)
        before = time.monotonic()
        trainings.finish("two", 2)
        duration = time.monotonic() - before
        difference, n_compared = trainings.largest_difference("one", "two")
        rng = random.Random(0)
        run = RunFolder(Path(name) / "killed")
        seconds: list[float] = []
        reached, lost, finished = 0, 0, 0
        while len(seconds) < kills:
            waited = kill_one(trainings.start("killed", 2), rng, duration)
            if waited is None:
                # again from the start
                run.checkpoint.unlink()
                reached, finished = 0, finished + 1
                continue
            seconds.append(waited)
            step = last_step(run) or 0
            lost += step < reached
            reached = step
            print(f"kill {len(seconds)}: ended after {waited:.2f} s, the last checkpoint is of step {step}", flush=True)
        trainings.finish("killed", 1)
        after_kills, n_after_kills = trainings.largest_difference("one", "killed")
    figures: dict[str, object] = {
        "steps": steps,
        "processes": 2,
        "records of all parameters compared with one process": n_compared,
        "largest difference of a parameter": f"{difference:.2g}",
        "kills of one of two processes": kills,
        "runs that finished in between": finished,
        "checkpoints lost": lost,
        "longest time from a kill to the end of all processes, s": f"{max(seconds):.1f}",
        "records of all parameters compared in the killed run": n_after_kills,
        "largest difference of a parameter in the killed run": f"{after_kills:.2g}",
    }
    keep(json, "One process of a distributed training is killed", figures, began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--json", type=Path)
    main(**vars(parser.parse_args()))
