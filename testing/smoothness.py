"""Where derivatives of a function of one variable jump."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

N_CELLS = 256
N_SUSPECTS = 8
N_PARTS = 8
N_ROUNDS = 9

Curves = Callable[[Tensor, Tensor], Tensor]
"""From points (n) and the index of the curve that each lies on (n) to values (n)."""


@dataclass(frozen=True)
class Jump:
    """The worst change of a derivative over a distance at which a continuous one does not change.

    Attributes:
        order: Of the derivative.
        at: Where.
        curve: On which curve.
        size: The change over a cell shrunk to 1e-8 of its width.
        before: The change over the whole cell.
        scale: The derivative's largest absolute value.
    """

    order: int
    at: float
    curve: int
    size: float
    before: float
    scale: float

    @property
    def severity(self) -> float:
        """Above 1 the derivative jumps: shrinking the cell left the change, and it is no rounding."""
        return self.size / max(1e-3 * self.before, 1e-7 * self.scale, 1e-300)


def derivatives(curves: Curves, s: Float[Tensor, "n"], curve: Tensor, order: int) -> Float[Tensor, "orders n"]:
    """Derivatives of orders 1 to ``order`` of elementwise curves, by repeated backward passes."""
    with torch.enable_grad():
        s = s.detach().requires_grad_(True)
        return torch.stack([d.detach() for d in derivative_chain(curves(s, curve), s, order)])


def derivative_chain(value: Float[Tensor, "n"], x: Float[Tensor, "n"], order: int) -> list[Float[Tensor, "n"]]:
    """Derivatives of an elementwise function, of orders 1 to ``order``, in the graph; needs gradients enabled."""
    found = []
    for _ in range(order):
        # a constant has no graph; its derivatives are 0
        value = value if value.requires_grad else value + 0 * x
        (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        found.append(value)
    return found


def worst_jumps(curves: Curves, n_curves: int, low: float, high: float, order: int) -> list[Jump]:
    """The worst suspected jump of every derivative, of order 1 up to ``order``, of smooth-looking curves.

    Every curve is sampled on a grid; the cells over which a derivative changes most are cut again and again, and the
    part with the largest change is kept. Over a continuous derivative the change goes with the width; a jump stays.

    Args:
        curves: Elementwise functions of one variable, in float64.
        n_curves: How many.
        low: Where the grid starts.
        high: Where it ends.
        order: The highest derivative.
    """
    grid = torch.linspace(low, high, N_CELLS + 1, dtype=torch.float64)
    # off round numbers, on which knots of simple parameters lie
    grid = grid + 0.2718281828 * (grid[1] - grid[0]) * (grid < high - 1e-9)
    index = torch.arange(n_curves)
    table = derivatives(curves, grid.repeat(n_curves), index.repeat_interleave(len(grid)), order)
    table = table.reshape(order, n_curves, len(grid))
    scale = table.abs().amax((1, 2))
    change = (table[:, :, 1:] - table[:, :, :-1]).abs().flatten(1)
    before, suspects = change.topk(N_SUSPECTS, dim=1)
    curve = (suspects // N_CELLS).flatten()
    left = grid[suspects % N_CELLS].flatten()
    right = grid[suspects % N_CELLS + 1].flatten()
    own_order = torch.arange(order).repeat_interleave(N_SUSPECTS)
    fractions = torch.linspace(0, 1, N_PARTS + 1, dtype=torch.float64)
    size = before.flatten()
    for _ in range(N_ROUNDS):
        edges = left[:, None] + (right - left)[:, None] * fractions
        values = derivatives(curves, edges.flatten(), curve.repeat_interleave(N_PARTS + 1), order)
        own = values.reshape(order, len(left), N_PARTS + 1)[own_order, torch.arange(len(left))]
        size, part = (own[:, 1:] - own[:, :-1]).abs().max(1)
        rows = torch.arange(len(left))
        left, right = edges[rows, part], edges[rows, part + 1]
    jumps = [
        Jump(
            int(own_order[k]) + 1,
            left[k].item(),
            int(curve[k]),
            size[k].item(),
            before.flatten()[k].item(),
            scale[own_order[k]].item(),
        )
        for k in range(len(size))
    ]
    return [
        max((jump for jump in jumps if jump.order == m), key=lambda jump: jump.severity) for m in range(1, order + 1)
    ]
