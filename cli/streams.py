"""Standard output and error that may be closed, full or limited to ASCII: the work goes on, its files are written."""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

PLAIN = {
    "±": "+-",
    "–": "-",
    "−": "-",
    "²": "^2",
    "³": "^3",
    "°": " deg",
    "µ": "u",
    "×": "x",
    "Å": "A",
    "…": "...",
    "\u00a0": " ",
    "\N{REPLACEMENT CHARACTER}": "?",
}
"""Replacements of our own characters on a terminal that lacks them."""


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    unknown = error.object[error.start : error.end]
    return "".join(PLAIN.get(character, "?") for character in unknown), error.end


codecs.register_error("smoothflow-plain", _plain)


class CarefulStream:
    """A stream that drops what cannot be written, and remembers that.

    Attributes:
        is_closed: Whether the reader went away.
        reason: What else went wrong, in words; empty if nothing did.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.is_closed = False
        self.reason = ""
        if not str(getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf") and hasattr(
            stream, "reconfigure"
        ):
            stream.reconfigure(errors="smoothflow-plain")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, unless an earlier write failed."""
        if not (self.is_closed or self.reason):
            try:
                self._stream.write(text)
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush what was written."""
        if not (self.is_closed or self.reason):
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            self.is_closed = True
        else:
            self.reason = os.strerror(error.errno) if error.errno else str(error)
        # what the stream still holds goes nowhere, even when the interpreter ends
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def careful_streams() -> Iterator[CarefulStream]:
    """Standard output and error as careful streams for the length of a ``with`` block; yields the first one."""
    usual = sys.stdout, sys.stderr
    output = CarefulStream(sys.stdout)
    sys.stdout, sys.stderr = output, CarefulStream(sys.stderr)
    try:
        yield output
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = usual
