"""The contract of a potential energy."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import ConfigurationError
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

    def explain(self, positions: Float[Tensor, "1 *shape"]) -> str:
        """What is extraordinary about a configuration whose energy is not finite, as a sentence; empty if unknown."""
        return ""

    def forward(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        return self.energy(positions)


COPIES = 64
"""Rows of a Hessian that `hessian` computes at once."""


def hessian(potential: Potential, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape *shape"]:
    r"""Second derivatives of the energy, by differentiating the gradient backwards.

    .. math:: H_{ij} = \partial^2 U / \partial x_i \partial x_j

    A batch of copies of each configuration gives one row per copy.

    Args:
        potential: Any potential that can be differentiated twice.
        positions: nm.

    Returns:
        kJ/mol/nm^2, without a graph; symmetric up to rounding.

    Raises:
        ConfigurationError: If the potential can be differentiated only once.
    """
    shape = tuple(positions.shape[1:])
    directions = torch.eye(positions[0].numel(), dtype=positions.dtype, device=positions.device)
    rows = []
    with torch.enable_grad():
        for configuration in positions.detach():
            for direction in torch.split(directions.reshape(-1, *shape), COPIES):
                copies = configuration.expand(direction.shape).clone().requires_grad_(True)
                (gradient,) = torch.autograd.grad(potential.energy(copies).sum(), copies, create_graph=True)
                if not gradient.requires_grad:
                    raise ConfigurationError(
                        f"{type(potential).__name__} gives forces that cannot be differentiated, and so no Hessian. "
                        "Use finite differences of its forces."
                    )
                rows += torch.autograd.grad((gradient * direction).sum(), copies)
    return torch.cat(rows).reshape(len(positions), *shape, *shape)
