"""Ctrl-C, SIGTERM and SIGHUP stop a long run at its next step."""

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
    """SIGTERM or SIGHUP, raised wherever the program is, as Ctrl-C raises `KeyboardInterrupt`.

    Attributes:
        code: The exit code that belongs to the signal.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


Asked = Callable[[], int | None]
"""Returns the number of the signal that asked the run to stop; None if there was none."""


@contextmanager
def stop_requests() -> Iterator[Asked]:
    """Note SIGINT, SIGTERM and SIGHUP for the length of a ``with`` block; a second does what the first usually does.

    Signals reach the main thread alone; in another one nothing is noted. What is ignored (by ``nohup``) stays ignored.
    """
    noted: list[int] = []
    usual: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        signal.signal(number, usual[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                usual[number] = signal.signal(number, note)
    try:
        yield lambda: noted[0] if noted else None
    finally:
        for noticed, handler in usual.items():
            signal.signal(noticed, handler)


@contextmanager
def terminable() -> Iterator[None]:
    """For the length of a ``with`` block SIGTERM and SIGHUP raise `Terminated`: files are closed and workers end."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated(number)

    usual: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                usual[number] = signal.signal(number, terminate)
    try:
        yield
    finally:
        for noticed, handler in usual.items():
            signal.signal(noticed, handler)
