"""Kill commands at random moments, give them again, and compare with runs that were never interrupted.

    python tools/soak/random_kills.py --kills 200 --json docs/reliability/random-kills.json

Half of the kills come at a random time, the others right after a file changed. After each, every file under its final
name must be complete and readable, and hold what the uninterrupted run's file begins with; in the end, all of it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from examine import difference, files
from record import keep
from smoothflow.integrators.checkpoint import read_checkpoint
from smoothflow.molecules.frames_file import read_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.training.config import read_settings
from smoothflow.training.run_folder import RunFolder, last_step

AMBER = "openmm:amber99sbildn.xml,amber99_obc.xml"
SIGNALS = (signal.SIGKILL,) * 7 + (signal.SIGTERM, signal.SIGINT)
TINY = "{hidden: 4, n_hidden_layers: 1, line_pairs: 1, interval_pairs: 1, circle_pairs: 1}"
TRAINING = f"steps: 120\nvalidate_every: 4\nbatch_size: 16\nflow: {TINY}\n"
GRID = f"""\
training: {{steps: 8, validate_every: 2, batch_size: 16, flow: {TINY}}}
transforms:
  affine: {{transforms: {{line: affine}}}}
objectives:
  nll: {{force: 0}}
  nll+fm:
n_samples: 20
n_gradients: 2
dynamics: {{replicas: 1, timestep: 1.0e-4, duration: 1.0e-3, equilibration: 0, timesteps: []}}
"""


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    Attributes:
        command: Its name.
        arguments: With ``{run}`` for the folder, and ``{shared}`` for that of its input.
        share: Share of the kills, relative to that of the others.
        done: How far the run in a folder is: what must never become less.
    """

    command: str
    arguments: str
    share: int
    done: Callable[[Path], int]


def n_frames(path: Path) -> int:
    return len(read_frames(path)) if path.exists() else 0


def checkpoint_step(path: Path) -> int:
    return read_checkpoint(path).step if path.exists() else 0


MD = "{shared}/model.safetensors --start {shared}/frames.h5 --replicas 2 --dtype float32 --energy-bound 1e6"
FILES = "--steps 600 --report-every 2 --timestep 0.1 --checkpoint-every 0.1 --out {run}/run.h5 --log {run}/run.csv"
JOBS = (
    Job(
        "simulate",
        "capped-alanine --interval 0.02 --timestep 2 --walkers 1 --equilibration 0.2 --ladder none -n 8000 "
        "--out {run}/frames.h5",
        6,
        lambda run: n_frames(run / "frames.h5"),
    ),
    Job(
        "train",
        "{shared}/frames.h5 --config {shared}/train.yaml --out {run}/run",
        6,
        lambda run: last_step(RunFolder(run / "run")) or 0,
    ),
    Job(
        "sample",
        "{shared}/model.safetensors -n 12000 --out {run}/samples.h5 --reference " + AMBER,
        5,
        lambda run: n_frames(run / "samples.h5"),
    ),
    Job("md", f"{MD} {FILES} --trajectory {{run}}/run.xtc", 3, lambda run: checkpoint_step(run / "run.h5.checkpoint")),
    Job("md", f"{MD} {FILES} --trajectory {{run}}/run.dcd", 3, lambda run: checkpoint_step(run / "run.h5.checkpoint")),
    Job(
        "compare",
        "{shared}/frames.h5 --preset {shared}/grid.yaml --out {run}/grid",
        1,
        lambda run: len(list(run.rglob("evaluation.json"))),
    ),
)


@dataclass
class Soak:
    """What was counted."""

    shared: Path
    rng: random.Random
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)
    during_writes: int = 0
    checked: int = 0
    lost: int = 0
    corrupted: int = 0
    different: int = 0
    wrong_exits: int = 0
    left_behind: int = 0
    finished: int = 0

    def program(self, job: Job, run: Path) -> list[str]:
        arguments = job.arguments.format(run=run, shared=self.shared).split()
        return [sys.executable, "-m", "smoothflow", job.command, *arguments]

    def run(self, job: Job, run: Path) -> float:
        """Run to the end; seconds that it took."""
        run.mkdir(exist_ok=True)
        began = time.monotonic()
        subprocess.run(self.program(job, run), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.monotonic() - began

    def kill(self, job: Job, run: Path, start: float, work: float) -> bool:
        """Give the command and kill it; False if it came to its end before."""
        run.mkdir(exist_ok=True)
        number = self.rng.choice(SIGNALS)
        at_write = self.rng.random() < 0.5
        seconds = start * self.rng.random() if self.rng.random() < 0.2 else start + self.rng.random() * work / 2
        n_changes, delay = self.rng.randrange(1, 12), 2e-3 * self.rng.random()
        quiet = subprocess.DEVNULL
        with subprocess.Popen(self.program(job, run), stdout=quiet, stderr=quiet) as process:
            if at_write:
                for _ in range(n_changes):
                    self.wait_for_change(run, process)
                time.sleep(delay)
            else:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(seconds)
            if process.poll() is not None:
                return False
            process.send_signal(number)
            code = process.wait()
        if code == 0:
            # its work was done when the signal came
            return False
        self.wrong_exits += code not in (-number, 128 + number)
        self.kills[job.command, number.name] += 1
        self.during_writes += at_write
        return True

    @staticmethod
    def wait_for_change(run: Path, process: subprocess.Popen[bytes]) -> None:
        before = stamps(run)
        while process.poll() is None and stamps(run) == before:
            time.sleep(2e-4)

    def examine(self, run: Path, whole: Path, known: set[str], at_end: bool) -> None:
        """Compare all files of a run with those of the uninterrupted one."""
        names = {str(path.relative_to(run)) for path in files(run)}
        for name in sorted(known - names):
            self.say("lost", run / name, "it was there before")
        if at_end:
            for name in sorted({str(path.relative_to(whole)) for path in files(whole)} - names):
                self.say("lost", run / name, "the uninterrupted run has it")
        for name in sorted(names):
            path = run / name
            self.checked += 1
            try:
                found = difference(path, whole / name, at_end)
            # whatever a reader says of a file that is cut short
            except Exception as error:
                self.say("corrupted", path, f"{type(error).__name__}: {error}")
                continue
            if found:
                self.say("different", path, found)

    def say(self, kind: str, path: Path, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        print(f"{kind.upper()}: {path}: {what}", flush=True)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = f"{root}/{name}"
            with suppress(FileNotFoundError):
                status = Path(path).stat()
                found[path] = (status.st_mtime_ns, status.st_size)
    return found


def prepare(shared: Path) -> None:
    """Frames and a model for the commands that need them."""
    (shared / "train.yaml").write_text(TRAINING)
    (shared / "grid.yaml").write_text(GRID)
    assert read_settings(shared / "train.yaml").validate_every == 4
    frames, run = shared / "frames.h5", shared / "run"
    for arguments in (
        ["simulate", molecule_path("capped-alanine"), "--out", frames, "-n", 500, "--interval", 0.02, "--walkers", 1],
        ["train", frames, "--config", shared / "train.yaml", "--steps", 4, "--out", run],
    ):
        command = [sys.executable, "-m", "smoothflow", *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (run / "model.safetensors").rename(shared / "model.safetensors")


def soak(n_kills: int, seed: int, commands: list[str], folder: Path) -> Soak:
    """Kill as often as told; each command in turn until its share is used up."""
    shared = folder / "shared"
    shared.mkdir()
    prepare(shared)
    found = Soak(shared, random.Random(seed))
    jobs = [job for job in JOBS if not commands or job.command in commands]
    for index, job in enumerate(jobs):
        done = sum(found.kills.values())
        # the last one takes what rounding left
        due = round(n_kills * sum(job.share for job in jobs[: index + 1]) / sum(job.share for job in jobs)) - done
        if due > 0:
            kill_often(found, job, due, folder / f"{index}-{job.command}")
    return found


def kill_often(found: Soak, job: Job, n_kills: int, folder: Path) -> None:
    folder.mkdir()
    whole = folder / "whole"
    duration = found.run(job, whole)
    # the same command once more finds nothing left to do: what it takes is the start
    start = min(found.run(job, whole), duration)
    kills = n_runs = 0
    while kills < n_kills:
        run = folder / f"killed-{n_runs}"
        known: set[str] = set()
        done = 0
        while kills < n_kills and found.kill(job, run, start, duration - start):
            kills += 1
            found.examine(run, whole, known, at_end=False)
            known = {str(path.relative_to(run)) for path in files(run)}
            if job.done(run) < done:
                found.say("lost", run, f"{job.done(run)} after a kill, {done} before")
            done = job.done(run)
            print(f"{job.command}: kill {kills} of {n_kills}, {len(known)} files, {done} done", flush=True)
        found.run(job, run)
        found.examine(run, whole, known, at_end=True)
        found.finished += 1
        found.left_behind += len([p for p in run.rglob(".*") if p.is_file() and p.name != ".lock"])
        n_runs += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--commands", default="", help="only these, with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        commands = [command for command in arguments.commands.split(",") if command]
        found = soak(arguments.kills, arguments.seed, commands, Path(name))
    figures: dict[str, object] = {}
    for command in dict.fromkeys(job.command for job in JOBS):
        by_signal = {number: n for (killed, number), n in sorted(found.kills.items()) if killed == command}
        if by_signal:
            figures[f"kills of {command}"] = ", ".join(f"{n} by {number}" for number, n in by_signal.items())
    figures |= {
        "kills in all": sum(found.kills.values()),
        "of them right after a file changed": found.during_writes,
        "exit codes that are not the signal's": found.wrong_exits,
        "files examined": found.checked,
        "files lost": found.lost,
        "files corrupted": found.corrupted,
        "runs finished after kills": found.finished,
        "files that differ from those of an uninterrupted run": found.different,
        "temporary files left behind": found.left_behind,
    }
    keep(arguments.json, "Kills at random moments", figures, began)
    if found.lost or found.corrupted or found.different or found.wrong_exits:
        sys.exit(1)


if __name__ == "__main__":
    main()
