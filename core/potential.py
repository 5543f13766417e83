"""The contract of a potential energy."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .topology import Topology


class Potential(nn.Module, ABC):
    r"""Energies and forces of a batch of configurations.

    .. math:: U : \mathbb R^{n \times 3} \to \mathbb R, \qquad F = -\partial U / \partial x

    A flow, a force field, an ASE calculator and a toy target are all potentials, so any of them can be a training
    target, run molecular dynamics, or serve as the reference of a comparison. Subclasses give `energy`.
    """

    shape: tuple[int, ...]
    """Shape of one configuration: ``(atoms, 3)``, or ``(dim,)`` for a target that is no molecule."""

    topology: Topology | None = None
    """The molecule, where there is one; engines check their atoms against it."""

    @abstractmethod
    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol of positions in nm, differentiable with respect to the positions."""

    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        """Energies in kJ/mol and forces in kJ/mol/nm, neither attached to a graph."""
        with torch.enable_grad():
            positions = positions.detach().requires_grad_(True)
            energy = self.energy(positions)
            (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return energy.detach(), -gradient

    def forward(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        return self.energy(positions)
