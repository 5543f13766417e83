"""Lengths and angles of vectors, differentiable to any order away from collinear atoms; and handedness."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.topology import Topology


def norm(u: Float[Tensor, "*batch 3"], dim: int = -1) -> Float[Tensor, "*batch"]:
    """Length of a vector."""
    return (u * u).sum(dim).sqrt()


def angle(u: Float[Tensor, "*batch 3"], v: Float[Tensor, "*batch 3"], dim: int = -1) -> Float[Tensor, "*batch"]:
    r"""Angle between two vectors, in [0, pi].

    .. math:: \theta = \operatorname{atan2}(|u \times v|, u \cdot v)

    Accurate at every angle, where the arc cosine loses half of its digits near 0 and pi.
    """
    return torch.atan2(norm(torch.linalg.cross(u, v, dim=dim), dim), (u * v).sum(dim))


def take_rows(x: Float[Tensor, "rows 3 batch"], indices: Int[Tensor, "taken"]) -> Float[Tensor, "taken 3 batch"]:
    """Rows of ``x`` in the order of ``indices``.

    By ``gather``: compilers have been seen to give wrong forward-over-reverse derivatives of ``x[indices]``.
    """
    flat = x.flatten(1)
    return flat.gather(0, indices[:, None].expand(-1, flat.shape[1])).reshape(len(indices), *x.shape[1:])


def tetrahedral_centres(topology: Topology) -> tuple[int, ...]:
    """The atoms with four neighbours."""
    return tuple(i for i, bonded in enumerate(topology.neighbours()) if len(bonded) == 4)


def handedness(positions: Float[Tensor, "batch atoms 3"], topology: Topology) -> Float[Tensor, "batch centres"]:
    r"""The sense, +1 or -1, in which the neighbours of each tetrahedral centre are arranged, in the order of the atoms.

    .. math:: \mathrm{sign} \left[ (b - a) \cdot (c - a) \times (d - a) \right]

    It changes when a stereocentre is inverted, or when two hydrogens of a methyl group are exchanged.
    """
    neighbours = topology.neighbours()
    corners = torch.tensor([neighbours[i] for i in tetrahedral_centres(topology)], dtype=torch.long).reshape(-1, 4)
    a, b, c, d = positions[:, corners.to(positions.device)].unbind(-2)
    volume: Tensor = ((b - a) * torch.linalg.cross(c - a, d - a)).sum(-1)
    return volume.sign()
