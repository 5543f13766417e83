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
N_FRAMES = 20_000
START_SECONDS = 3.0  # importing torch; kills come before, during and after


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
        duration = time.monotonic() - began
        whole = read_frames(folder / "whole.h5").positions
        path = folder / "killed.h5"
        rng = random.Random(0)
        kills, counts = 0, [0]
        while kills < n_kills:
            # moments spread over what is left, so that the kills reach the end together with the simulation
            left = duration * (1 - counts[-1] / len(whole)) / max(1, (n_kills - kills) / 2)
            if not run_and_kill(path, START_SECONDS * rng.random() + left * rng.random() + 0.5 * START_SECONDS):
                print(f"finished after {kills} kills; again from the start")
                path.unlink()
                counts.append(0)
                continue
            kills += 1
            counts.append(require_beginning(path, whole))
            print(f"kill {kills}: {counts[-1]} of {len(whole)} frames, all as they should be", flush=True)
        subprocess.run(program(path), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        n_frames = require_beginning(path, whole)
        print(f"{n_kills} kills; the resumed run has {n_frames} of {len(whole)} frames, bit for bit those of the other")


if __name__ == "__main__":
    main(int(sys.argv[1]))
