"""The program as a person meets it: help, examples, near misses, completion, pipes and terminals."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from smoothflow import registry
from smoothflow.cli import completion
from smoothflow.cli.app import COMMANDS, app
from smoothflow.cli.console import print_table, results, task_progress
from smoothflow.molecules.shipped import molecule_names
from smoothflow.runs.progress import Progress
from smoothflow.training.config import TrainSettings, read_settings
from smoothflow.training.config_template import attributes, settings_template

Smoothflow = Callable[..., Any]
NAMES = [module.__name__.rpartition(".")[2] for module in COMMANDS]
EXAMPLES = {
    line.strip().removeprefix("Example: ")
    for module in COMMANDS
    for line in (inspect.getdoc(module.run) or "").splitlines()
    if line.startswith("Example: ")
}
CHEAP = {"smoothflow init my-settings.yaml", "smoothflow plugins"}


def program(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "smoothflow", *arguments]


@pytest.mark.parametrize("name", NAMES)
def test_help_fits_80_columns_and_shows_an_example(
    smoothflow: Smoothflow, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = smoothflow(name, "--help")
    assert shown.code == 0
    assert max(map(len, shown.out.splitlines())) <= 80
    # nothing is cut off
    assert "…" not in shown.out
    assert f"Example: smoothflow {name}" in " ".join(shown.out.split())


def test_every_command_has_an_example_that_parses() -> None:
    assert {shlex.split(example)[1] for example in EXAMPLES} == set(NAMES)
    group = typer.main.get_command(app)
    for example in EXAMPLES:
        _, name, *arguments = shlex.split(example)
        command = group.commands[name]  # type: ignore[attr-defined]
        # raises where an option or a value is wrong
        command.make_context(name, arguments)


@pytest.mark.parametrize("example", sorted(CHEAP))
def test_cheap_examples_run(
    smoothflow: Smoothflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, example: str
) -> None:
    assert example in EXAMPLES
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert smoothflow(*shlex.split(example)[1:]).code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "Did you mean 'train'"),
        (["md", "x", "--step", "3"], "Did you mean '--steps'"),
        (["md"], "Missing argument 'MODEL...'. See: smoothflow md --help"),
        (["thermo", "a", "b"], "unexpected extra argument"),
        (["md", "x", "--steps", "0"], "'--steps'.*greater than or equal to 1"),
        (["md", "x", "--steps", "many"], "'--steps'.*integer"),
        (["md", "x", "--ensemble", "npt"], "'--ensemble': 'npt' is not one of 'nve', 'nvt'"),
        (["md", "x", "--seed"], "'--seed' requires an argument"),
        (["check", "opnmm:x"], 'Did you mean "openmm"'),
        (["compare", "--target", "torus-multimodel"], 'Did you mean "torus-multimodal"'),
        (["compare", "--preset", "alanine-dipeptid"], 'Did you mean "alanine-dipeptide"'),
        (["simulate", "caped-alanine", "--out", "x.h5"], 'Did you mean "capped-alanine"'),
        (["simulate", "capped-alanine", "--engine", "opemm", "--out", "x.h5"], 'Did you mean "openmm"'),
        (["init", "none/x.yaml"], "cannot be written: there is no folder"),
    ],
)
def test_a_slip_gets_one_line_with_the_near_miss(
    smoothflow: Smoothflow, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = smoothflow(*arguments)
    assert found.code == 2
    assert re.search(message, found.err), found.err
    assert len(found.err.splitlines()) == 1
    assert found.out == ""
    assert list(tmp_path.iterdir()) == []


def test_version(smoothflow: Smoothflow) -> None:
    assert re.fullmatch(r"smoothflow \d+\.\d+\.\d+\S*\n", smoothflow("--version").out)


def test_settings_that_init_writes_are_the_defaults(smoothflow: Smoothflow, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    assert smoothflow("init", path).code == 0
    assert read_settings(path) == TrainSettings()
    assert smoothflow("init", path).code == 2
    # every comment is the meaning that the class gives the field
    text = " ".join(line.strip().removeprefix("# ") for line in path.read_text().splitlines())
    for name, meaning in attributes(TrainSettings).items():
        assert f"{meaning.replace('``', '')} {name}:" in text
    assert set(attributes(TrainSettings)) == set(TrainSettings.model_fields)
    assert max(map(len, settings_template().splitlines())) <= 95


def complete(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What bash would be offered for the last word."""
    monkeypatch.setenv("COMP_WORDS", " ".join(["smoothflow", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    monkeypatch.setenv("_SMOOTHFLOW_COMPLETE", "complete_bash")
    with pytest.raises(SystemExit):
        app([], prog_name="smoothflow")
    return capsys.readouterr().out.split()


def test_the_shell_is_offered_names_and_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "run").mkdir()
    for name in ("run/model.safetensors", "run/metrics.csv", "frames.h5", "mine.pdb", ".hidden.h5"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)

    def offered(*words: str) -> list[str]:
        return complete(monkeypatch, capsys, *words)

    assert offered("trai") == ["train"]
    assert offered("train", "--tran") == ["--transform"]
    assert offered("md", "x", "--engine", "op") == ["openmm"]
    assert offered("md", "x", "--engine", "") == registry().names("engine")
    assert offered("compare", "--transforms", "spline,smo") == ["spline,smooth"]
    assert offered("compare", "--target", "torus-m") == ["torus-multimodal"]
    assert offered("compare", "--preset", "alanine-d") == ["alanine-dipeptide"]
    assert offered("evaluate", "x", "y", "--reference", "openm") == ["openmm:"]
    assert offered("check", "x", "--tests", "forces,he") == ["forces,hessian"]
    assert offered("check", "lang") == ["langevin"]
    assert offered("check", "torchs") == ["torchsim"]
    assert offered("md", "") == [*registry().names("model"), "run/model.safetensors"]
    assert offered("train", "") == ["frames.h5"]
    assert offered("simulate", "") == [*molecule_names(), "mine.pdb"]
    # nothing of ours: the shell offers files of its own
    assert offered("train", "frames.h5", "--out", "ru") == []


def test_completion_and_help_need_no_torch(tmp_path: Path) -> None:
    # what makes them fast; a time would depend on the machine
    code = "import sys, smoothflow.cli.app; print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"


def test_a_spoiled_or_missing_cache_is_made_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = registry().names("transform")
    assert completion.names("transform") == expected
    (kept,) = (tmp_path / "smoothflow").iterdir()
    assert json.loads(kept.read_text())["transform"] == expected
    kept.write_text("[1")
    assert completion.names("transform") == expected
    # a folder that cannot be
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert completion.names("transform") == expected


def test_progress_in_a_pipe_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with task_progress() as report:
        report(Progress("Training", 1, 2))
        report(Progress("Training", 2, 2))
    assert capsys.readouterr() == ("", "")


def test_progress_in_a_terminal_shows_rate_and_remaining_time() -> None:
    code = (
        "import time\nfrom smoothflow.cli.console import task_progress\n"
        "from smoothflow.runs.progress import Progress\n"
        "with task_progress() as report:\n"
        "    for i in range(6):\n        report(Progress('Training', 500 + i, 510, {'nll': 1.5})); time.sleep(0.1)\n"
    )
    shown = in_terminal([sys.executable, "-c", code])
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", without_colours(shown)) if line.strip()]
    *_, last, figures = lines
    assert figures == "nll 1.5"
    assert re.search(r"^Training .* 505/510 ", last)
    assert max(map(len, lines)) <= 80
    # ten per second, and what was there at the start is not counted as fast
    rate = re.search(r" ([\d.]+)/s", last)
    assert rate is not None
    assert 2 < float(rate[1]) < 11
    assert re.search(r"0:00:\d\d 0:00:\d\d", last)


def in_terminal(command: list[str], **variables: str) -> str:
    """Run a command in a terminal of 80 columns and give what it showed, colours included."""
    main_end, end = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "TERM": "xterm-256color", **variables}
    with subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment):
        os.close(end)
        shown = b""
        while True:
            try:
                part = os.read(main_end, 65536)
            except OSError:
                break
            if not part:
                break
            shown += part
    os.close(main_end)
    return shown.decode()


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[?\d;]*\w", "", text)


def test_colours_only_where_they_are_wanted() -> None:
    assert "\x1b[1;31m" in in_terminal(program("trian"))
    assert "\x1b[1;31m" not in in_terminal(program("trian"), NO_COLOR="1")
    piped = subprocess.run(program("trian"), capture_output=True, text=True, check=False)
    assert piped.returncode == 2
    assert "\x1b" not in piped.stderr


def test_a_closed_pipe_ends_a_command_without_an_error() -> None:
    # the reader ends before the program begins
    command = f"{shlex.join(program('plugins', '--json'))} | true"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert found.stderr == ""


def test_control_c_prints_one_line() -> None:
    code = """
import os, signal, sys, threading, time
from smoothflow.cli.app import main

def interrupt():
    # the check, which takes seconds, begins
    while "smoothflow.testing.transforms" not in sys.modules:
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt, daemon=True).start()
sys.argv = ["smoothflow", "check", "smooth"]
main()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (130, "Interrupted.\n")


def test_numbers_stand_to_the_right(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("T", ["name", "value", "remark"], [["a", "1.0", "long remark"], ["b", "-12 ± 3", "x"]])
    assert results.file is sys.stdout
    lines = capsys.readouterr().out.splitlines()
    assert re.search(r"│ a +│     1.0 │ long remark │", "\n".join(lines))
    assert re.search(r"│ b +│ -12 ± 3 │ x           │", "\n".join(lines))
