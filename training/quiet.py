"""Lightning without its notes, and without its way of ending the process."""

from __future__ import annotations

import logging
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..core.errors import MissingDependencyError
from ..runs.stopping import TERMINATED

try:
    from lightning.pytorch.utilities.exceptions import SIGTERMException
except ImportError as error:
    raise MissingDependencyError("Training", "lightning", "train") from error


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Lightning's notes on devices and tips, which are of no use here, are not printed."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # training on the CPU beside a GPU is what was asked for
            warnings.filterwarnings("ignore", message="GPU available but not used")
            # Lightning 2.6 asks torch 2.13 about trees in the old way
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            # torch before 2.13 has no other name for it
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")
            # Adam makes its state before its first step is captured
            warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C stays a `KeyboardInterrupt`, and SIGTERM ends with its own exit code, where Lightning would end with 0."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        signal.signal(signal.SIGINT, handler)
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        if isinstance(error, SIGTERMException):
            raise SystemExit(TERMINATED) from error
        raise
