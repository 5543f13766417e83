"""Train and keep the parameters after each step of each process; end one of the processes if asked to.

python recorded_training.py SETTINGS FRAMES RUN RECORD [RANK STEP]
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

# run as a script, by tests and by tools/soak/distributed_training.py
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from closed_forms import Peroxide
from smoothflow.molecules.frames_file import read_frames
from smoothflow.training.config import read_settings
from smoothflow.training.run import train
from torch.optim.optimizer import register_optimizer_step_post_hook

SETTINGS, FRAMES, RUN, RECORD = (Path(name) for name in sys.argv[1:5])
KILLED = sys.argv[5:]


def record(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    step = int(optimizer.state[parameters[0]]["step"])
    rank = os.environ.get("RANK", "0")
    torch.save(torch.cat([p.detach().flatten() for p in parameters]), RECORD / f"{rank}-{step}.pt")
    if [rank, str(step)] == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)


# each process imports this script
register_optimizer_step_post_hook(record)

if __name__ == "__main__":
    settings = read_settings(SETTINGS)
    target = Peroxide() if settings.needs_target else None
    train(read_frames(FRAMES), settings, RUN, target)
