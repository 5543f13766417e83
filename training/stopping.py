"""Ctrl-C and SIGTERM as a wish that a long run grants at its next step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

TERMINATED = 128 + signal.SIGTERM
"""The exit code after SIGTERM, as of any program that it ends."""


class Terminated(BaseException):
    """SIGTERM, raised wherever the program is, as Ctrl-C raises `KeyboardInterrupt`."""


Asked = Callable[[], int | None]
"""Tells the number of the signal that asked to stop, if one did."""


@contextmanager
def stop_requests() -> Iterator[Asked]:
    """Note SIGINT and SIGTERM for the length of a ``with`` block; a second one does what the first usually does.

    Signals reach the main thread alone; in another one nothing is noted.
    """
    noted: list[int] = []
    usual: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.signal(number, usual[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            usual[number] = signal.signal(number, note)
    try:
        yield lambda: noted[0] if noted else None
    finally:
        for noticed, handler in usual.items():
            signal.signal(noticed, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """For the length of a ``with`` block SIGTERM raises `Terminated`, so that files are closed and workers end."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    in_main_thread = threading.current_thread() is threading.main_thread()
    usual = signal.signal(signal.SIGTERM, terminate) if in_main_thread else None
    try:
        yield
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, usual)
