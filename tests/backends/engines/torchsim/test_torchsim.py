"""Potentials as TorchSim models; collected with Python 3.12 and newer, for which TorchSim is made."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ase
import pytest
import smoothflow
import torch
import torch_sim
from smoothflow.backends.engines.torchsim import TorchSimModel
from smoothflow.core.errors import ConfigurationError, SimulationError, TopologyError
from smoothflow.core.potential import Potential
from torch import Tensor

EV = 96.48533212331002  # kJ/mol, exact in the SI of 2019


def state(positions: Tensor, symbols: str = "CNOH") -> Any:
    n_systems, n_atoms = positions.shape[:2]
    numbers = torch.tensor(ase.Atoms(symbols).numbers)
    return torch_sim.SimState(
        positions=10 * positions.reshape(-1, 3),
        masses=torch.ones(n_systems * n_atoms, dtype=positions.dtype),
        cell=torch.eye(3, dtype=positions.dtype).repeat(n_systems, 1, 1),
        pbc=False,
        atomic_numbers=numbers.repeat(n_systems),
        system_idx=torch.arange(n_systems).repeat_interleave(n_atoms),
    )


def test_energies_and_forces_are_ours_in_ev_and_angstrom(chain: Potential, chain_positions: Tensor) -> None:
    found = TorchSimModel(chain)(state(chain_positions))
    energy, forces = chain.energy_and_forces(chain_positions)
    assert chain.n_evaluations == 2  # one for all systems
    torch.testing.assert_close(found["energy"], energy / EV, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["forces"], forces.reshape(-1, 3) / (10 * EV), rtol=1e-9, atol=1e-12)


def test_bad_input_is_refused(chain: Potential, not_finite: Potential, chain_positions: Tensor) -> None:
    model = TorchSimModel(chain)
    periodic = state(chain_positions)
    periodic.pbc = True
    with pytest.raises(ConfigurationError, match=r"state\.pbc = False"):
        model(periodic)
    with pytest.raises(ConfigurationError, match="has 4 atoms and system 0 has 3"):
        model(state(chain_positions[:, :3], "CNO"))
    with pytest.raises(TopologyError, match="atom 1 is N in the first and O in the second"):
        model(state(chain_positions, "CONH"))
    chain_positions[1, :, 0] += 2
    with pytest.raises(SimulationError, match=r"In system 1 the force on atom 0 \(MOL1-C1\) is not finite"):
        TorchSimModel(not_finite)(state(chain_positions))
    chain.shape = (12,)
    with pytest.raises(ConfigurationError, match="not a molecule's"):
        TorchSimModel(chain)


def test_the_example_runs(model: Path) -> None:
    script = Path(smoothflow.__file__).parent / "examples" / "torchsim" / "nve.py"
    found = subprocess.run([sys.executable, script, model], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("potential energies, eV: [")
