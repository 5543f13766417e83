"""A molecule, its force field in OpenMM, and a potential of ours."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from closed_forms import AnharmonicSprings
from smoothflow import FlowPotential, FlowSettings, InternalCoordinates, build_flow, save_model
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.coordinates.fitting import fit_charts
from smoothflow.core.charts import Chart
from smoothflow.core.plugins import registry
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from torch import Tensor

# TorchSim needs a newer Python
collect_ignore = [] if sys.version_info >= (3, 12) else ["torchsim"]

AMBER = "amber99sbildn.xml,amber99_obc.xml"


class Chain(AnharmonicSprings):
    """Anharmonic springs between all pairs of four atoms: no symmetry, no parameters."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        atoms = tuple(Atom(element, f"{element}1", "MOL", 0) for element in "CNOH")
        topology = Topology(atoms, ((0, 1), (1, 2), (2, 3)))
        lengths = [0.14, 0.25, 0.3, 0.13, 0.22, 0.1]
        super().__init__(torch.triu_indices(4, 4, 1).T.tolist(), lengths, topology, dtype)


class NotFinite(Chain):
    """The chain with an energy of NaN once the first atom is right of 1 nm."""

    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + 0 * (1 - positions[:, 0, 0]).sqrt()


@pytest.fixture
def chain() -> Chain:
    return Chain()


@pytest.fixture
def not_finite() -> NotFinite:
    return NotFinite()


@pytest.fixture
def chain_positions() -> Tensor:
    """Three configurations of the chain, nm."""
    x = torch.tensor([[0.0, 0.0, 0.0], [0.14, 0.0, 0.01], [0.2, 0.12, 0.0], [0.29, 0.13, 0.05]], dtype=torch.float64)
    return x + 0.005 * torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="session")
def structure() -> Path:
    return molecule_path("capped-alanine")


@pytest.fixture(scope="session")
def amber(structure: Path) -> OpenMMPotential:
    potential = registry().provider("openmm")(AMBER, structure)
    assert isinstance(potential, OpenMMPotential)
    # named, since timing on a busy machine could choose another, which computes in float32
    return OpenMMPotential(potential.system, potential.topology, "Reference")


@pytest.fixture(scope="session")
def pdb(structure: Path) -> Any:
    from openmm.app import PDBFile

    return PDBFile(str(structure))


@pytest.fixture
def positions(pdb: Any) -> Tensor:
    """Three configurations of the molecule, nm."""
    x = torch.tensor(pdb.getPositions(asNumpy=True)._value, dtype=torch.float64)
    return x + 0.003 * torch.randn(3, *x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


FLOW_SETTINGS = FlowSettings(hidden=16, line_pairs=1, interval_pairs=1, circle_pairs=1)


@pytest.fixture
def flow(structure: Path) -> FlowPotential:
    """A smooth flow with random weights, charted on the molecule's own geometry."""
    topology, x = topology_from_pdb(structure)
    coordinates = InternalCoordinates(topology)
    noise = torch.randn(200, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, _ = coordinates.encode(x + 0.003 * noise)
    chart = Chart(coordinates.codomain, fit_charts(q, coordinates.codomain))
    return FlowPotential(build_flow(FLOW_SETTINGS, chart), coordinates, 300.0).double()


@pytest.fixture
def model(flow: FlowPotential, tmp_path: Path) -> Path:
    """The flow in a file."""
    path = tmp_path / "model.safetensors"
    save_model(flow, path, {})
    return path
