"""Worker processes: one way to start them, to hear from them and to end them; none outlives the one that started it.

Pieces of work that do not depend on each other go to a pool, `Workers`, whose processes are interchangeable and are
replaced by a new pool when one dies. Processes that work together and must each be known by its number, as in a
distributed training, are started one by one (`training/processes.py`); they become workers by the same `become_worker`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_pipes
from types import TracebackType
from typing import Any

import torch

from ..core.errors import ConfigurationError, SimulationError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENMM_CPU_THREADS")
"""Where the libraries that a worker loads look for their number of threads."""

START_SECONDS = 300.0
"""Seconds within which workers must have started: each imports torch, perhaps on a busy machine."""

POLL_SECONDS = 0.2
"""Seconds from one look for messages of workers to the next."""

Call = Callable[[Callable[..., Any], Sequence[tuple[Any, ...]]], Iterator[Any]]
"""Calls a function with each tuple of arguments; results come in the order of the arguments."""

_messages: Any = None
_everyone: Any = None
"""In a worker of a pool, the queue to the process that started it."""


def n_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def tell(message: Any) -> None:
    """Send a message from a worker of a pool to the process that started it."""
    _messages.put(message)


class Workers:
    """Processes of this machine with one thread each, for pieces of work in any order.

    They end with `close`, with the ``with`` block, and with this process, however it ends. Each holds the read end of a
    pipe and ends as soon as there is something to read from it, or from the one that every child has to its parent:
    the end of the file comes when this process is gone for whatever reason.

    Args:
        n_workers: Number of processes.

    Raises:
        ConfigurationError: If no process can be started.
    """

    def __init__(self, n_workers: int) -> None:
        # spawned, not forked: torch's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        # kept open here as well: workers that start later get it too
        self._watched, self._stop = context.Pipe(duplex=False)
        self._heard = context.SimpleQueue()
        everyone = context.Barrier(n_workers)
        self.executor = ProcessPoolExecutor(n_workers, context, _begin, (self._watched, self._heard, everyone))
        try:
            self.executor.submit(os.getpid).result()
            # the executor does not watch a process that it starts while it waits: let all be there before any work is,
            # or the death of the last one would go unnoticed
            for future in [self.executor.submit(_meet) for _ in range(n_workers)]:
                future.result()
        except (BrokenExecutor, threading.BrokenBarrierError) as error:
            self.kill()
            raise ConfigurationError(
                "No worker process can be started; what it printed says why. In a script, call from under "
                '`if __name__ == "__main__":`, because each worker imports the script.'
            ) from error
        except BaseException:
            self.kill()
            raise

    def call(
        self,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
        on_message: Callable[[Any], None] | None = None,
    ) -> Iterator[Any]:
        """Call a function with each tuple of arguments; results come in the order of the arguments.

        Args:
            function: What a module defines.
            arguments: Arguments of each call.
            on_message: Called with what the function sends with `tell`; without it, nothing may be sent.

        Raises:
            SimulationError: If a worker dies.
            Exception: The first that a call raises, without waiting for the others.
        """
        try:
            futures = [self.executor.submit(function, *each) for each in arguments]
            for future in futures:
                self._listen(future, futures, on_message)
                yield future.result()
            # sent before the last result
            self._deliver(on_message)
        except BrokenExecutor as error:
            raise SimulationError(
                "A worker process died, perhaps for want of memory. What was written is safe; start again to go on."
            ) from error

    def close(self) -> None:
        """Let the workers end by themselves."""
        self._shut_down()

    def kill(self) -> None:
        """End the workers, whatever they are doing."""
        # nothing is read, so that all of them see it
        self._stop.send_bytes(b"stop")
        self._shut_down()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # after an error nobody waits for what is still under way
        self.close() if kind is None else self.kill()

    def _listen(
        self, wanted: Future[Any], futures: Sequence[Future[Any]], on_message: Callable[[Any], None] | None
    ) -> None:
        """Wait for a result or for the first error of any, and pass messages on."""
        while not wanted.done():
            under_way = [future for future in futures if not future.done()]
            ended, _ = wait(under_way, None if on_message is None else POLL_SECONDS, FIRST_COMPLETED)
            self._deliver(on_message)
            for future in ended:
                if future.exception() is not None:
                    future.result()

    def _deliver(self, on_message: Callable[[Any], None] | None) -> None:
        while on_message is not None and not self._heard.empty():
            on_message(self._heard.get())

    def _shut_down(self) -> None:
        self.executor.shutdown(wait=True, cancel_futures=True)
        self._stop.close()
        self._watched.close()
        self._heard.close()


@contextmanager
def worker_processes(n_workers: int) -> Iterator[Call]:
    """Workers that live as long as the ``with`` block; a single one is this process itself."""
    if n_workers == 1:
        yield lambda function, arguments: (function(*each) for each in arguments)
        return
    with Workers(n_workers) as workers:
        yield workers.call


def _begin(watched: Connection, messages: Any, everyone: Any) -> None:
    global _messages, _everyone
    _messages, _everyone = messages, everyone
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    become_worker(1, watched)


def _meet() -> None:
    """Return once all workers are here."""
    _everyone.wait(START_SECONDS)


def become_worker(n_threads: int, *watched: Connection) -> None:
    """Make this process a worker: deaf to Ctrl-C, and gone when its parent is, or when told to go.

    Args:
        n_threads: Number of threads of torch.
        watched: Pipes; as soon as one can be read from, the process ends.
    """
    # Ctrl-C reaches every process of the terminal; the first one decides
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(n_threads)
    parent = multiprocessing.parent_process()
    pipes = [*watched, *([] if parent is None else [parent.sentinel])]
    threading.Thread(target=_end_when_told, args=(pipes,), daemon=True).start()


def _end_when_told(pipes: Sequence[Any]) -> None:
    wait_for_pipes(pipes)
    os._exit(1)
