"""Where derivatives of a function of one variable jump."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

N_SUSPECTS = 48
"""Cells that are looked into, by each of the three measures of suspicion."""

NEIGHBOURS = 5
"""Cells on each side with which a cell's defect is compared."""

N_PARTS = 8
N_ROUNDS = 6
"""Number of parts into which suspicious cells are cut, and how many times they are: to 4e-6 of their width."""

N_AROUND = 16
"""Cells as narrow as the last one on each side of it, which show rounding and the slope of what does not jump."""

ABOVE_NOISE = 30.0
"""Size of a jump in units of the largest change among the cells around it; rounding does not reach it."""

NEGLIGIBLE = (1e-9, 1e-8, 1e-7, 1e-6)
"""Jumps of the derivatives of orders 1 to 4 below this share of their largest value are rounding: where a sigmoid is
one but for rounding, the last digits of each derivative are lost at once."""

SHRINKING = N_PARTS**-5.0
"""Cut into parts, the defect of a cell without jumps falls by N_PARTS^7, that of a jump of order 4 by N_PARTS^3."""

CHUNK = 1024
"""Points that are differentiated at once: graphs of high derivatives that fit into a processor's cache are faster."""

Curves = Callable[[Tensor, Tensor], Tensor]
"""From points (n) and the index of the curve that each lies on (n) to values (n)."""


@dataclass(frozen=True)
class Jump:
    """The most suspicious change of a derivative over a distance at which a continuous one does not change.

    Attributes:
        order: Order of the derivative.
        at: Where.
        curve: On which curve.
        size: The change over a cell shrunk to 4e-6 of its width, less that of the cells around it.
        noise: The largest change among the cells around it, less their mean.
        scale: The derivative's largest absolute value on all curves.
    """

    order: int
    at: float
    curve: int
    size: float
    noise: float
    scale: float

    @property
    def severity(self) -> float:
        """Above 1 the derivative jumps: shrinking the cell left the change, and it is not rounding."""
        return self.size / max(ABOVE_NOISE * self.noise, NEGLIGIBLE[self.order - 1] * self.scale, 1e-300)


def derivatives(curves: Curves, s: Float[Tensor, "n"], curve: Tensor, order: int) -> Float[Tensor, "orders n"]:
    """Derivatives of orders 1 to ``order`` of elementwise curves, by repeated backward passes."""
    found = []
    for part, index in zip(torch.split(s, CHUNK), torch.split(curve, CHUNK), strict=True):
        with torch.enable_grad():
            leaf = part.detach().requires_grad_(True)
            chain = derivative_chain(curves(leaf, index), leaf, order)
        found.append(torch.stack([d.detach() for d in chain]))
    return torch.cat(found, dim=1)


def derivative_chain(value: Float[Tensor, "n"], x: Float[Tensor, "n"], order: int) -> list[Float[Tensor, "n"]]:
    """Derivatives of an elementwise function, of orders 1 to ``order``, in the graph; needs gradients enabled."""
    found = []
    for _ in range(order):
        # a constant has no graph; its derivatives are 0
        value = value if value.requires_grad else value + 0 * x
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        found.append(value)
    return found


def defect(
    table: Float[Tensor, "orders *rows points"], order: int, width: Float[Tensor, "*rows 1"]
) -> Float[Tensor, "*rows cells"]:
    r"""How far the derivatives at both ends of a cell are from those of one smooth function.

    .. math::
        g(b) - g(a) - \tfrac h2 (g'_a + g'_b) + \tfrac{h^2}{10} (g''_b - g''_a)
        - \tfrac{h^3}{120} (g'''_a + g'''_b) = O(h^7 g^{(7)} / 10^5)

    for :math:`g = f^{(m)}`, with fewer terms (and :math:`h^2/12`) where fewer derivatives are there. A jump of g stays
    as it is, one of g' is multiplied by h or less, and so on.

    Args:
        table: Derivatives of f of orders 1 and up, at equidistant points.
        order: m.
        width: h.
    """
    higher = table[order - 1 : order + 3]
    weights = {1: (), 2: (-1 / 2,), 3: (-1 / 2, 1 / 12), 4: (-1 / 2, 1 / 10, -1 / 120)}[len(higher)]
    total = higher[0].diff(dim=-1)
    for i, weight in enumerate(weights, start=1):
        a, b = higher[i][..., :-1], higher[i][..., 1:]
        total = total + weight * width**i * (a + b if i % 2 else b - a)
    return total


def _suspects(table: Float[Tensor, "orders curves points"], width: float) -> Tensor:
    """The cells, in the order of all curves' cells, whose defect stands out from its neighbours', or is the largest."""
    size = defect(table, 1, torch.tensor([[width]], dtype=table.dtype)).abs().nan_to_num(nan=torch.inf)
    noise = 4 * torch.finfo(table.dtype).eps * table[0].abs().amax(1, keepdim=True) + 1e-300
    padded = torch.nn.functional.pad(size, (NEIGHBOURS + 1, NEIGHBOURS + 1), value=0.0)
    # the cells next to it may share the jump
    left = padded.unfold(1, NEIGHBOURS, 1)[:, : size.shape[1]].amax(-1)
    right = padded.unfold(1, NEIGHBOURS, 1)[:, NEIGHBOURS + 3 :].amax(-1)
    measures = (size, size / (torch.maximum(left, right) + noise), size / (torch.minimum(left, right) + noise))
    chosen = [measure.flatten().topk(min(N_SUSPECTS, size.numel())).indices for measure in measures]
    return torch.tensor(sorted(set(torch.cat(chosen).tolist())))


def _unshrunk(
    curves: Curves, table: Float[Tensor, "orders curves points"], grid: Tensor, suspects: Tensor, fractions: Tensor
) -> Tensor:
    """The suspects whose defect is more than rounding, and does not shrink with the cell as that of one function."""
    known, _, n_points = table.shape
    curve, cell = suspects // (n_points - 1), suspects % (n_points - 1)
    width = (grid[1] - grid[0]).reshape(1, 1)
    edges = grid[cell][:, None] + width * fractions
    values = derivatives(curves, edges.flatten(), curve.repeat_interleave(len(fractions)), known)
    values = values.reshape(known, len(suspects), len(fractions))
    before = defect(table, 1, width).abs()[curve, cell]
    after = defect(values, 1, width / N_PARTS).abs().amax(1)
    rounding = 16 * torch.finfo(table.dtype).eps * values[0].abs().amax(1)
    return suspects[~(after <= torch.maximum(SHRINKING * before, rounding))]


def worst_jumps(
    curves: Curves, n_curves: int, low: float, high: float, order: int, n_cells: int, known: int | None = None
) -> list[Jump]:
    """The worst suspected jump of every derivative, of order 1 up to ``order``; none where no cell is suspicious.

    Every curve is sampled on a grid. Where the derivatives at both ends of a cell are not those of one smooth function
    (`defect`), the cell is cut again and again, and the part with the largest defect is kept. Over a continuous
    derivative the change goes with the width; a jump stays, and stands out from the cells around it.

    Args:
        curves: Elementwise functions of one variable, in float64.
        n_curves: How many.
        low: Where the grid starts.
        high: Where it ends.
        order: The highest derivative.
        n_cells: Number of cells of each curve's grid.
        known: The highest derivative that exists but for single points; by default, ``order``.
    """
    known = max(order, known or order)
    grid = torch.linspace(low, high, n_cells + 1, dtype=torch.float64)
    # off round numbers, on which knots of simple parameters lie
    grid = low + (grid - low) * (1 - 0.2718281828e-3)
    width = float(grid[1] - grid[0])
    index = torch.arange(n_curves)
    table = derivatives(curves, grid.repeat(n_curves), index.repeat_interleave(len(grid)), known)
    table = table.reshape(known, n_curves, len(grid))
    scale = table.abs().amax((1, 2))
    fractions = torch.linspace(0, 1, N_PARTS + 1, dtype=torch.float64)
    suspects = _unshrunk(curves, table, grid, _suspects(table, width), fractions)
    # each suspect once for each order
    curve = (suspects // n_cells).repeat(order)
    left = grid[suspects % n_cells].repeat(order)
    orders = torch.arange(order).repeat_interleave(len(suspects))
    rows = torch.arange(len(left))
    for _ in range(N_ROUNDS):
        edges = left[:, None] + width * fractions
        values = derivatives(curves, edges.flatten(), curve.repeat_interleave(N_PARTS + 1), known)
        values = values.reshape(known, len(left), N_PARTS + 1)
        width /= N_PARTS
        for m in range(order):
            mine = orders == m
            found = defect(values[:, mine], m + 1, torch.tensor([[width]], dtype=torch.float64)).abs()
            left[mine] = edges[rows[mine], found.nan_to_num(nan=torch.inf).argmax(1)]
    steps = torch.arange(-N_AROUND, N_AROUND + 2, dtype=torch.float64)
    edges = (left[:, None] + width * steps).clamp(low, high)
    values = derivatives(curves, edges.flatten(), curve.repeat_interleave(len(steps)), order)
    own = values.reshape(order, len(left), len(steps))[orders, rows]
    change = own.diff(dim=1)
    around = torch.cat([change[:, : N_AROUND - 1], change[:, N_AROUND + 2 :]], dim=1)
    mean = around.median(1, keepdim=True).values
    size = (change[:, N_AROUND : N_AROUND + 1] - mean).abs().squeeze(1)
    noise = (around - mean).abs().amax(1)
    jumps = [
        Jump(m + 1, at, c, change_there, rest, float(scale[m]))
        for m, at, c, change_there, rest in zip(
            orders.tolist(), left.tolist(), curve.tolist(), size.tolist(), noise.tolist(), strict=True
        )
    ]
    by_order = [[jump for jump in jumps if jump.order == m] for m in range(1, order + 1)]
    return [max(of_order, key=lambda jump: jump.severity) for of_order in by_order if of_order]
