"""One training by several processes, started here or by ``torchrun``.

In both cases a process finds its rank and the meeting point in its environment, and Lightning's DDP joins them. Here
the processes are watched by the one that started them, which takes no part in training itself: when one of them is
gone, it ends the others, wherever they are.

`torch.distributed.elastic` could start and end the processes. However, it brings an error back as text, not as the
exception that was raised; it takes the first failure seen for the cause, even if that is a connection which broke as a
consequence; it carries no messages meanwhile; and it always writes a traceback to standard error. Rendezvous,
environment and messages would still be ours, and a run of one machine needs neither its restarts nor its agents.
``torchrun``, which has them, starts trainings over several machines.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from ..core.errors import ConfigurationError, SmoothflowError, TrainingError
from ..runs.workers import become_worker

HOST = "127.0.0.1"

Watched = dict[Connection, tuple[int, BaseProcess]]
"""The processes and their indices, by pipe."""

PATIENCE = 5.0
"""Seconds that the other processes have to report their errors after one has failed."""


@dataclass(frozen=True)
class Rank:
    """A process among those that train one flow.

    Attributes:
        index: Which one it is; the first one writes all files.
        count: How many there are.
        on_machine: How many of them run on this machine.
    """

    index: int = 0
    count: int = 1
    on_machine: int = 1

    @property
    def share(self) -> slice:
        """Its share of each batch."""
        return slice(self.index, None, self.count)


ALONE = Rank()


def launched_rank() -> Rank | None:
    """Which process this is, if ``torchrun`` started it."""
    if not torch.distributed.is_available() or not torch.distributed.is_torchelastic_launched():
        return None
    index, count, on_machine = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return Rank(index, count, on_machine)


def in_processes(
    count: int, function: Callable[..., object], argument: object, on_message: Callable[[Any], object]
) -> None:
    """Call a function in new processes of this machine and wait until it has returned in all of them.

    Args:
        count: How many.
        function: Called with the argument, the `Rank`, and a function that sends a message to this process.
        argument: Copied to each process.
        on_message: Called with each message; an error that it raises ends the processes.

    Raises:
        ConfigurationError: If the argument cannot be copied, or a process cannot be started.
        TrainingError: If a process dies.
        SmoothflowError: What the function raised.
    """
    try:
        content = pickle.dumps((function, argument))
    # pickling can fail with any kind of error
    except Exception as error:
        raise ConfigurationError(
            f"What is trained cannot be sent to other processes: {type(error).__name__}: {error}. Use potentials that "
            "a module defines, and attributes that can be pickled; or train with processes set to 1."
        ) from error
    context = multiprocessing.get_context("spawn")
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    watched: Watched = {}
    try:
        for index in range(count):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_work, args=(Rank(index, count, count), store.port, theirs))
            process.start()
            theirs.close()
            watched[ours] = (index, process)
        for pipe in watched:
            # a process that is gone already is found below
            with suppress(OSError):
                pipe.send_bytes(content)
        _listen(dict(watched), count, on_message)
    finally:
        for pipe, (_, process) in watched.items():
            process.kill()
            process.join()
            pipe.close()


def _listen(watched: Watched, count: int, on_message: Callable[[Any], object]) -> None:
    """Pass messages on until all processes have ended, one has died, or an error is known."""
    raised: list[BaseException] = []
    deadline: float | None = None
    while watched and (deadline is None or time.monotonic() < deadline):
        for pipe in wait(list(watched), None if deadline is None else PATIENCE):
            assert isinstance(pipe, Connection)
            index, process = watched[pipe]
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                del watched[pipe]
                process.join()
                if process.exitcode != 0:
                    raise _death(index, count, process.exitcode) from None
            else:
                if isinstance(message, BaseException):
                    raised.append(message)
                else:
                    on_message(message)
        if deadline is None and raised:
            deadline = time.monotonic() + PATIENCE
    # when a process knows why it stopped, the others report only a broken connection
    for error in sorted(raised, key=lambda error: not isinstance(error, SmoothflowError)):
        raise error


def _death(index: int, count: int, code: int | None) -> SmoothflowError:
    if code is not None and code < 0:
        return TrainingError(
            f"Process {index} of {count} (counted from 0) was ended by {signal.Signals(-code).name}, perhaps for want "
            "of memory. The best model and the last checkpoint are kept; start again to go on."
        )
    return ConfigurationError(
        f"Process {index} of {count} (counted from 0) ended by itself; what it printed says why. In a script, train "
        'from under `if __name__ == "__main__":`, because each process imports it.'
    )


def _work(rank: Rank, port: int, pipe: Connection) -> None:
    """The body of a process: set its environment as ``torchrun`` would, and call the function."""
    become_worker(max(1, torch.get_num_threads() // rank.on_machine))
    os.environ.update(
        RANK=str(rank.index),
        LOCAL_RANK=str(rank.index),
        WORLD_SIZE=str(rank.count),
        LOCAL_WORLD_SIZE=str(rank.on_machine),
        MASTER_ADDR=HOST,
        MASTER_PORT=str(port),
        TORCHELASTIC_RUN_ID="smoothflow",
        TORCHELASTIC_RESTART_COUNT="0",
        TORCHELASTIC_USE_AGENT_STORE="True",
    )
    function, argument = pickle.loads(pipe.recv_bytes())
    try:
        function(argument, rank, pipe.send)
    except BaseException as error:
        pipe.send(_portable(error))


def _portable(error: BaseException) -> BaseException:
    """The error itself if it can be pickled, else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    # the constructor of an error may need any arguments
    except Exception:
        return TrainingError(f"{type(error).__name__}: {error}")
    return error
