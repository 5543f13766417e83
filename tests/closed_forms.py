"""A molecule small enough to train on in seconds: hydrogen peroxide with a force field in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames import Frames
from torch import Tensor, nn

PEROXIDE = Topology(
    (Atom("H", "H1", "HPO", 0), Atom("O", "O1", "HPO", 0), Atom("O", "O2", "HPO", 0), Atom("H", "H2", "HPO", 0)),
    bonds=((0, 1), (1, 2), (2, 3)),
)


class Peroxide(Potential):
    """Harmonic bonds and angles and one cosine, kJ/mol."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = (4, 3)
        self.topology = PEROXIDE
        self.coordinates = InternalCoordinates(PEROXIDE)

    def energy(self, positions: Tensor) -> Tensor:
        q, _ = self.coordinates.encode(positions)
        bonds, angles, torsions = torch.split(q, [3, 2, 1], dim=-1)
        return (
            1e5 * (bonds - 0.12).square().sum(-1)
            + 150 * (angles - 1.8).square().sum(-1)
            + 3 * (1 + torsions.cos()).sum(-1)
        )


class Gaussian(nn.Module):
    """Independent normal distributions of all components, with one trainable log-width: everything in closed form."""

    def __init__(self, n_atoms: int, log_width: float) -> None:
        super().__init__()
        self.n_atoms = n_atoms
        self.log_width = nn.Parameter(torch.tensor(log_width, dtype=torch.float64))

    def log_prob(self, positions: Tensor) -> Tensor:
        scaled = positions / self.log_width.exp()
        return (-0.5 * scaled**2 - self.log_width - 0.5 * math.log(2 * math.pi)).sum(dim=(-2, -1))

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn((n_samples, self.n_atoms, 3), generator=generator, dtype=torch.float64)
        positions = noise * self.log_width.exp()
        return positions, self.log_prob(positions)


@pytest.fixture(scope="session")
def force_field() -> Peroxide:
    return Peroxide()


@pytest.fixture(scope="session")
def peroxide_frames(force_field: Peroxide) -> Frames:
    """1600 frames of 100 replicas in Langevin dynamics at 300 K."""
    generator = torch.Generator().manual_seed(0)
    q = torch.tensor([0.12, 0.12, 0.12, 1.8, 1.8, 0.0], dtype=torch.float64).repeat(100, 1)
    q[:, 5] = 2 * math.pi * torch.rand(100, generator=generator, dtype=torch.float64)
    positions, _ = force_field.coordinates.decode(q)
    weights = masses(PEROXIDE)
    velocities = maxwell_boltzmann(weights, 100, 300.0, generator)
    settings = DynamicsSettings(n_steps=1000, ensemble="nvt", friction=10.0, report_every=50, seed=3)
    trajectory = registry().engine("native")().run(force_field, weights, positions, velocities, settings)
    chosen = trajectory.positions[5:].transpose(0, 1).flatten(0, 1).float()
    energy, forces = force_field.energy_and_forces(chosen.double())
    return Frames(
        PEROXIDE,
        300.0,
        positions=chosen.numpy(),
        forces=forces.numpy(),
        energies=energy.numpy(),
        replica=torch.arange(100).repeat_interleave(16).numpy(),
        provenance={"force field": "closed form"},
    )


@pytest.fixture
def gaussian() -> type[Gaussian]:
    return Gaussian
