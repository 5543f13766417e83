"""The example scripts run as printed, with a small model."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import smoothflow
import torch

EXAMPLES = Path(smoothflow.__file__).parent / "examples"


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Scripts may set the number of threads; the other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_biased_dynamics_in_openmm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, structure: Path
) -> None:
    run(monkeypatch, "openmm/biased_dynamics.py", model, structure, "--steps", 20)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    assert printed[-1].startswith("0.02")


def test_relaxation_and_vibrations_in_ase(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, structure: Path
) -> None:
    run(monkeypatch, "ase/relax_and_vibrate.py", model, structure, "--steps", 20)
    printed = capsys.readouterr().out
    assert printed.startswith("energy ")
    assert len(re.findall(r"^ +\d+ ", printed, flags=re.MULTILINE)) == 66


def test_annealing_in_lammps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, structure: Path
) -> None:
    run(monkeypatch, "lammps/anneal.py", model, structure, "--steps", 20)
    energies = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(energies) == 3
    assert energies[-1] < energies[0]


def test_one_trajectory_in_every_engine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path
) -> None:
    run(monkeypatch, "engines/same_trajectory.py", model, 5)
    apart = dict(re.findall(r"^(\w+): positions within (\S+) nm", capsys.readouterr().out, flags=re.MULTILINE))
    assert {"ase", "ipi", "lammps", "openmm"} <= apart.keys()
    # rounding, grown over 5 steps
    assert all(float(value) < 1e-12 for value in apart.values())
