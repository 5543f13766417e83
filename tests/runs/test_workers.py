"""Worker processes: order of results, messages, errors and deaths."""

from __future__ import annotations

import importlib
import os
import signal
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import ModuleType

import pytest
from smoothflow.core.errors import GeometryError, SimulationError
from smoothflow.runs.workers import Workers, worker_processes


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Functions that a worker can import: a test's own module has no name there."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("jobs")


def test_results_keep_the_order_of_the_arguments_and_messages_arrive(jobs: ModuleType) -> None:
    heard: list[tuple[int, int]] = []
    with Workers(2) as workers:
        assert list(workers.call(jobs.square, [(n,) for n in range(4)], heard.append)) == [0, 1, 4, 9]
        assert list(workers.call(jobs.threads, [()])) == [(1, "1")]
    assert sorted(heard) == [(n, value) for n in range(4) for value in range(n)]


def test_first_error_is_raised_while_others_are_at_work(jobs: ModuleType) -> None:
    with pytest.raises(GeometryError, match="number 1"), worker_processes(2) as call:
        list(call(jobs.fail_or_wait, [(0,), (1,)]))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes are ended by POSIX signals")
def test_death_of_a_worker_is_an_error_of_the_simulation(jobs: ModuleType) -> None:
    with pytest.raises(SimulationError, match="A worker process died") as raised, Workers(2) as workers:
        list(workers.call(jobs.die_or_wait, [(0,), (1,)]))
    assert isinstance(raised.value.__cause__, BrokenExecutor)


def test_single_worker_is_the_process_itself() -> None:
    with worker_processes(1) as call:
        assert list(call(os.getpid, [()])) == [os.getpid()]
