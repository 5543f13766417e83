"""Finite differences of energies and forces, and where forces along a path jump or kink.

`worst_break` asks for forces alone, of whatever program, and goes by what is left of a change in a shrinking cell.
`testing.smoothness` looks for jumps of derivatives up to the fourth, of functions that it can differentiate itself, and
`studies.toys.smoothness` measures one jump for a table: the three share neither input nor measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .potential import Potential

STEP = 2e-5
"""Step of finite differences, nm: in float64 a fourth-order stencil loses as little to rounding as to stiff bonds."""

N_CELLS = 128
N_SUSPECTS = 8
N_PARTS = 8
N_ROUNDS = 5
NEGLIGIBLE = (1e-6, 1.0)
"""Changes of order 0 count as no less than this share of the largest force of the scan: the rest is rounding. Those of
order 1 are compared with its largest force gradient: generalized Born energies have harmless kinks of 3 % of it."""

CONTINUOUS = (1e-2, 1e-1)
"""Largest share of a change that is left of a continuous quantity in a cell shrunk to 1/4096; kinks are harmless."""


def _derivative(values: Float[Tensor, "4 *shape"], step: float) -> Float[Tensor, "*shape"]:
    """The derivative of a function from its values at -2, -1, 1 and 2 steps, to fourth order."""
    return (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step)


def _displaced(configuration: Float[Tensor, "*shape"], step: float) -> Float[Tensor, "points *shape"]:
    """A configuration with each coordinate displaced by -2, -1, 1 and 2 steps, the steps outermost."""
    dim = configuration.numel()
    unit = torch.eye(dim, dtype=configuration.dtype, device=configuration.device)
    factors = torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=configuration.dtype, device=configuration.device)
    moves = step * factors[:, None, None] * unit
    return configuration + moves.reshape(4 * dim, *configuration.shape)


def numerical_forces(
    potential: Potential, configuration: Float[Tensor, "*shape"], step: float = STEP
) -> Float[Tensor, "*shape"]:
    r"""Forces from energies alone, kJ/mol/nm.

    .. math:: F_i = -\frac{U(x - 2 h e_i) - 8 U(x - h e_i) + 8 U(x + h e_i) - U(x + 2 h e_i)}{12 h}

    Args:
        potential: Any potential, in float64.
        configuration: One, nm.
        step: h, nm.
    """
    energy, _ = potential.energy_and_forces(_displaced(configuration, step))
    return -_derivative(energy.reshape(4, -1), step).reshape(configuration.shape)


def numerical_hessian(
    potential: Potential, configuration: Float[Tensor, "*shape"], step: float = STEP
) -> Float[Tensor, "dim dim"]:
    r"""Minus the Jacobian of the forces, kJ/mol/nm^2: symmetric only if they are a gradient.

    .. math:: H_{ij} = -\frac{F_j(x - 2 h e_i) - 8 F_j(x - h e_i) + 8 F_j(x + h e_i) - F_j(x + 2 h e_i)}{12 h}

    Args:
        potential: Any potential, in float64.
        configuration: One, nm.
        step: h, nm.
    """
    dim = configuration.numel()
    _, forces = potential.energy_and_forces(_displaced(configuration, step))
    return -_derivative(forces.reshape(4, dim, dim), step)


def asymmetry(matrix: Float[Tensor, "dim dim"]) -> float:
    r"""How far a matrix is from symmetric.

    .. math:: |H - H^T| / |H|
    """
    size = float(matrix.norm())
    return float((matrix - matrix.T).norm()) / size if size else 0.0


def net_force_and_torque(
    positions: Float[Tensor, "batch atoms 3"], forces: Float[Tensor, "batch atoms 3"]
) -> tuple[Float[Tensor, "batch 3"], Float[Tensor, "batch 3"]]:
    r"""The sum of the forces, kJ/mol/nm, and their torque about the mean position, kJ/mol.

    .. math:: \sum_i F_i, \qquad \sum_i (x_i - \bar x) \times F_i
    """
    arms = positions - positions.mean(1, keepdim=True)
    return forces.sum(1), torch.linalg.cross(arms, forces).sum(1)


@dataclass(frozen=True)
class Scan:
    """A path through configurations.

    Attributes:
        name: What is scanned, for messages.
        low: Where it begins, in nm or radians.
        high: Where it ends.
        place: From parameters (n) to configurations (n, \\*shape), nm.
        ceiling: Parts of a higher energy, kJ/mol, are not looked at.
    """

    name: str
    low: float
    high: float
    place: Callable[[Tensor], Tensor]
    ceiling: float = math.inf


def straight_scan(configuration: Float[Tensor, "*shape"], generator: torch.Generator, length: float) -> Scan:
    """A straight path of that length, nm, through a configuration in a random direction."""
    v = torch.randn(configuration.shape, generator=generator, dtype=torch.float64).to(configuration)
    v = v / v.norm()

    def place(t: Float[Tensor, "points"]) -> Float[Tensor, "points *shape"]:
        moved: Tensor = configuration + t.to(configuration).reshape(-1, *[1] * v.ndim) * v
        return moved

    return Scan("a straight path", -length / 2, length / 2, place)


@dataclass(frozen=True)
class Break:
    """The most suspicious change of the forces (order 0) or of their derivative along a scan (order 1).

    Attributes:
        order: 0 or 1.
        scan: On which scan.
        at: Where on it, nm or radians.
        size: What is left of the change over a cell shrunk to 1/4096; kJ/mol/nm, per nm or radian for order 1.
        before: The change over the whole cell, or what is negligible if that is more.
    """

    order: int
    scan: str
    at: float
    size: float
    before: float

    @property
    def share(self) -> float:
        """What is left: 1 where there is a jump, 1/4096 or so where there is none; nan where forces are not finite."""
        return self.size / self.before if self.before else 0.0

    @property
    def continuous(self) -> bool:
        """Whether there is no jump after all."""
        return self.share <= CONTINUOUS[self.order]


def worst_break(potential: Potential, scan: Scan, order: int, n_cells: int = N_CELLS) -> Break:
    r"""Where the forces along a scan most likely jump (order 0) or kink (order 1).

    The scan is sampled on a grid; its cells of the largest second difference, relative to the forces there, are cut
    again and again, and the part with the largest change is kept,

    .. math:: |F(t + w) - F(t)|, \qquad |F(t + w) - 2 F(t + w/2) + F(t)| / (w/2)

    for order 0 and 1. Over a continuous quantity the change goes with the width w; a jump stays.

    Args:
        potential: Any potential, in float64.
        scan: The path.
        order: Order of the derivative of the forces.
        n_cells: Number of cells of the grid.
    """

    def forces(t: Float[Tensor, "*points"]) -> Float[Tensor, "*points dim"]:
        found = potential.energy_and_forces(scan.place(t.flatten()))[1].double().cpu()
        return found.reshape(*t.shape, -1)

    grid = torch.linspace(scan.low, scan.high, n_cells + 1, dtype=torch.float64)
    energies, table = potential.energy_and_forces(scan.place(grid))
    table = table.double().cpu().flatten(1)
    reached = ~(energies.cpu() > scan.ceiling)
    norms = table.norm(dim=-1)
    cell = float(grid[1] - grid[0])
    scales = norms[reached], (table.diff(dim=0).norm(dim=-1) / cell)[reached[1:] & reached[:-1]]
    cells = (reached[2:] & reached[1:-1] & reached[:-2]).nonzero().flatten()
    if not len(cells):
        return Break(order, scan.name, scan.low, 0.0, 0.0)
    suspicion = table.diff(n=2, dim=0).norm(dim=-1) / (norms[1:-1] + norms[reached].nanmedian())
    suspicion = suspicion[cells].nan_to_num(nan=torch.inf)
    cells = cells[suspicion.topk(min(N_SUSPECTS, len(cells))).indices]

    left, rows, width = grid[cells], torch.arange(len(cells)), 2 * cell
    n_parts = N_PARTS * (order + 1)
    fractions = torch.linspace(0, 1, n_parts + 1, dtype=torch.float64)
    before = size = torch.zeros(len(cells), dtype=torch.float64)
    for turn in range(N_ROUNDS):
        edges = left[:, None] + width * fractions
        change = forces(edges).diff(n=order + 1, dim=1).norm(dim=-1) / (width / n_parts) ** order
        size, part = change.nan_to_num(nan=torch.inf).max(1)
        before = size if turn == 0 else before
        left = edges[rows, part]
        width /= N_PARTS
    scale = float(scales[order].max())
    before = before.clamp(min=NEGLIGIBLE[order] * scale)
    share = (size / before).nan_to_num(nan=0.0 if scale == 0 else torch.inf)
    worst = int(share.argmax())
    return Break(order, scan.name, float(left[worst]), float(size[worst]), float(before[worst]))
