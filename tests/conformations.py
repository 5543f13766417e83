from __future__ import annotations

import pytest
import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from torch import Tensor

MOLECULES = ["water", "capped-alanine", "aspirin", "proline-dipeptide", "alanine-tetrapeptide", "chignolin"]


class Molecule:
    """A shipped structure, its coordinates, and random conformations of it: any torsion, bent and stretched."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.topology, self.positions = topology_from_pdb(molecule_path(name))
        self.coordinates = InternalCoordinates(self.topology)
        self.n_atoms = len(self.topology)

    def random_q(self, n_conformations: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        q, _ = self.coordinates.encode(self.positions)
        noise = torch.randn((n_conformations, q.shape[1]), generator=generator, dtype=torch.float64)
        bonds, angles, torsions = torch.split(noise, self.coordinates.n_vectors, dim=-1)
        q = q + torch.cat([0.005 * bonds, 0.1 * angles, 3.0 * torsions], dim=-1)
        torsions = q[:, 2 * self.n_atoms - 3 :]
        torsions -= 2 * torch.pi * torch.round(torsions / (2 * torch.pi))
        return q

    def random_positions(self, n_conformations: int, seed: int = 0) -> Tensor:
        """Conformations that are rotated and displaced too."""
        positions, _ = self.coordinates.decode(self.random_q(n_conformations, seed))
        generator = torch.Generator().manual_seed(seed + 1)
        rotations = random_rotations(n_conformations, generator)
        shift = torch.randn((n_conformations, 1, 3), generator=generator, dtype=torch.float64)
        return positions @ rotations.mT + shift


def random_rotations(n: int, generator: torch.Generator) -> Tensor:
    q, r = torch.linalg.qr(torch.randn((n, 3, 3), generator=generator, dtype=torch.float64))
    q = q * torch.diagonal(r, dim1=-2, dim2=-1).sign()[:, None, :]
    return q * torch.linalg.det(q)[:, None, None]


@pytest.fixture(scope="session", params=MOLECULES)
def molecule(request: pytest.FixtureRequest) -> Molecule:
    return Molecule(request.param)


@pytest.fixture(scope="session")
def alanine() -> Molecule:
    return Molecule("capped-alanine")
