"""Processes for independent pieces of work; none outlives the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import torch

from ..core.errors import SimulationError

Call = Callable[[Callable[..., Any], list[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with each tuple of arguments; results come in the order of the arguments."""

_stop: Any = threading.Event()


def n_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def stopped() -> bool:
    """Asked in a worker from time to time: whether the work is wanted no more."""
    return bool(_stop.is_set())


@contextmanager
def worker_processes(n_workers: int) -> Iterator[Call]:
    """Worker processes that live as long as the ``with`` block; a single one is this process itself.

    Workers are told to stop when the block ends, by an error or Ctrl-C too, and end when this process dies.
    """
    if n_workers == 1:
        yield lambda function, arguments: (function(*each) for each in arguments)
        return
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    executor = ProcessPoolExecutor(n_workers, context, _begin, (stop,))

    def call(function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> Iterator[Any]:
        try:
            futures = [executor.submit(function, *each) for each in arguments]
            for future in futures:
                yield future.result()
        except BrokenProcessPool as error:
            raise SimulationError(
                "A worker process died, perhaps for want of memory. What was written is safe; start again to go on."
            ) from error

    try:
        yield call
    finally:
        stop.set()
        executor.shutdown(wait=True, cancel_futures=True)


def _begin(stop: Any) -> None:
    global _stop
    _stop = stop
    # Ctrl-C reaches every process of the terminal; the first one tells the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    """Wait for the end of the process that started this one, and end with it; for a thread."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
