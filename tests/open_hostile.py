"""Open files that may be hostile, in a process with little memory, and say how each of them ended.

Reads lines of JSON with ``kind`` and ``path``, and answers each with a line of JSON.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from smoothflow.core.errors import SmoothflowError

SPARE_BYTES = 2**29
"""Address space beyond what is in use before a file is opened."""

PATIENCE = 20
"""Seconds after which a file that is still being opened ends this process."""


def read_all_frames(path: Path) -> None:
    from smoothflow.molecules.frames_file import FramesReader, describe_frames

    describe_frames(path)
    with FramesReader(path) as reader:
        reader.read()
        reader.state()


def opener(kind: str) -> Callable[[Path], object]:
    """What opens files of a kind."""
    if kind == "frames":
        return read_all_frames
    if kind == "model":
        from smoothflow import load_model

        return load_model
    if kind == "package":
        from smoothflow.potentials.compiled import load_compiled

        return load_compiled
    if kind == "checkpoint":
        from smoothflow.integrators.checkpoint import read_checkpoint

        return read_checkpoint
    if kind == "imported":
        from smoothflow.molecules.formats import import_frames

        return import_frames
    if kind == "settings":
        from smoothflow.training.config import read_settings

        return read_settings
    from smoothflow.studies.comparison.settings import read_comparison

    return lambda path: read_comparison(str(path))


def peak() -> int:
    """The most memory that was in use so far, KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def opened(kind: str, path: Path) -> dict[str, str | float]:
    """How the opening of a file ended, and what it took."""
    open_file = opener(kind)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    unlimited = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (in_use + SPARE_BYTES, unlimited[1]))
    signal.alarm(PATIENCE)
    before, began = peak(), time.process_time()
    try:
        open_file(path)
        outcome, message = "read", ""
    except SmoothflowError as error:
        outcome, message = "refused", str(error)
    except BaseException as error:
        outcome, message = type(error).__name__, str(error)
    seconds, mebibytes = time.process_time() - began, (peak() - before) / 1024
    signal.alarm(0)
    resource.setrlimit(resource.RLIMIT_AS, unlimited)
    return {"outcome": outcome, "message": message, "seconds": seconds, "mebibytes": mebibytes}


if __name__ == "__main__":
    # what readers import for the first file would count as its memory
    import h5py  # noqa: F401
    import torch  # noqa: F401

    warnings.simplefilter("ignore")
    answers = sys.stdout
    # libraries that print must not answer
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(opened(request["kind"], Path(request["path"]))), file=answers, flush=True)
