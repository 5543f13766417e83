"""Lengths and angles of vectors, differentiable to any order away from collinear atoms."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
