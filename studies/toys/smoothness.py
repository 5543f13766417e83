"""Smoothness of a density: its force gradients, and the largest jump of its forces.

`core.differences.worst_break` tells whether the forces of a potential jump anywhere along a scan, by what is left of a
change; a table compares the sizes of jumps instead, over the same distance for every density. `testing.smoothness`
looks for jumps of derivatives of any order of one-dimensional functions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.manifolds import Circle, Product

LogDensity = Callable[[Tensor], Tensor]
"""Maps points [batch, dim] to normalized or unnormalized log-densities [batch]."""

CHUNK = 4096

N_POINTS = 513
"""Points on each line that is searched for jumps."""

N_ZOOMS = 4
"""Rounds, each of which narrows the spacing of points by `ZOOM`: from 2e-3 to 2e-9 of the period or interval."""

ZOOM = 32


def forces_and_gradients(
    log_density: LogDensity, x: Float[Tensor, "batch dim"]
) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim dim"]]:
    r"""Forces :math:`F = \nabla \log p` and their gradients :math:`\partial F_i / \partial x_j`, by autograd.

    Returns:
        kT per unit and kT per unit squared of the coordinates.
    """
    forces, gradients = [], []
    with torch.enable_grad():
        for part in torch.split(x.detach(), CHUNK):
            part = part.requires_grad_(True)
            (force,) = torch.autograd.grad(log_density(part).sum(), part, create_graph=True)
            if force.requires_grad:
                rows = [torch.autograd.grad(column.sum(), part, retain_graph=True)[0] for column in force.unbind(-1)]
            else:
                # a linear log-density has constant forces
                rows = [torch.zeros_like(part) for _ in force.unbind(-1)]
            forces.append(force.detach())
            gradients.append(torch.stack(rows, dim=-2))
    return torch.cat(forces), torch.cat(gradients)


def forces_of(log_density: LogDensity, x: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"]:
    r"""Forces :math:`\nabla \log p`, kT per unit of the coordinates."""
    found = []
    with torch.enable_grad():
        for part in torch.split(x.detach(), CHUNK):
            part = part.requires_grad_(True)
            found.append(torch.autograd.grad(log_density(part).sum(), part)[0])
    return torch.cat(found)


def largest_force_gradient(log_density: LogDensity, x: Float[Tensor, "batch dim"]) -> float:
    r"""The largest spectral norm of :math:`\partial F_i / \partial x_j` at the points given.

    It bounds the time step of molecular dynamics. A jump between the points is not seen: `largest_force_jump` finds it.
    """
    _, gradients = forces_and_gradients(log_density, x)
    if not bool(gradients.isfinite().all()):
        return float("inf")
    return float(torch.linalg.matrix_norm(gradients, ord=2).max())


def largest_force_jump(log_density: LogDensity, domain: Product, through: Float[Tensor, "lines dim"]) -> float:
    r"""The largest change of a force over 2e-9 of a period or interval.

    Lines run through the given points along every coordinate: once around circles, and over the middle 90 % of
    intervals, as forces may diverge towards their ends. On each, the place where the forces bend most is examined ever
    more closely: a kink of the density keeps its jump, whereas smooth forces change by 2e-9 times their gradient.

    Args:
        log_density: Log density of the points of ``domain``.
        domain: Unit circles and unit intervals.
        through: Points inside.

    Returns:
        kT per unit of the coordinates; infinite if forces diverge there.
    """
    largest = 0.0
    steps = torch.arange(-ZOOM - 1, ZOOM + 2, dtype=through.dtype)
    for i, column in enumerate(domain):
        on_circle = isinstance(column.manifold, Circle)
        # more than once around, so that the beginning is covered as well
        first, last = (0.5 - 1e-3, 1.5 + 1e-3) if on_circle else (0.05, 0.95)
        spacing = (last - first) / (N_POINTS - 1)
        places = torch.linspace(first, last, N_POINTS, dtype=through.dtype).expand(len(through), -1)
        for zoom in range(N_ZOOMS + 1):
            points = through.unsqueeze(1).repeat(1, places.shape[1], 1)
            points[..., i] = places
            forces = forces_of(log_density, points.flatten(0, 1)).reshape(points.shape)
            if not bool(forces.isfinite().all()):
                return float("inf")
            if zoom == N_ZOOMS:
                largest = max(largest, float(forces.diff(dim=1).abs().max()))
                break
            bend = forces.diff(n=2, dim=1).abs().amax(-1)
            centre = places.gather(1, bend.argmax(-1, keepdim=True) + 1)
            spacing = spacing / ZOOM
            places = centre + steps * spacing
    return largest
