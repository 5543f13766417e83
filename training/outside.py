"""Configurations outside the bulk: no molecule visits them, and a model must give them high energies."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.descent import descend
from ..potentials.flow_potential import WIDE, FlowPotential

TURNED = 0.5
"""Probability that a wide torsion is turned at random."""

LARGEST_STRETCH = 3.0
"""Largest factor by which deviations of bonds, angles and narrow torsions from their means are stretched."""

DESCENT_STEPS = 30


def outside_configurations(
    potential: FlowPotential, positions: Float[Tensor, "n atoms 3"], generator: torch.Generator
) -> Float[Tensor, "kept atoms 3"]:
    """Distorted samples of a flow, half of them moved down the flow's own energy.

    Turned torsions bring atoms into contact and reach rotamers that the samples do not; from there the forces lead to
    minima of the flow, including those that the reference does not have.

    Args:
        potential: The flow.
        positions: Samples of it, nm.
        generator: Generator of the random numbers.

    Returns:
        nm; without those at which the flow has no finite energy.
    """
    if len(positions) == 0:
        return positions
    distorted = distort(potential, positions, generator)
    half = len(distorted) // 2
    moved = torch.cat([descend(potential, distorted[:half], DESCENT_STEPS), distorted[half:]])
    energy, forces = potential.energy_and_forces(torch.nan_to_num(moved))
    finite = moved.isfinite().all(dim=(1, 2)) & energy.isfinite() & forces.isfinite().all(dim=(1, 2))
    return moved[finite]


def distort(
    potential: FlowPotential, positions: Float[Tensor, "n atoms 3"], generator: torch.Generator
) -> Float[Tensor, "n atoms 3"]:
    """Samples (nm) with wide torsions turned and everything else stretched, each sample by its own factor."""
    if potential.chart is None:
        return positions
    columns = potential.chart.columns
    with torch.no_grad():
        q, _ = potential.coordinates.encode(positions)

        def noise(*shape: int) -> Tensor:
            drawn = torch.rand(shape, generator=generator, dtype=q.dtype, device=generator.device)
            return drawn.to(q.device)

        wide = torch.tensor([column.kind in WIDE for column in columns], device=q.device)
        arc = torch.tensor([column.kind == "arc" for column in columns], device=q.device)
        location = torch.tensor([column.location for column in columns], dtype=q.dtype, device=q.device)
        deviation = q - location
        deviation = torch.where(arc, torch.remainder(deviation + math.pi, 2 * math.pi) - math.pi, deviation)
        stretched = location + (1 + (LARGEST_STRETCH - 1) * noise(len(q), 1)) * deviation
        turned = torch.where(noise(*q.shape) < TURNED, (2 * noise(*q.shape) - 1) * math.pi, q)
        moved, _ = potential.coordinates.decode(torch.where(wide, turned, stretched))
    return moved
