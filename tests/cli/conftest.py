"""The program, run in this process; and one small simulation and training that the commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from smoothflow.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str


Smoothflow = Callable[..., Outcome]


@pytest.fixture
def smoothflow(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Smoothflow:
    """Run ``smoothflow ARGUMENTS`` as the shell would."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["smoothflow", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        return Outcome(int(stopped.value.code or 0), printed.out, printed.err)

    return run


@dataclass(frozen=True)
class Chain:
    """Files of a small run of the whole chain."""

    frames: Path
    model: Path


@pytest.fixture(scope="session")
def chain(once: Callable[[str, Callable[[Path], object]], Path]) -> Chain:
    """500 frames of capped alanine, and a flow trained on them for five steps."""
    folder = once("chain", make_chain)
    return Chain(folder / "frames.h5", folder / "run" / "model.safetensors")


def make_chain(folder: Path) -> None:
    folder.mkdir()
    config = folder / "config.yaml"
    config.write_text(
        "steps: 5\nvalidate_every: 5\nbatch_size: 32\nflow:\n  interval_pairs: 1\n  circle_pairs: 1\n  hidden: 8\n"
    )
    frames = folder / "frames.h5"
    commands = [
        ["simulate", "capped-alanine", "--out", frames, "-n", 500, "--interval", 0.02, "--walkers", 1],
        ["train", frames, "--config", config, "--out", folder / "run"],
    ]
    with pytest.MonkeyPatch.context() as patch:
        for command in commands:
            patch.setattr(sys, "argv", ["smoothflow", *map(str, command)])
            with pytest.raises(SystemExit) as stopped:
                main()
            assert not stopped.value.code
