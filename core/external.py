"""Energies that come with their forces from elsewhere, made differentiable."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ConfigurationError


def attach_forces(
    positions: Float[Tensor, "batch *shape"], energy: Float[Tensor, "batch"], forces: Float[Tensor, "batch *shape"]
) -> Float[Tensor, "batch"]:
    r"""The energies as a function of the positions that can be differentiated once.

    .. math:: \partial U / \partial x = -F

    Args:
        positions: nm; the gradient flows to these.
        energy: kJ/mol, of these positions.
        forces: kJ/mol/nm, of these positions.

    Returns:
        The energies; differentiating them twice raises a `ConfigurationError`.
    """
    attached: Tensor = _Energy.apply(positions, energy, forces)  # type: ignore[no-untyped-call]
    return attached


class _Energy(torch.autograd.Function):
    """An energy whose gradient is minus the forces that came with it."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, energy: Tensor, forces: Tensor) -> Tensor:
        ctx.save_for_backward(positions, forces)
        return energy.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        positions, forces = ctx.saved_tensors
        forces = _Forces.apply(positions, forces)  # type: ignore[no-untyped-call]
        return -grads[0].reshape(-1, *[1] * (forces.ndim - 1)) * forces, None, None


class _Forces(torch.autograd.Function):
    """Forces that cannot be differentiated, which says so rather than giving zero."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, forces: Tensor) -> Tensor:
        return forces.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        raise ConfigurationError(
            "Second derivatives of a potential that another program or process computes are not available: it gives "
            "energies and forces only. Use finite differences of its forces."
        )
