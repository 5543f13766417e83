"""Typical widths of internal coordinates, the units in which configurations are moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ...coordinates.internal import InternalCoordinates
from ...core.potential import Potential

WIDTHS = {"bond": 0.003, "angle": 0.05, "improper": 0.05}
"""Typical widths of coordinates at room temperature, nm and radians; of torsions it is `TORSION_WIDTH`."""

TORSION_WIDTH = 0.15


def widths_of(names: Sequence[str]) -> list[float]:
    """The width of each column, by its name; nm and radians."""
    return [next((width for kind, width in WIDTHS.items() if name.startswith(kind)), TORSION_WIDTH) for name in names]


def energy_and_gradient(
    potential: Potential,
    coordinates: InternalCoordinates,
    u: Float[Tensor, "batch dim"],
    widths: Float[Tensor, "dim"],
    kT: float,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch dim"]]:
    """Energies in kT, and their gradients, at internal coordinates u in units of their widths; without a graph."""
    u = u.detach().requires_grad_()
    energy = potential.energy(coordinates.decode(u * widths)[0]) / kT
    (gradient,) = torch.autograd.grad(energy.sum(), u)
    return energy.detach(), gradient
