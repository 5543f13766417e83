"""Standard streams that are closed, full or know ASCII alone, and signals that come early, late or twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from smoothflow.cli import console
from smoothflow.cli.app import _came_of_interrupt
from smoothflow.cli.streams import PLAIN
from smoothflow.runs.progress import Progress

pytestmark = pytest.mark.slow

PROGRAM = (sys.executable, "-m", "smoothflow")


def run(command: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """A command of a shell, in which ``smoothflow`` is this program."""
    start = f'smoothflow() {{ "{sys.executable}" -m smoothflow "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", start + command], capture_output=True, check=False, env={**os.environ, **(environment or {})}
    )


def test_a_reader_that_goes_away_ends_nothing_but_the_printing() -> None:
    found = run('smoothflow info ala2-smooth --json | head -c 10; exit "${PIPESTATUS[0]}"')
    assert found.returncode in (0, 1)
    assert found.stderr == b""


def test_files_are_written_behind_a_closed_standard_output(tmp_path: Path) -> None:
    out = tmp_path / "samples.h5"
    found = run(f"smoothflow sample ala2-affine -n 5 --out {out} >&-")
    assert (found.returncode, found.stderr) == (0, b"")
    # a file that is opened while descriptor 1 is free would get what is printed
    assert out.read_bytes()[:4] == b"\x89HDF"
    assert run(f"smoothflow info {out}").returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_standard_output_is_reported_after_the_work(tmp_path: Path) -> None:
    out = tmp_path / "samples.h5"
    found = run(f"smoothflow sample ala2-affine -n 5 --out {out} > /dev/full")
    assert found.returncode == 2
    assert found.stderr.decode() == "error: Standard output cannot be written: No space left on device.\n"
    assert out.exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "ascii:strict"])
def test_a_terminal_that_knows_few_characters_gets_others(encoding: str) -> None:
    found = run("smoothflow info ala2-smooth", {"PYTHONIOENCODING": encoding})
    assert (found.returncode, found.stderr) == (0, b"")
    assert ("±".encode("latin-1") if encoding == "latin-1" else b"+-") in found.stdout
    assert "\\u" not in found.stdout.decode("latin-1")


@pytest.mark.parametrize(
    "environment",
    [{"TERM": "dumb"}, {"COLUMNS": "0"}, {"COLUMNS": "1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"TERM": ""}],
)
def test_any_terminal_gets_the_whole_list(environment: Mapping[str, str]) -> None:
    found = run("smoothflow info", environment)
    assert (found.returncode, found.stderr) == (0, b"")
    assert b"0.9479" in found.stdout.replace(b"\n", b"") or environment.get("COLUMNS") == "1"


def test_what_stands_for_a_character_is_ascii() -> None:
    assert all(text.isascii() for text in PLAIN.values())


SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def ended(*arguments: str, after: float, numbers: list[signal.Signals]) -> tuple[int, bytes]:
    """The exit code and standard error of the program after signals, 10 ms apart."""
    with subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        time.sleep(after)
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.01)
        _, said = process.communicate()
    return process.returncode, said


@pytest.mark.parametrize("after", [0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_imports_ends_the_program_without_a_traceback(number: signal.Signals, after: float) -> None:
    code, said = ended("sample", "ala2-smooth", "--out", "/nowhere/f.h5", after=after, numbers=[number])
    if b"smoothflow" not in said.replace(b"/smoothflow/", b"") and code not in (128 + number, 2):
        # Python had not come to the first line of ours: the system ends the process, or Python does in its own words
        assert code in (-number, 1), said
        return
    # after the work, the folder is missing
    assert code in (128 + number, 2), said
    assert b"Traceback" not in said, said
    assert said.count(b"\n") <= 1, said


@pytest.mark.parametrize("numbers", [[signal.SIGINT] * 2, [signal.SIGINT] * 5, [signal.SIGTERM] * 2, SIGNALS])
def test_signals_in_a_row_end_the_program_without_a_traceback(tmp_path: Path, numbers: list[signal.Signals]) -> None:
    out = tmp_path / "f.h5"
    command = [*PROGRAM, "sample", "ala2-affine", "-n", "1000000", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while not out.exists():
            assert process.poll() is None
            time.sleep(0.01)
        for number in numbers:
            process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode in {128 + number for number in numbers}, said
    assert b"Traceback" not in said, said
    assert run(f"smoothflow info {out}").returncode == 0


def test_an_error_that_ctrl_c_caused_in_an_import_is_ctrl_c() -> None:
    error = ImportError("numpy cannot be imported")
    error.__context__ = KeyboardInterrupt()
    assert _came_of_interrupt(error)
    assert not _came_of_interrupt(ImportError("no such module"))


def test_without_a_terminal_progress_is_a_line_a_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.task_progress() as report:
        for now in range(0, 200, 10):
            report(Progress("Training", now, 200, {"val_nll": -1.5}))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Training: 60 of 200 after 1 min, val_nll -1.5",
        "Training: 120 of 200 after 2 min, val_nll -1.5",
        "Training: 180 of 200 after 3 min, val_nll -1.5",
    ]
