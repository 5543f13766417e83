"""Ctrl-C and SIGTERM: every command ends with the signal's exit code, one line, and complete files."""

from __future__ import annotations

import os
import runpy
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Smoothflow = Callable[..., Any]
Chain = Any

examine = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "soak" / "examine.py"))

LONG = """\
steps: 100000
validate_every: 2
batch_size: 16
flow: {hidden: 4, n_hidden_layers: 1, line_pairs: 1, interval_pairs: 1, circle_pairs: 1}
"""
GRID = """\
training: {steps: 100000, validate_every: 2, batch_size: 16, flow: {hidden: 4, line_pairs: 1, interval_pairs: 1}}
transforms:
  affine: {transforms: {line: affine}}
objectives:
  nll: {force: 0}
n_samples: 20
n_gradients: 2
dynamics: {replicas: 1, timestep: 1.0e-4, duration: 1.0e-3, equilibration: 0, timesteps: []}
"""
COMMANDS = {
    "simulate": "capped-alanine --interval 0.02 --walkers 1 --equilibration 0 --ladder none -n 999999 --out {run}/f.h5",
    "train": "{frames} --config {tmp}/train.yaml --out {run}",
    "sample": "{model} -n 10000000 --out {run}/f.h5",
    "md": "{model} --start {frames} --steps 1000000 --energy-bound 1e6 --log {run}/run.csv --out {run}/run.h5",
    "compare": "{frames} --preset {tmp}/grid.yaml --out {run}",
}
SIGN = {
    "simulate": "f.h5",
    "train": "checkpoints/last.ckpt",
    "sample": "f.h5",
    "md": "run.csv",
    "compare": "affine/nll/metrics.csv",
}
"""The file that tells that the command is at work."""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_signal_ends_a_command_with_complete_files(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, command: str, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "train.yaml").write_text(LONG)
    (tmp_path / "grid.yaml").write_text(GRID)
    names = {"run": run, "tmp": tmp_path, "frames": chain.frames, "model": chain.model}
    handler = signal.getsignal(number)
    ended = threading.Event()

    def send() -> None:
        while not (run / SIGN[command]).exists():
            if ended.wait(0.01):
                return
        time.sleep(0.2)
        if not ended.is_set():
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    found = smoothflow(command, *COMMANDS[command].format(**names).split())
    ended.set()
    sender.join()
    assert found.code == 128 + number, found.err
    assert found.out == ""
    assert len(found.err.strip().splitlines()) == 1
    assert signal.getsignal(number) is handler
    written = examine["files"](run)
    assert (run / SIGN[command]) in written
    for path in written:
        # raises, if a file is not complete
        examine["content"](path)
    # locks alone are left besides
    assert {path.name for path in run.rglob(".*")} <= {".lock"}
