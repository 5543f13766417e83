"""Potentials as metatomic models, and metatomic models as potentials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pytest
import smoothflow
import torch
from closed_forms import Springs
from smoothflow import load
from smoothflow.backends.engines.metatomic import to_metatomic
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.core.committee import CommitteePotential
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.elements import atomic_numbers
from torch import Tensor


def calculator(path: Path) -> Any:
    """metatomic's own calculator."""
    registry().provider("metatomic")  # its import, with torch's warnings
    from smoothflow.backends.engines.metatomic import without_deprecations

    with without_deprecations():
        from metatomic_ase import MetatomicCalculator

        return MetatomicCalculator(str(path))


@pytest.fixture
def chain_file(chain: Potential, chain_positions: Tensor, tmp_path: Path) -> Path:
    path = tmp_path / "chain.pt"
    to_metatomic(chain, path, chain_positions)
    return path


def test_metatomic_has_our_energy_and_forces_in_ase(
    chain: Potential, chain_positions: Tensor, chain_file: Path
) -> None:
    atoms = ase.Atoms("CNOH", 10 * chain_positions[2].numpy(), calculator=calculator(chain_file))
    energy, forces = chain.energy_and_forces(chain_positions[2:])
    kj = 1 / 96.48533212331002  # eV, exact in the SI of 2019
    assert atoms.get_potential_energy() == pytest.approx(energy.item() * kj, rel=1e-7)  # digits of metatomic's units
    np.testing.assert_allclose(atoms.get_forces(), forces[0].numpy() * kj / 10, rtol=1e-7, atol=1e-9)


def test_a_flow_comes_back_through_the_provider(model: Path, structure: Path, tmp_path: Path) -> None:
    script = Path(smoothflow.__file__).parent / "examples" / "metatomic" / "export.py"
    path = tmp_path / "model.pt"
    subprocess.run([sys.executable, script, model, path], check=True)
    model = load(model)
    x, _ = model.sample(3, torch.Generator().manual_seed(7))  # not those that it was checked with
    found = registry().provider("metatomic")(str(path), structure)
    energies, forces = found.energy_and_forces(x)
    ours, our_forces = model.energy_and_forces(x)
    torch.testing.assert_close(energies, ours, rtol=1e-7, atol=0)  # digits of metatomic's units
    torch.testing.assert_close(forces, our_forces, rtol=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (ase.Atoms("CONH", np.eye(4, 3)), "order of the atoms"),
        (ase.Atoms("CNO", np.eye(3)), "Number"),
        (ase.Atoms("CNOH", np.eye(4, 3), cell=[9, 9, 9], pbc=True), "Periodic boundaries are on"),
    ],
)
def test_the_model_refuses_other_molecules(atoms: ase.Atoms, message: str, chain_file: Path) -> None:
    atoms.calc = calculator(chain_file)
    with pytest.raises(Exception, match=message):  # TorchScript raises its own class
        atoms.get_potential_energy()


@pytest.mark.parametrize("n_systems", [1, 3])
def test_the_model_before_it_is_compiled(chain: Potential, chain_positions: Tensor, n_systems: int) -> None:
    registry().provider("metatomic")  # its import, with torch's warnings
    from smoothflow.backends.engines.metatomic import without_deprecations

    with without_deprecations():
        from metatomic.torch import ModelOutput, System
        from smoothflow.backends.engines.metatomic.model import EnergyModel

    numbers = torch.tensor(atomic_numbers(chain.topology))
    model = EnergyModel(chain, numbers)
    free = torch.zeros(3, dtype=torch.bool)
    cell = torch.zeros((3, 3), dtype=torch.float64)
    systems = [System(numbers, x, cell, free) for x in chain_positions[:n_systems]]
    wanted = {"energy": ModelOutput(unit="kJ/mol", sample_kind="system")}
    block = model(systems, wanted)["energy"].block()
    torch.testing.assert_close(block.values[:, 0], chain.energy(chain_positions[:n_systems]), rtol=1e-14, atol=0)
    assert block.samples.values.tolist() == [[i] for i in range(n_systems)]
    assert model(systems, {}) == {}
    with pytest.raises(ValueError, match="not for single atoms"):
        model(systems, {"energy": ModelOutput(unit="kJ/mol", sample_kind="atom")})
    periodic = System(numbers, chain_positions[0], 9 * torch.eye(3, dtype=torch.float64), ~free)
    with pytest.raises(ValueError, match="Periodic boundaries are on"):
        model([periodic], wanted)
    for other in (numbers.flip(0), numbers[:3]):
        with pytest.raises(ValueError, match="Number, elements or order"):
            model([System(other, chain_positions[0, : len(other)], cell, free)], wanted)


def test_a_committee_has_its_members_and_their_spread_as_outputs(
    chain: Potential, chain_positions: Tensor, tmp_path: Path
) -> None:
    others = [Springs([(0, 1), (1, 2), (2, 3), (0, 3)], length, 3e4, chain.topology) for length in (0.13, 0.15)]
    committee = CommitteePotential([chain, *others])
    to_metatomic(committee, tmp_path / "committee.pt", chain_positions)
    registry().provider("metatomic")
    from metatomic.torch import ModelEvaluationOptions, ModelOutput, System, load_atomistic_model
    from smoothflow.backends.engines.metatomic import without_deprecations

    with without_deprecations():
        model = load_atomistic_model(str(tmp_path / "committee.pt"))
    names = ("energy", "energy_uncertainty", "energy_ensemble")
    wanted = ModelEvaluationOptions(length_unit="nm", outputs={name: ModelOutput(unit="kJ/mol") for name in names})
    cell, free = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    numbers = torch.tensor(atomic_numbers(chain.topology))
    systems = [System(numbers, x, cell, free) for x in chain_positions]
    found = {name: block.block().values for name, block in model(systems, wanted, check_consistency=True).items()}
    energies = committee.energies(chain_positions)
    torch.testing.assert_close(found["energy_ensemble"], energies)
    torch.testing.assert_close(found["energy"], energies.mean(1, keepdim=True))
    torch.testing.assert_close(found["energy_uncertainty"], energies.std(1, keepdim=True))


class Branching(Potential):
    """A spring on one side and nothing on the other: a trace holds the side that it saw."""

    topology = Topology((Atom("H", "H1", "MOL", 0),), ())
    shape = (1, 3)

    def energy(self, positions: Tensor) -> Tensor:
        if positions[0, 0, 0] > 0:
            return (positions**2).sum((1, 2))
        return 0 * positions.sum((1, 2))


def test_a_potential_that_no_trace_holds_is_not_written(
    amber: OpenMMPotential, positions: Tensor, tmp_path: Path
) -> None:
    x = torch.tensor([[[1.0, 0.0, 0.0]], [[-1.0, 0.0, 0.0]]], dtype=torch.float64)
    with pytest.raises(ConfigurationError, match="at configuration 1 it differs"):
        to_metatomic(Branching(), tmp_path / "model.pt", x)
    with pytest.raises(ConfigurationError, match="trace"):
        to_metatomic(amber, tmp_path / "model.pt", positions)
    assert list(tmp_path.iterdir()) == []


def test_bad_input_is_refused(chain: Potential, chain_positions: Tensor, structure: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"suffix \.pt"):
        to_metatomic(chain, tmp_path / "chain.bin", chain_positions)
    with pytest.raises(ConfigurationError, match="two configurations"):
        to_metatomic(chain, tmp_path / "chain.pt", chain_positions[:1])
    chain.topology = None
    with pytest.raises(ConfigurationError, match="no topology"):
        to_metatomic(chain, tmp_path / "chain.pt", chain_positions)
    provider = registry().provider("metatomic")
    with pytest.raises(FileFormatError, match="There is no file"):
        provider(str(tmp_path / "none.pt"), structure)
    (tmp_path / "broken.pt").write_bytes(b"no model")
    with pytest.raises(FileFormatError, match="cannot be read"):
        provider(str(tmp_path / "broken.pt"), structure)


class Distances(torch.nn.Module):
    """The distance of the first two atoms, and its square."""

    def forward(self, positions: Tensor) -> Tensor:
        distance = (positions[:, 0] - positions[:, 1]).norm(dim=-1)
        return torch.stack([distance, distance**2], dim=-1)


def test_features_are_an_output_with_a_gradient(chain: Potential, chain_positions: Tensor, tmp_path: Path) -> None:
    to_metatomic(chain, tmp_path / "features.pt", chain_positions, Distances())
    registry().provider("metatomic")
    from metatomic.torch import ModelEvaluationOptions, ModelOutput, System, load_atomistic_model
    from smoothflow.backends.engines.metatomic import without_deprecations

    with without_deprecations():
        model = load_atomistic_model(str(tmp_path / "features.pt"))
    wanted = ModelEvaluationOptions(length_unit="nm", outputs={"feature": ModelOutput(unit="")})
    cell, free = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    numbers = torch.tensor(atomic_numbers(chain.topology))
    x = chain_positions.clone().requires_grad_(True)
    block = model([System(numbers, row, cell, free) for row in x], wanted, check_consistency=True)["feature"].block()
    torch.testing.assert_close(block.values, Distances()(chain_positions))
    assert block.properties.names == ["feature"]
    # the square of a distance has the gradient 2 r
    (gradient,) = torch.autograd.grad(block.values[:, 1].sum(), x)
    torch.testing.assert_close(gradient[:, 0], 2 * (chain_positions[:, 0] - chain_positions[:, 1]))
