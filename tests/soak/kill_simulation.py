"""Kill a simulation at random moments, resume it, and compare with one that was never interrupted.

    python tests/soak/kill_simulation.py 20

After every kill the file must hold whole chunks that equal the beginning of the uninterrupted run; at the end, all.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from smoothflow.core.errors import FileFormatError
from smoothflow.training.frames_file import read_frames

COMMAND = ["simulate", "capped-alanine", "--interval", "0.02", "--walkers", "1", "--equilibration", "1", "--seed", "5"]
N_FRAMES = 50_000


def program(path: Path) -> list[str]:
    return [sys.executable, "-m", "smoothflow", *COMMAND, "--ladder", "none", "-n", str(N_FRAMES), "--out", str(path)]


def run_and_kill(path: Path, seconds: float) -> bool:
    """Whether the simulation was still running when it was killed."""
    with subprocess.Popen(program(path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return True
    return False


def require_beginning(path: Path, whole: np.ndarray) -> int:
    """The number of frames in the file, which must be those that an uninterrupted run begins with."""
    if not path.exists():
        return 0
    found = read_frames(path).positions
    if not np.array_equal(found, whole[: len(found)]):
        raise FileFormatError(f"{path}: the frames differ from those of the uninterrupted run.")
    return len(found)


def main(n_kills: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        subprocess.run(program(folder / "whole.h5"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # the same command once more finds nothing left to do: what it takes is the start
        middle = time.monotonic()
        subprocess.run(program(folder / "whole.h5"), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        start, duration = time.monotonic() - middle, middle - began
        whole = read_frames(folder / "whole.h5").positions
        path = folder / "killed.h5"
        rng = random.Random(0)
        kills, n_frames = 0, 0
        while kills < n_kills:
            # one kill in four hits the start; the others are spread over the simulation
            if rng.random() < 0.25:
                seconds = start * rng.random()
            else:
                seconds = start + 2 * rng.random() * (duration - start) / n_kills
            if not run_and_kill(path, seconds):
                print(f"finished after {kills} kills; again from the start")
                path.unlink()
                continue
            kills += 1
            n_frames = require_beginning(path, whole)
            print(f"kill {kills}, {seconds:.1f} s: {n_frames} of {len(whole)} frames, as they should be", flush=True)
        subprocess.run(program(path), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        n_frames = require_beginning(path, whole)
        print(f"{n_kills} kills; the resumed run has {n_frames} of {len(whole)} frames, bit for bit those of the other")


if __name__ == "__main__":
    main(int(sys.argv[1]))
