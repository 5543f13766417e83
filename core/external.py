"""Energies that come with their forces from elsewhere, made differentiable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ConfigurationError

HessianVector = Callable[[Tensor, Tensor], Tensor]
"""The product of the energy's second derivatives at some positions with vectors, kJ/mol/nm^2 times their unit."""


def attach_forces(
    positions: Float[Tensor, "batch *shape"],
    energy: Float[Tensor, "batch"],
    forces: Float[Tensor, "batch *shape"],
    hessian_vector: HessianVector | None = None,
) -> Float[Tensor, "batch"]:
    r"""The energies as a function of the positions that can be differentiated once, or twice if it is known how.

    .. math:: \partial U / \partial x = -F

    Args:
        positions: nm; the gradient flows to these.
        energy: kJ/mol, of these positions.
        forces: kJ/mol/nm, of these positions.
        hessian_vector: Second derivatives, where there are any.

    Returns:
        The energies; differentiating them once too often raises a `ConfigurationError`.
    """
    attached: Tensor = _Energy.apply(positions, energy, forces, hessian_vector)  # type: ignore[no-untyped-call]
    return attached


class _Energy(torch.autograd.Function):
    """An energy whose gradient is minus the forces that came with it."""

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, energy: Tensor, forces: Tensor, hessian_vector: HessianVector | None
    ) -> Tensor:
        ctx.save_for_backward(positions, forces)
        ctx.hessian_vector = hessian_vector
        return energy.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        positions, forces = ctx.saved_tensors
        forces = _Forces.apply(positions, forces, ctx.hessian_vector)  # type: ignore[no-untyped-call]
        return -grads[0].reshape(-1, *[1] * (forces.ndim - 1)) * forces, None, None, None


class _Forces(torch.autograd.Function):
    """Forces whose derivatives are known, or say that they are not rather than giving zero."""

    @staticmethod
    def forward(ctx: Any, positions: Tensor, forces: Tensor, hessian_vector: HessianVector | None) -> Tensor:
        ctx.save_for_backward(positions)
        ctx.hessian_vector = hessian_vector
        return forces.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        if ctx.hessian_vector is None:
            raise ConfigurationError(
                "Second derivatives of a potential that another program or process computes are not available: it "
                "gives energies and forces only. Use finite differences of its forces."
            )
        (positions,) = ctx.saved_tensors
        return -ctx.hessian_vector(positions, grads[0]), None, None
