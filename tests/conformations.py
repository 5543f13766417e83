"""Shipped structures, conformations of them, and an untrained flow on one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from smoothflow.coordinates.fitting import fit_charts
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.architecture import FlowSettings, build_flow
from smoothflow.core.charts import Chart
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.flow_potential import FlowPotential
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


def untrained_flow(circle_pairs: int) -> FlowPotential:
    """A flow on capped alanine at 300 K, phi and psi all the way around; independent and uniform without couplings."""
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    coordinates = InternalCoordinates(topology)
    noise = torch.randn((200, *positions.shape[1:]), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # shaken by less than a fifth of a bond, so that no geometry is turned inside out
    q, _ = coordinates.encode(positions + 0.003 * noise)
    wide = [i for i, name in enumerate(coordinates.codomain.names) if name in ("phi", "psi")]
    charts = fit_charts(q, coordinates.codomain)
    charts = tuple(replace(c, kind="circle", location=0.0, scale=1.0) if i in wide else c for i, c in enumerate(charts))
    settings = FlowSettings(
        transforms={"circle": "spline", "line": "affine"},
        line_pairs=1,
        interval_pairs=0,
        circle_pairs=circle_pairs,
        hidden=8,
    )
    flow = build_flow(settings, Chart(coordinates.codomain, charts)).double().requires_grad_(False)
    return FlowPotential(flow, coordinates, 300.0)


@pytest.fixture(scope="session", params=MOLECULES)
def molecule(request: pytest.FixtureRequest) -> Molecule:
    return Molecule(request.param)


@pytest.fixture(scope="session")
def alanine() -> Molecule:
    return Molecule("capped-alanine")
