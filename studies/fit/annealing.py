"""A start without dynamics: crude configurations at a high temperature, and how far it may be lowered at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from ...coordinates.internal import InternalCoordinates
from ...core.errors import SimulationError
from ...core.manifolds import Circle, Interval
from ...core.potential import Potential
from ...core.units import thermal_energy
from ...molecules.frames import Frames
from ...runs.randomness import generator
from ...sampling.walkers import relax

TOP = 4.0
"""Temperature at which a fit without dynamics begins, in units of the model's."""

N_CRUDE = 4000
N_ANGLES = 12
"""Number of angles at which the energy of a turned torsion is computed."""

NARROW = 0.9
"""Share of a single angle above which a torsion counts as narrow."""

DISPLACEMENTS = {"bond": 0.002, "angle": 0.03, "torsion": 0.05}
"""Displacements for curvatures, nm and radians."""

WIDEST = {"bond": 0.02, "angle": 0.3, "torsion": 0.5}
"""Largest standard deviations of crude configurations, nm and radians."""

HIGHEST = 3.0
"""Energy above the relaxed structure, in units of that of harmonic motion, up to which crude configurations are
kept."""

ENOUGH = 0.2
"""Sampling efficiency at which a temperature is left for the next one."""

WORTH = 0.1
"""Sampling efficiency that a model must have at the next temperature."""


@dataclass(frozen=True)
class Crude:
    """Configurations that resemble the molecule but follow no particular distribution.

    Attributes:
        frames: With energies and forces, at the temperature that they were made for.
        n_evaluations: Number of energies computed.
    """

    frames: Frames
    n_evaluations: int


def crude_configurations(
    reference: Potential,
    coordinates: InternalCoordinates,
    start: Float[ndarray, "atoms 3"],
    temperature: float,
    seed: int,
) -> Crude:
    """Configurations around a relaxed structure, each internal coordinate drawn independently.

    Lengths, angles and narrow torsions are normal, as wide as their curvatures say; a torsion that turns easily is
    drawn by its energy at some angles, the others held. Configurations with clashes are left out. A first model learns
    forces from the rest.

    Args:
        reference: The force field.
        coordinates: The molecule's.
        start: A structure, nm.
        temperature: K; a high one.
        seed: Seed of the random numbers.

    Raises:
        SimulationError: If hardly any of them is free of clashes.
    """
    kT, counted = thermal_energy(temperature), _Counted(reference)
    relaxed = relax(counted, start)
    q0 = coordinates.encode(torch.from_numpy(relaxed)[None])[0][0]
    columns = coordinates.codomain
    torsions = columns.indices(Circle)
    kinds = ["torsion" if i in torsions else _kind(columns.columns[i].manifold) for i in range(len(columns))]
    lowest = float(counted.energy(coordinates.decode(q0[None])[0])[0])
    step = torch.tensor([DISPLACEMENTS[kind] for kind in kinds], dtype=torch.float64)
    moves = torch.diag(step)
    energies = counted.energy(coordinates.decode(torch.cat([q0 + moves, q0 - moves]))[0]).reshape(2, -1)
    curvature = ((energies.sum(0) - 2 * lowest) / step**2).clamp(min=1e-9)
    widest = torch.tensor([WIDEST[kind] for kind in kinds], dtype=torch.float64)
    widths = torch.minimum((kT / curvature).sqrt(), widest)
    noise = generator(seed, 6)
    n = len(q0)
    q = q0 + widths * torch.randn((N_CRUDE, n), generator=noise, dtype=torch.float64)
    turns = 2 * math.pi * torch.arange(N_ANGLES, dtype=torch.float64) / N_ANGLES
    for i in torsions:
        turned = q0.repeat(N_ANGLES, 1)
        turned[:, i] = q0[i] + turns
        share = torch.softmax(-counted.energy(coordinates.decode(_wrapped(turned, torsions))[0]) / kT, 0)
        if float(share.max()) > NARROW:
            continue
        place = torch.multinomial(share, N_CRUDE, replacement=True, generator=noise)
        jitter = (torch.rand(N_CRUDE, generator=noise, dtype=torch.float64) - 0.5) * 2 * math.pi / N_ANGLES
        q[:, i] = q0[i] + turns[place] + jitter
    positions = coordinates.decode(_wrapped(q, torsions))[0]
    energy, forces = counted.energy_and_forces(positions)
    kept = energy < lowest + HIGHEST * 0.5 * n * kT + 10 * kT
    if int(kept.sum()) < N_CRUDE // 20:
        raise SimulationError(
            f"Of {N_CRUDE} crude configurations around the structure {int(kept.sum())} are possible: the rest clashes. "
            "Fit with dynamics."
        )
    frames = Frames(
        coordinates.topology,
        temperature,
        positions[kept].numpy(),
        forces[kept].numpy(),
        energy[kept].numpy(),
        provenance={"configurations": "crude, around a relaxed structure", "seed": seed},
    )
    return Crude(frames, counted.n)


def next_temperature(
    energy: Float[Tensor, "n"], log_density: Float[Tensor, "n"], temperature: float, lowest: float
) -> float:
    """The lowest temperature, not below ``lowest``, at which samples of a model are still worth `WORTH` of them.

    Args:
        energy: The reference's energies of the samples, kJ/mol; infinite where they are not finite.
        log_density: Log-densities of the model.
        temperature: The model's present temperature, K; returned if the samples are worth less even there.
        lowest: K.
    """

    def worth(kelvin: float) -> float:
        log_weights = torch.where(energy.isfinite(), -energy / thermal_energy(kelvin) - log_density, -math.inf)
        weights = torch.softmax(log_weights, 0)
        return float(1 / weights.square().sum() / len(weights))

    if worth(lowest) >= WORTH:
        return lowest
    low, high = lowest, temperature
    for _ in range(30):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if worth(middle) >= WORTH else (middle, high)
    # whole degrees are precise enough, and read better
    return min(temperature, math.ceil(high))


def weighted_frames(
    coordinates: InternalCoordinates,
    temperature: float,
    drawn: dict[str, ndarray],
    log_weights: Float[Tensor, "n"],
    largest: float,
) -> Frames:
    """Samples with weights as frames to train on; weights, of mean 1, are clipped, as in training.

    Args:
        coordinates: The molecule's.
        temperature: That of the weights, K.
        drawn: As `weighted_samples` returns it.
        log_weights: Logarithms of the importance weights of the samples.
        largest: Largest weight.
    """
    possible = (log_weights > -math.inf).numpy()
    bounded = log_weights - (torch.logsumexp(log_weights, 0) - math.log(len(log_weights)))
    bounded = bounded.clamp(max=math.log(largest))
    return Frames(
        coordinates.topology,
        temperature,
        drawn["positions"][possible],
        drawn["forces"][possible],
        drawn["energy"][possible],
        log_weights=bounded.numpy()[possible],
        provenance={"configurations": f"samples of a model, with weights clipped at {largest:g}"},
    )


class _Counted(Potential):
    """A potential that counts its evaluations."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential, self.shape, self.topology = potential, potential.shape, potential.topology
        self.dtype, self.device = potential.dtype, potential.device
        self.n = 0

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return self.energy_and_forces(positions)[0]

    def energy_and_forces(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]:
        self.n += len(positions)
        energy, forces = self.potential.energy_and_forces(positions)
        finite = energy.isfinite() & forces.isfinite().all(dim=(1, 2))
        return torch.where(finite, energy, math.inf).detach(), forces.detach()


def _kind(manifold: object) -> str:
    """Whether a column is a bond length or an angle."""
    assert isinstance(manifold, Interval)
    return "angle" if np.isfinite(manifold.upper) else "bond"


def _wrapped(q: Float[Tensor, "n dim"], torsions: tuple[int, ...] | list[int]) -> Float[Tensor, "n dim"]:
    """Internal coordinates with torsions between minus pi and pi, and the others within their limits."""
    q = q.clone()
    q[:, list(torsions)] = torch.remainder(q[:, list(torsions)] + math.pi, 2 * math.pi) - math.pi
    return q
