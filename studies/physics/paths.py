"""Minimum-energy paths of a potential between minima, and the energy of a reference along them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...coordinates.internal import InternalCoordinates
from ...core.manifolds import Circle
from ...core.potential import Potential
from ...runs.progress import OnProgress, Progress, silent
from .widths import energy_and_gradient, widths_of

N_IMAGES = 15
"""Configurations on a path, its ends among them."""

N_STEPS = 400
STEP = 0.05
"""Length of a step in units of the gradient, where coordinates are in units of their widths and energies in kT."""

LONGEST_STEP = 0.2
"""Largest change of a coordinate in one step, in units of its width."""


@dataclass(frozen=True)
class Path:
    """A minimum-energy path.

    Attributes:
        start: Place of the minimum at its start among those given.
        end: And of that at its end.
        positions: Its configurations, nm.
        energy: Along the path, above its start, kT.
        reference: That of the reference at the same configurations, above its start, kT; nan without one.
    """

    start: int
    end: int
    positions: Float[Tensor, "images atoms 3"]
    energy: Float[Tensor, "images"]
    reference: Float[Tensor, "images"]

    @property
    def barrier(self) -> float:
        """The highest energy on the path above the lower one of its ends, kT."""
        return float(self.energy.max() - torch.minimum(self.energy[0], self.energy[-1]))

    @property
    def largest_difference(self) -> float:
        """The largest difference from the reference along the path, kT, its start and the reference's put at zero."""
        return float((self.energy - self.reference).abs().max())


def find_paths(
    potential: Potential,
    minima: Float[Tensor, "minima atoms 3"],
    coordinates: InternalCoordinates,
    kT: float,
    reference: Potential | None = None,
    on_progress: OnProgress = silent,
) -> list[Path]:
    r"""A path between each two neighbouring minima, by the simplified string method.

    Images move down the gradient, and are then spread evenly along the string again:

    .. math:: u_k \leftarrow u_k - h \, \partial (U / kT) / \partial u, \qquad u = q / \sigma

    in internal coordinates q in units of their usual widths, torsions along the shorter way. Minima are joined into a
    tree, each to the nearest one that is in it.

    Args:
        potential: Any potential of the molecule.
        minima: Two minima or more, nm.
        coordinates: The molecule's.
        kT: Unit of energy, kJ/mol.
        reference: Another potential of the molecule, whose energies along the paths are taken.
        on_progress: Told of steps.

    Reference: E, Ren, Vanden-Eijnden, Simplified and improved string method for computing the minimum energy paths in
        barrier-crossing events, Journal of Chemical Physics 126, 164103 (2007).
    """
    q, _ = coordinates.encode(minima)
    widths = q.new_tensor(widths_of(coordinates.codomain.names))
    circles = coordinates.codomain.indices(Circle)
    u = q / widths
    period = torch.full_like(widths, math.inf)
    period[circles] = 2 * math.pi / widths[circles]

    edges = _tree(u, period)
    ways = [_nearest(u[j] - u[i], period) for i, j in edges]
    along = torch.linspace(0, 1, N_IMAGES, dtype=q.dtype)[:, None]
    strings = torch.stack([u[i] + along * way for (i, _), way in zip(edges, ways, strict=True)])
    for step in range(N_STEPS):
        _, slope = energy_and_gradient(potential, coordinates, strings[:, 1:-1].flatten(0, 1), widths, kT)
        move = -STEP * slope.nan_to_num(0.0).reshape(len(edges), N_IMAGES - 2, -1)
        move = move * (LONGEST_STEP / move.abs().amax(-1, keepdim=True).clamp(min=1e-30)).clamp(max=1.0)
        strings[:, 1:-1] += move
        strings = torch.stack([_evenly(string) for string in strings])
        on_progress(Progress("paths", step + 1, N_STEPS))
    paths = []
    for (i, j), string in zip(edges, strings, strict=True):
        positions = coordinates.decode(string * widths)[0]
        with torch.no_grad():
            energy = potential.energy(positions) / kT
            beside = torch.full_like(energy, math.nan)
            if reference is not None:
                beside = reference.energy(positions.to(reference.device, torch.float64)).cpu() / kT
        paths.append(Path(i, j, positions, energy - energy[0], beside - beside[0]))
    return paths


def _nearest(difference: Float[Tensor, "*batch dim"], period: Float[Tensor, "dim"]) -> Float[Tensor, "*batch dim"]:
    """A difference of coordinates, the shorter way around."""
    turns = torch.where(period.isfinite(), torch.round(difference / period), 0.0)
    return difference - turns * period.nan_to_num(posinf=0.0)


def _tree(u: Float[Tensor, "minima dim"], period: Float[Tensor, "dim"]) -> list[tuple[int, int]]:
    """Pairs of minima that join all of them, each to the nearest one before it in the tree."""
    distance = _nearest(u[:, None] - u[None], period).norm(dim=-1)
    inside, edges = [0], []
    while len(inside) < len(u):
        outside = [j for j in range(len(u)) if j not in inside]
        i, j = min(((i, j) for i in inside for j in outside), key=lambda pair: float(distance[pair]))
        edges.append((i, j))
        inside.append(j)
    return edges


def _evenly(string: Float[Tensor, "images dim"]) -> Float[Tensor, "images dim"]:
    """Images at equal distances along the same polygon, its ends as they are."""
    lengths = (string[1:] - string[:-1]).norm(dim=-1)
    at = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    wanted = torch.linspace(0, 1, len(string), dtype=string.dtype) * at[-1]
    place = torch.searchsorted(at, wanted).clamp(1, len(string) - 1)
    share = ((wanted - at[place - 1]) / lengths[place - 1].clamp(min=1e-30))[:, None]
    return torch.lerp(string[place - 1], string[place], share)
