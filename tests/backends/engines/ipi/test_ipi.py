"""A model in i-PI's own input, and what the engine leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import ase.io
import numpy as np
import pytest
import smoothflow
import torch
from smoothflow import FlowPotential, load
from smoothflow.backends.engines.ipi import SmoothflowPES
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import (
    ConfigurationError,
    FileFormatError,
    GeometryError,
    MissingDependencyError,
    SmoothflowError,
    TopologyError,
)
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.molecules.shipped import molecule_path
from torch import Tensor

EXAMPLE = Path(smoothflow.__file__).parent / "examples" / "ipi"
BOHR = 0.0529177210903
HARTREE = 2625.4996394798254
MASSES = torch.tensor([12.011, 14.007, 15.999, 1.008], dtype=torch.float64)


def run_ipi(model: Path, structure: Path, folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """The example in a folder of its own, with some of its text replaced."""
    text = (EXAMPLE / "input.xml").read_text()
    for old, new in {"100 </total_steps>": "20 </total_steps>", **changes}.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "input.xml").write_text(text)
    shutil.copy(EXAMPLE / "pes.py", folder)
    if not (folder / "model.safetensors").exists():
        shutil.copy(model, folder / "model.safetensors")
    shutil.copy(structure, folder / "molecule.pdb")
    ipi = Path(sys.executable).with_name("i-pi")
    return subprocess.run(
        [sys.executable, str(ipi), "input.xml"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_the_example_runs_in_ipi_itself(model: Path, structure: Path, tmp_path: Path) -> None:
    found = run_ipi(model, structure, tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    time, _, energy, _ = np.loadtxt(tmp_path / "path-integral.out", unpack=True)
    np.testing.assert_allclose(time, [0, 0.0025, 0.005], atol=1e-6)
    # the first frame is the structure, four times; i-PI's constants are of CODATA 2014
    x = torch.from_numpy(ase.io.read(structure).positions)[None] / 10
    assert energy[0] / 1000 == pytest.approx(load(model).energy(x).item(), rel=1e-6)


def test_a_model_gives_ipi_its_own_energy_forces_and_virial(
    model: Path, flow: FlowPotential, positions: Tensor
) -> None:
    energy, forces = flow.energy_and_forces(positions[:1])
    x = positions[0].numpy() / BOHR
    cell = 1e3 * np.eye(3)
    found, found_forces, virial, extras = SmoothflowPES(str(model))(cell, x)
    assert extras == ""
    assert found * HARTREE == pytest.approx(energy.item(), rel=1e-12)
    # rounding of positions divided by Bohr's radius and multiplied by it, under curvatures of 1e6 kJ/mol/nm^2
    np.testing.assert_allclose(found_forces * (HARTREE / BOHR), forces[0].numpy(), rtol=0, atol=1e-8)
    # minus the derivative of the energy with respect to a strain
    strain = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    flow.energy(positions[:1] + positions[:1] @ strain.T).sum().backward()
    np.testing.assert_allclose(virial * HARTREE, -strain.grad.numpy(), rtol=0, atol=1e-8)


def test_folded_atoms_and_wrong_files_are_refused(model: Path, positions: Tensor, tmp_path: Path) -> None:
    pes = SmoothflowPES(str(model))
    x = positions[0].numpy() / BOHR
    pes(1e3 * np.eye(3), x)
    folded = x.copy()
    folded[:5] += [50.0, 0.0, 0.0]
    with pytest.raises(ConfigurationError, match="opposite sides of i-PI's cell"):
        pes(50 * np.eye(3), folded)
    with pytest.raises(GeometryError, match="Multiply them by 10"):
        SmoothflowPES(str(model))(1e3 * np.eye(3), 0.1 * x)
    with pytest.raises(TopologyError, match="22 atoms"):
        SmoothflowPES(str(model), str(molecule_path("water")))
    with pytest.raises(ConfigurationError, match=r'no file "none\.pdb"'):
        SmoothflowPES(str(model), "none.pdb")
    with pytest.raises(ConfigurationError, match="22 atoms and was given 21"):
        pes(1e3 * np.eye(3), x[:-1])
    with pytest.raises(FileFormatError, match="There is no file"):
        SmoothflowPES(str(tmp_path / "none.safetensors"))


def test_an_error_in_the_model_ends_ipi_with_its_text(model: Path, structure: Path, tmp_path: Path) -> None:
    found = run_ipi(model, structure, tmp_path, **{"mode='ase'": "mode='ase' units='nanometer'"})
    assert found.returncode != 0
    assert "GeometryError" in found.stdout + found.stderr


def test_the_engine_leaves_nothing_behind(
    chain: Potential,
    chain_positions: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    threads = threading.active_count()
    v = torch.zeros_like(chain_positions)

    def stop(done: int, *_: object) -> None:
        if done >= 10:
            raise SmoothflowError("enough")

    engine = registry().engine("ipi")()
    engine.run(chain, MASSES, chain_positions, v, DynamicsSettings(20))
    with pytest.raises(SmoothflowError, match=r"^enough$"):
        engine.run(chain, MASSES, chain_positions, v, DynamicsSettings(20), stop)
    assert list(tmp_path.iterdir()) == []
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert threading.active_count() == threads
    assert capfd.readouterr() == ("", "")


def test_ipi_absent_is_named(chain: Potential, chain_positions: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipi", None)
    with pytest.raises(MissingDependencyError, match=r"smoothflow\[ipi\]"):
        registry().engine("ipi")().run(
            chain, MASSES, chain_positions, torch.zeros_like(chain_positions), DynamicsSettings(1)
        )
