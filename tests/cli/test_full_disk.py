"""A full disk: one line, exit code 2, complete files; with room again, what an uninterrupted run gives."""

from __future__ import annotations

import os
import resource
import runpy
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Smoothflow = Callable[..., Any]
Chain = Any

examine = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "soak" / "examine.py"))

AMBER = "openmm:amber99sbildn.xml,amber99_obc.xml"
FLOW = "{hidden: 4, n_hidden_layers: 1, line_pairs: 1, interval_pairs: 1, circle_pairs: 1, shear: false}"
TRAINING = f"steps: 8\nvalidate_every: 2\nbatch_size: 16\nflow: {FLOW}\n"
GRID = f"""\
training: {{steps: 4, validate_every: 2, batch_size: 16, flow: {FLOW}}}
transforms:
  affine: {{transforms: {{line: affine}}}}
objectives:
  nll: {{force: 0}}
n_samples: 20
n_gradients: 2
dynamics: {{replicas: 1, timestep: 1.0e-4, duration: 1.0e-3, equilibration: 0, timesteps: []}}
"""
MD = "--steps 400 --timestep 0.1 --report-every 1 --dtype float32 --energy-bound 1e6 --checkpoint-every 0.1"
SIMULATION = "capped-alanine --interval 0.02 --timestep 2 --walkers 1 --equilibration 0 --ladder none"
COMMANDS = {
    "simulate": SIMULATION + " -n 2000 --out {run}/f.h5",
    "train": "{frames} --config {tmp}/train.yaml --out {run}/run",
    "sample": "{model} -n 4000 --out {run}/f.h5 --reference " + AMBER,
    "md": "{model} --start {frames} " + MD + " --out {run}/run.h5 --log {run}/run.csv --trajectory {run}/run.xtc",
    "compare": "{frames} --preset {tmp}/grid.yaml --out {run}/grid",
}
SHARES = (0.02, 0.4, 0.8)
"""Of the size of the whole run's files: the room that it is given at first."""


class Disk:
    """A file system of a few MiB, mounted where that is allowed; elsewhere files that cannot grow."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "smoothflow-test", str(folder)]
        self.mounted = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        self._filler = folder / ".filler"
        self._usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    def leave(self, n_bytes: int) -> None:
        """Leave so much room, and no more."""
        if not self.mounted:
            resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, self._usual[1]))
            return
        self._filler.unlink(missing_ok=True)
        state = os.statvfs(self.folder)
        self._filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - n_bytes)))

    def empty(self) -> None:
        """Make room."""
        resource.setrlimit(resource.RLIMIT_FSIZE, self._usual)
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        self.empty()
        if self.mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    (tmp_path / "disk").mkdir()
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_on_a_full_disk_loses_nothing_and_goes_on(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, disk: Disk, command: str
) -> None:
    whole, run = tmp_path / "whole", disk.folder / "run"
    whole.mkdir()
    run.mkdir()
    (tmp_path / "train.yaml").write_text(TRAINING)
    (tmp_path / "grid.yaml").write_text(GRID)

    def give(folder: Path) -> Any:
        names = {"run": folder, "tmp": tmp_path, "frames": chain.frames, "model": chain.model}
        return smoothflow(command, *COMMANDS[command].format(**names).split())

    uninterrupted = give(whole)
    assert uninterrupted.code == 0, uninterrupted.err
    size = sum(path.stat().st_size for path in examine["files"](whole))
    n_failures = 0
    for share in SHARES:
        disk.leave(int(share * size))
        found = give(run)
        disk.empty()
        if found.code == 0:
            continue
        n_failures += 1
        assert found.code == 2, found.err
        assert len(found.err.strip().splitlines()) == 1, found.err
        assert "cannot be written" in found.err or "cannot be made" in found.err
        for path in examine["files"](run):
            assert examine["difference"](path, whole / path.relative_to(run), at_end=False) == ""
        assert {path.name for path in run.rglob(".*")} <= {".lock"}
    assert n_failures >= 1
    found = give(run)
    assert found.code == 0, found.err
    for path in examine["files"](whole):
        assert examine["difference"](run / path.relative_to(whole), path, at_end=True) == "", path
