"""What all tests need."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest

# A shell starts background jobs with SIGINT ignored, and children inherit that; tests of Ctrl-C need it to arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite on all cores, and what was asked for by name in this process, which starts sooner."""
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    # a worker is given the same arguments, and would start workers of its own
    if whole and not hasattr(config, "workerinput") and config.getoption("numprocesses", 0) is None:
        config.option.numprocesses = "auto"
        # neighbours stay together, for the sake of what a module's tests share, until a worker has nothing left
        config.option.dist = "worksteal"
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", name="once")
def once_fixture(session_folder: Path) -> Once:
    """Make a file or folder of a name in the first process of this session that asks for it; the others wait."""

    def once(name: str, make: Callable[[Path], object]) -> Path:
        path = session_folder / name
        with (session_folder / f"{name}.made").open("a") as made:
            fcntl.flock(made, fcntl.LOCK_EX)
            if not os.fstat(made.fileno()).st_size:
                make(path)
                made.write("yes")
        return path

    return once


@dataclass(frozen=True)
class Opened:
    """How the opening of a file ended: ``read``, ``refused`` or another error, in how much time and memory."""

    path: str
    outcome: str
    message: str
    seconds: float
    mebibytes: float


OpenHostile = Callable[[str, Path, Mapping[str, str | Path]], dict[str, Opened]]


@pytest.fixture(scope="session")
def open_hostile() -> Iterator[OpenHostile]:
    """Open files of a kind in a process of its own, after one that is in order; what each of them came to."""
    program = Path(__file__).parent / "open_hostile.py"
    with subprocess.Popen(
        [sys.executable, str(program)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        requests, answers = process.stdin, process.stdout

        def opened(kind: str, path: str | Path) -> Opened:
            requests.write(json.dumps({"kind": kind, "path": str(path)}) + "\n")
            requests.flush()
            answer = answers.readline()
            assert answer, f"{path} ended the process"
            return Opened(path=str(path), **json.loads(answer))

        def run(kind: str, good: Path, files: Mapping[str, str | Path]) -> dict[str, Opened]:
            # what is imported for the first file counts for no other
            assert opened(kind, good).outcome == "read"
            return {name: opened(kind, path) for name, path in files.items()}

        yield run


@pytest.fixture(scope="session")
def assert_refused() -> Callable[[Mapping[str, Opened]], None]:
    """Every file was refused with one line that is meant for people, quickly and in little memory."""

    def check(found: Mapping[str, Opened]) -> None:
        assert {name: opened for name, opened in found.items() if opened.outcome != "refused"} == {}
        for name, opened in found.items():
            assert "\n" not in opened.message, name
            assert len(opened.message) < 2000, name
            assert opened.path in opened.message, (name, opened.message)
            # the promise is a second; CPU time, since other processes may be at work
            assert opened.seconds < 1, name
            assert opened.mebibytes < 200, name

    return check
