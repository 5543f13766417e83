"""Potentials that fail in the ways that programs do; worker processes import this file by name."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from smoothflow.core.errors import SimulationError
from smoothflow.core.potential import Potential
from torch import Tensor

RAISES, DIES, WAITS = 10.0, 20.0, 30.0
"""Values of the first coordinate at which something happens."""


class Fragile(Potential):
    """A harmonic well of two dimensions; marked configurations raise, kill the process, or take a minute.

    Args:
        record: Folder where each process that waits leaves its number; with a file ``spared`` in it, no process dies.
    """

    shape = (2,)

    def __init__(self, record: Path) -> None:
        super().__init__()
        self.record = record

    def energy(self, positions: Tensor) -> Tensor:
        first = positions[:, 0]
        if bool((first == DIES).any()) and not (self.record / "spared").exists():
            (self.record / "spared").touch(exist_ok=True) if (self.record / "once").exists() else None
            os.kill(os.getpid(), signal.SIGKILL)
        if bool((first == RAISES).any()):
            raise SimulationError("It does not converge. Use another guess.")
        if bool((first == WAITS).any()):
            (self.record / str(os.getpid())).touch()
            time.sleep(60)
        return 0.5 * positions.square().sum(-1)


class Unsendable(Potential):
    """A potential that holds on to something of its process."""

    shape = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def energy(self, positions: Tensor) -> Tensor:
        return 0.5 * positions.square().sum(-1)
