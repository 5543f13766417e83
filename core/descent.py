"""Steps down the gradient of a potential, which take strain out of configurations; a minimum is not looked for."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .potential import Potential, next_forces

FIRST_DISPLACEMENT = 0.005
"""Largest displacement of an atom in the first step, nm."""

SMALLEST_CHANGE = 1e-6
"""kJ/mol; a step that would change the energy by less ends a descent."""


def descend(
    potential: Potential, positions: Float[Tensor, "batch atoms 3"], n_steps: int
) -> Float[Tensor, "batch atoms 3"]:
    r"""Positions (nm) after steps down the gradient, each configuration by steps of its own length.

    .. math:: x \leftarrow x + h F / \max_i |F_i|

    A step that lowers the energy is taken, and the next one is longer (:math:`1.2 h`); any other is not, and the next
    one is shorter (:math:`h / 2`). A configuration without finite forces stays where it is.
    """
    x = positions
    energy, forces = next_forces(potential, x)
    step = torch.full_like(energy, FIRST_DISPLACEMENT)
    for _ in range(n_steps):
        largest = forces.norm(dim=-1).amax(dim=-1)
        moving = largest.isfinite() & (largest * step >= SMALLEST_CHANGE)
        if not bool(moving.any()):
            break
        trial = torch.where(moving[:, None, None], x + forces * (step / largest)[:, None, None], x)
        new_energy, new_forces = next_forces(potential, trial)
        # what is not finite is not lower
        lower = new_energy < energy
        x = torch.where(lower[:, None, None], trial, x)
        energy = torch.where(lower, new_energy, energy)
        forces = torch.where(lower[:, None, None], new_forces, forces)
        step = step * torch.where(lower, 1.2, 0.5)
    return x
