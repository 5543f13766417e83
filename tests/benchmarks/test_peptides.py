"""The peptides of the benchmarks are those that ship with the package, where those go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import smoothflow
import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.topology import Topology
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb

Build = Callable[[int], tuple[Topology, torch.Tensor]]


@pytest.fixture
def capped_polyalanine(monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.syspath_prepend(str(Path(smoothflow.__file__).parent / "benchmarks"))
    import peptides

    build: Build = peptides.capped_polyalanine
    return build


@pytest.mark.parametrize(("n", "name"), [(1, "capped-alanine"), (3, "alanine-tetrapeptide")])
def test_the_topology_is_that_of_the_shipped_molecule(capped_polyalanine: Build, n: int, name: str) -> None:
    expected, _ = topology_from_pdb(molecule_path(name))
    assert capped_polyalanine(n)[0] == expected


def test_residues_of_a_chain_are_alike(capped_polyalanine: Build) -> None:
    topology, positions = capped_polyalanine(10)
    coordinates = InternalCoordinates(topology)
    coordinates.check_geometry(positions[None])
    first, start = capped_polyalanine(1)
    unit = torch.cdist(start, start)[6:16, 6:16]  # the ten atoms of alanine
    assert {atom.residue_name for atom in first.atoms[6:16]} == {"ALA"}
    for residue in range(10):
        atoms = slice(6 + 10 * residue, 16 + 10 * residue)
        found = torch.cdist(positions[atoms], positions[atoms])
        torch.testing.assert_close(found, unit, rtol=0, atol=1e-9)  # rounding of ten rotations
    # no two atoms closer than the shortest bond of the molecule
    distances = torch.cdist(positions, positions) + torch.eye(len(topology), dtype=positions.dtype)
    assert distances.min() > torch.cdist(start, start)[0, 1:].min() - 0.01
