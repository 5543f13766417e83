"""Locks: one holder at a time, named to whoever is refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.runs.locks import lock_file, lock_folder

# holds the lock until its input ends
HOLD = """
import sys
from pathlib import Path
from smoothflow.runs.locks import lock_file
with lock_file(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_refusal_names_the_process_that_holds_a_file(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        refused = rf"{re.escape(str(path))}.*written by another process \({holder.pid} on .+\)\. Wait"
        with pytest.raises(ConfigurationError, match=refused), lock_file(path):
            pass
        # the system takes the lock of a process that dies
        holder.kill()
        holder.wait()
        with lock_file(path):
            assert [each.name for each in tmp_path.iterdir()] == [".run.h5.lock"]
    assert not list(tmp_path.iterdir())


def test_lock_that_is_waited_for_comes_when_its_holder_ends(tmp_path: Path) -> None:
    path = tmp_path / "code.pt2"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        holder.stdout.readline()
        threading.Timer(0.2, holder.stdin.close).start()
        with lock_file(path, wait=True):
            # what the holder removed at its end is not what is held here
            assert holder.wait(10) == 0
            with pytest.raises(ConfigurationError, match=rf"\({os.getpid()} on "), lock_file(path):
                pass


@pytest.mark.parametrize("lock", [lock_file, lock_folder])
def test_lock_that_is_a_link_is_refused(lock: Callable[[Path], AbstractContextManager[None]], tmp_path: Path) -> None:
    run, foreign = tmp_path / "run", tmp_path / "foreign"
    run.mkdir()
    for link in (tmp_path / ".run.lock", run / ".lock"):
        link.symlink_to(foreign)
    with pytest.raises(FileFormatError, match="cannot be written"), lock(run):
        pass
    assert not foreign.exists()


def test_folder_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(ConfigurationError, match=rf"\({os.getpid()} on ")
    with lock_folder(tmp_path), refused, lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass
