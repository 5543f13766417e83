"""Potentials in i-PI: in its own input, and as an engine of ours."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import ase
import ase.io
import ase.units
import numpy as np
import pytest
import smoothflow
import torch
from smoothflow import load_model
from smoothflow.backends.engines.ipi import SmoothflowPES
from smoothflow.backends.engines.ipi_pes import PES
from smoothflow.coordinates.elements import masses
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import ConfigurationError, FileFormatError, SimulationError, TopologyError
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from torch import Tensor

EXAMPLE = Path(smoothflow.__file__).parent / "examples" / "ipi"
BIG = 1000 * np.eye(3)


def bohr(positions: Tensor) -> np.ndarray:
    return 10 * positions.numpy() / ase.units.Bohr


def test_units_are_atomic(chain: Potential, chain_positions: Tensor) -> None:
    energy, forces, _, _ = PES(chain)(BIG, bohr(chain_positions[0]))
    ours, force = chain.energy_and_forces(chain_positions[:1])
    kj = ase.units.kJ / ase.units.mol  # in eV
    # ASE's constants are of CODATA 2014, ours of 2018
    assert energy * ase.units.Hartree == pytest.approx(ours.item() * kj, rel=1e-7)
    found = forces * ase.units.Hartree / ase.units.Bohr
    np.testing.assert_allclose(found, force[0].numpy() * kj / 10, rtol=0, atol=1e-7)


def test_the_virial_is_the_derivative_of_a_strain(chain: Potential, chain_positions: Tensor) -> None:
    pes, x, step = PES(chain), bohr(chain_positions[0]), 1e-5
    virial = pes(BIG, x)[2]
    for a, b in ((0, 0), (0, 1), (2, 1)):
        strain = np.zeros((3, 3))
        strain[a, b] = step
        up, down = (pes(BIG, x + sign * x @ strain.T)[0] for sign in (1, -1))
        assert virial[a, b] == pytest.approx((down - up) / (2 * step), abs=1e-7)  # step^2 of energies of 0.01


def test_atoms_folded_into_the_cell_are_refused(chain: Potential, chain_positions: Tensor) -> None:
    x = bohr(chain_positions[0])
    x[3] -= [0, 10, 0]
    with pytest.raises(ConfigurationError, match=r"atom 2 \(MOL1-O1\) and atom 3 \(MOL1-H1\).*pbc='false'"):
        PES(chain)(10 * np.eye(3), x)


def test_bad_input_of_the_pes_is_refused(
    chain: Potential, not_finite: Potential, chain_positions: Tensor, model_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="of 4 atoms and was given 3"):
        PES(chain)(BIG, np.eye(3))
    with pytest.raises(SimulationError, match="not finite"):
        PES(not_finite)(BIG, bohr(chain_positions[0] + 2.0))
    with pytest.raises(FileFormatError, match="There is no file"):
        SmoothflowPES(str(tmp_path / "none.safetensors"))
    with pytest.raises(ConfigurationError, match="Correct its path"):
        SmoothflowPES(str(model_file), structure=str(tmp_path / "none.pdb"))
    other = tmp_path / "water.pdb"
    shutil.copy(EXAMPLE.parents[1] / "coordinates" / "molecules" / "water.pdb", other)
    with pytest.raises(TopologyError, match="has 22 atoms"):
        SmoothflowPES(str(model_file), structure=str(other))


@pytest.fixture
def folder(model_file: Path, structure: Path, tmp_path: Path) -> Path:
    """The example with its files."""
    shutil.copytree(EXAMPLE, tmp_path, dirs_exist_ok=True)
    shutil.copy(model_file, tmp_path / "model.safetensors")
    shutil.copy(structure, tmp_path / "molecule.pdb")
    ase.io.write(tmp_path / "start.xyz", ase.io.read(structure), plain=True)
    return tmp_path


def i_pi(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "from ipi.engine.simulation import Simulation; Simulation.load_from_xml(open('input.xml')).run()"
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_example_runs_as_ours(folder: Path) -> None:
    found = i_pi(folder)
    assert found.returncode == 0, found.stdout + found.stderr
    energies = np.loadtxt(folder / "md.out")[:, 3:5] * 2625.4996394798254  # Hartree, CODATA 2018
    model = load_model(folder / "model.safetensors")
    x = torch.tensor(ase.io.read(folder / "start.xyz").get_positions() / 10)[None]
    mass = masses(model.coordinates.topology).double()
    settings = DynamicsSettings(n_steps=100, timestep=0.0005, report_every=10)
    ours = registry().engine("verlet")().run(model, mass, x, torch.zeros_like(x), settings)
    # eight digits of -0.2 Hartree, and i-PI's own masses and units
    np.testing.assert_allclose(energies[:, 0], ours.potential_energy[:, 0].numpy(), atol=1e-3)
    np.testing.assert_allclose(energies[:, 1], ours.kinetic_energy[:, 0].numpy(), atol=1e-3)


def test_i_pi_stops_with_our_error(folder: Path) -> None:
    text = (folder / "input.xml").read_text().replace("<ffdirect name", "<ffdirect pbc='true' name")
    (folder / "input.xml").write_text(text.replace("100, 0, 0, 0, 100, 0, 0, 0, 100", "7, 0, 0, 0, 7, 0, 0, 0, 7"))
    found = i_pi(folder)
    assert found.returncode != 0
    assert "on opposite sides of i-PI's cell" in found.stderr


def test_the_engine_leaves_nothing_behind(
    chain: Potential, chain_positions: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handlers, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    mass = torch.ones(4, dtype=torch.float64)
    rest = torch.zeros_like(chain_positions)
    registry().engine("ipi")().run(chain, mass, chain_positions, rest, DynamicsSettings(5))
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is handlers
    assert threading.active_count() == threads
