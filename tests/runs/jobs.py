"""Work for worker processes, which import it by its name."""

from __future__ import annotations

import os
import signal
import time

import torch
from smoothflow.core.errors import GeometryError
from smoothflow.runs.workers import tell

FOR_EVER = 1000.0
"""Seconds: a test that waits for it fails by its time."""


def square(number: int) -> int:
    time.sleep(0.05 * (3 - number))  # the last one is the first to be done
    for value in range(number):
        tell((number, value))
    return number**2


def fail_or_wait(number: int) -> None:
    if number == 1:
        raise GeometryError("number 1")
    time.sleep(FOR_EVER)


def die_or_wait(number: int) -> None:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(FOR_EVER)


def threads() -> tuple[int, str]:
    return torch.get_num_threads(), os.environ["OPENMM_CPU_THREADS"]
