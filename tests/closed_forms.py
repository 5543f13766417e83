"""Potentials and a density in closed form, and frames of the smallest molecule that can be trained on in seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Atom, Topology
from smoothflow.core.units import thermal_energy
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


class TwoMinima(Potential):
    r"""Peroxide with two minima half a turn and 2b apart: springs, and a torsion about :math:`\phi_0`.

    .. math:: -30 \cos 2(\phi - \phi_0) - b \cos(\phi - \phi_0)
    """

    torsion = math.radians(110)

    def __init__(self, b: float) -> None:
        super().__init__()
        self.shape = (4, 3)
        self.topology = PEROXIDE
        self.coordinates = InternalCoordinates(PEROXIDE)
        self.b = b

    def energy(self, positions: Tensor) -> Tensor:
        q, _ = self.coordinates.encode(positions)
        bonds, angles, torsions = torch.split(q, [3, 2, 1], dim=-1)
        springs = 5e4 * (bonds - 0.12).square().sum(-1) + 200 * (angles - 1.8).square().sum(-1)
        turn = torsions[:, 0] - self.torsion
        return springs - 30 * torch.cos(2 * turn) - self.b * torch.cos(turn)


def atoms_of(elements: Sequence[str]) -> tuple[Atom, ...]:
    """Atoms of one residue, named by element and index."""
    return tuple(Atom(element, f"{element}{i}", "MOL", 0) for i, element in enumerate(elements))


class HarmonicWell(Potential):
    r"""Every atom in a harmonic well at the origin, :math:`\sum_i k_i |x_i|^2 / 2`; counts its evaluations.

    Args:
        n_atoms: Number of atoms.
        stiffness: k, kJ/mol/nm^2, of all atoms or of each.
        topology: The molecule, if it is one.
    """

    def __init__(self, n_atoms: int, stiffness: float | Tensor, topology: Topology | None = None) -> None:
        super().__init__()
        self.shape = (n_atoms, 3)
        self.topology = topology
        self.stiffness = torch.as_tensor(stiffness, dtype=torch.float64).reshape(-1, 1)
        self.n_evaluations = 0

    def energy(self, positions: Tensor) -> Tensor:
        self.n_evaluations += 1
        return 0.5 * (self.stiffness.to(positions) * positions**2).sum((-2, -1))


class Linear(Potential):
    """The same force on every atom along x, kJ/mol/nm; with none, atoms are free."""

    def __init__(self, n_atoms: int, force: float) -> None:
        super().__init__()
        self.shape = (n_atoms, 3)
        self.force = force

    def energy(self, positions: Tensor) -> Tensor:
        return -self.force * positions[:, :, 0].sum(1)


class Quartic(Potential):
    r"""All coordinates in one quadratic form and in wells of fourth power, :math:`x^T A x / 2 + b \sum_i x_i^4`."""

    def __init__(self, matrix: Tensor, b: float = 0.0) -> None:
        super().__init__()
        self.shape = (len(matrix) // 3, 3)
        self.register_buffer("matrix", matrix)
        self.b = b

    def energy(self, positions: Tensor) -> Tensor:
        x = positions.flatten(1)
        return 0.5 * ((x @ self.matrix) * x).sum(-1) + self.b * (x**4).sum(-1)


class Springs(Potential):
    r"""Harmonic springs between pairs of atoms, :math:`\sum k (r - r_0)^2 / 2`.

    Args:
        pairs: The two atoms of each spring.
        length: r0, nm, of all springs or of each.
        stiffness: k, kJ/mol/nm^2.
        topology: The molecule, if it is one.
        dtype: Precision.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        length: float | Sequence[float],
        stiffness: float,
        topology: Topology | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        self.pairs = torch.tensor(pairs).T
        self.shape = (int(self.pairs.max()) + 1, 3)
        self.topology = topology
        self.register_buffer("lengths", torch.as_tensor(length, dtype=dtype))
        self.stiffness = stiffness
        self.n_evaluations = 0

    def distances(self, positions: Tensor) -> Tensor:
        first, second = self.pairs
        return (positions[:, first] - positions[:, second]).norm(dim=-1)

    def energy(self, positions: Tensor) -> Tensor:
        self.n_evaluations += 1
        return 0.5 * self.stiffness * (self.distances(positions) - self.lengths).square().sum(-1)


class AnharmonicSprings(Springs):
    r"""Springs with a cubic and a quartic term, smooth and without symmetry in the stretch :math:`s = r / r_0 - 1`.

    .. math:: \sum k (s^2 / 2 - 0.3 s^3 + 0.4 s^4), \qquad k = 1000 kJ/mol
    """

    def __init__(
        self,
        pairs: Sequence[tuple[int, int]],
        length: float | Sequence[float],
        topology: Topology | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(pairs, length, 1000.0, topology, dtype)

    def energy(self, positions: Tensor) -> Tensor:
        self.n_evaluations += 1
        s = self.distances(positions) / self.lengths - 1
        return self.stiffness * (0.5 * s**2 - 0.3 * s**3 + 0.4 * s**4).sum(-1)


class Morse(Potential):
    r"""Atoms in a chain of Morse bonds, :math:`\sum D (1 - e^{-a (r - r_0)})^2`.

    Args:
        n_atoms: Number of atoms.
        depth: D, kJ/mol.
        steepness: a, 1/nm.
        length: r0, nm.
    """

    def __init__(self, n_atoms: int, depth: float, steepness: float, length: float) -> None:
        super().__init__()
        self.shape = (n_atoms, 3)
        self.depth, self.steepness, self.length = depth, steepness, length

    def energy(self, positions: Tensor) -> Tensor:
        length = positions.diff(dim=1).square().sum(-1).sqrt()
        return (self.depth * (1 - torch.exp(-self.steepness * (length - self.length))).square()).sum(-1)


class QuarticChain(Potential):
    r"""Three atoms on a line of quartic springs, :math:`\sum k (r^2 - r_0^2)^2`."""

    shape = (3, 3)

    def energy(self, positions: Tensor) -> Tensor:
        return 1e4 * (positions.diff(dim=1).square().sum(-1) - 0.02).square().sum(-1)


class DoubleWell(Potential):
    """One atom in two wells 0.1 nm from a barrier, which is 20 kJ/mol high and curved sideways."""

    shape = (1, 3)

    def energy(self, positions: Tensor) -> Tensor:
        x, y, z = 10 * positions[:, 0].T
        return 20 * (x**2 - 1) ** 2 + 50 * (y - 0.3 * (1 - x**2)) ** 2 + 50 * z**2


class Power(Potential):
    """40 |x - a|^p of the first coordinate of two atoms, on a cubic background in all of them."""

    shape = (2, 3)

    def __init__(self, power: float, at: float) -> None:
        super().__init__()
        self.power, self.at = power, at

    def energy(self, positions: Tensor) -> Tensor:
        stretch = (positions[:, 0, 0] - self.at).abs()
        background = (positions**2 + positions**3).sum((1, 2)) + positions[:, 0, 0] * positions[:, 1, 1]
        return 40 * stretch**self.power + 10 * background


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


class PeroxideStatistics:
    """The Boltzmann distribution of `Peroxide` at a temperature, in which all internal coordinates are independent.

    Args:
        temperature: K.
    """

    def __init__(self, temperature: float) -> None:
        self.temperature = temperature
        self.kT = thermal_energy(temperature)
        bond = torch.linspace(0.05, 0.19, 20_001, dtype=torch.float64)
        angle = torch.linspace(0.2, math.pi, 20_001, dtype=torch.float64)
        torsion = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)
        # each with its energy, kJ/mol, its volume element, and how many of it there are
        self.columns = [
            (bond, 1e5 * (bond - 0.12) ** 2, bond**2, 3),
            (angle, 150 * (angle - 1.8) ** 2, angle.sin(), 2),
            (torsion, 3 * (1 + torsion.cos()), torch.ones_like(torsion), 1),
        ]

    def log_z(self) -> float:
        """Logarithm of the partition function over positions modulo rigid motion, by quadrature."""
        return sum(
            n * float(torch.trapezoid((-u / self.kT).exp() * volume, x).log()) for x, u, volume, n in self.columns
        )

    def mean_energy(self) -> float:
        """kJ/mol, by quadrature."""
        found = 0.0
        for x, u, volume, n in self.columns:
            weight = (-u / self.kT).exp() * volume
            found += n * float(torch.trapezoid(u * weight, x) / torch.trapezoid(weight, x))
        return found

    def frames(self, n: int, seed: int) -> Frames:
        """Independent frames, by inverting the cumulative distribution of each coordinate."""
        rng = np.random.default_rng(seed)
        drawn = []
        for x, u, volume, n_columns in self.columns:
            cumulative = torch.cumulative_trapezoid((-u / self.kT).exp() * volume, x).numpy()
            at = rng.random((n, n_columns)) * cumulative[-1]
            drawn.append(np.interp(at, np.concatenate([[0.0], cumulative]), x.numpy()))
        force_field = Peroxide()
        positions = force_field.coordinates.decode(torch.from_numpy(np.concatenate(drawn, axis=1)))[0].float()
        energy, forces = force_field.energy_and_forces(positions.double())
        return Frames(
            PEROXIDE,
            self.temperature,
            positions=positions.numpy(),
            forces=forces.numpy(),
            energies=energy.numpy(),
            provenance={"force field": "closed form"},
        )


@pytest.fixture
def gaussian() -> type[Gaussian]:
    return Gaussian
