"""The command line: parse, call the library, print."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__all__ = ["main"]

ENDING = {signal.SIGINT: "Interrupted.", signal.SIGTERM: "Terminated.", signal.SIGHUP: "Terminated."}
"""Signals that end the program, and its last message."""


def main() -> None:
    """Run the program as a process; see `app.main`.

    Importing takes a second, in which a signal ends the process at once: nothing has to be closed yet.
    """
    _open_streams()
    usual = {number: signal.getsignal(number) for number in ENDING}
    heard = [number for number, handler in usual.items() if handler is not signal.SIG_IGN]
    for number in heard:
        signal.signal(number, _end)
    from .app import main as run

    for number in heard:
        signal.signal(number, usual[number])
    try:
        run()
    except KeyboardInterrupt:
        # a second signal during the message of the first
        _end(signal.SIGINT, None)
    finally:
        # only the interpreter's own end is left
        for number in heard:
            signal.signal(number, signal.SIG_IGN)


def _open_streams() -> None:
    """Open standard streams that lead nowhere in a process without any: a file that it opens would take their place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # the lowest number that is free
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, f"{ENDING[signal.Signals(number)]}\n".encode())
    os._exit(128 + number)
