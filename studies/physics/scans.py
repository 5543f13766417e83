"""Scans of a molecule along its bonds and torsions, one at a time."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from ...coordinates.internal import InternalCoordinates
from ...core.differences import Scan
from ...core.errors import TopologyError
from ...core.manifolds import FULL_TURN, Circle
from ...core.topology import Topology
from ...molecules.checks import OVERLAP
from ...molecules.elements import covalent_lengths

N_PLACES = 720
"""Points of a scan at which coinciding atoms are looked for."""

SHORTEST, LONGEST = 0.5, 2.0
"""Lengths between which a bond is scanned, in units of the sum of covalent radii."""


def far_side(topology: Topology, bond: tuple[int, int]) -> list[int] | None:
    """The atoms that stay with the bond's second atom when the bond is cut, or None if the bond is in a ring."""
    first, second = bond
    neighbours = topology.neighbours()
    reached = [second]
    for atom in reached:
        new = [i for i in neighbours[atom] if i not in reached and (atom, i) != (second, first)]
        if first in new:
            return None
        reached += new
    return sorted(reached)


def bond_scans(positions: Float[Tensor, "atoms 3"], topology: Topology) -> list[Scan]:
    """One scan for each bond that is in no ring, from half to twice the sum of the covalent radii.

    Reference of the range: From Evaluation to Design, arXiv 2602.04861.
    """
    scans = []
    for bond, covalent in zip(topology.bonds, covalent_lengths(topology).tolist(), strict=True):
        moving = far_side(topology, bond)
        if moving is None or bond in topology.virtual_bonds:
            continue
        along = positions[bond[1]] - positions[bond[0]]
        length = float(along.norm())
        direction = positions.new_zeros(positions.shape)
        direction[moving] = along / length

        def place(r: Tensor, length: float = length, direction: Tensor = direction) -> Tensor:
            return positions + (r.to(positions) - length)[:, None, None] * direction

        name = f"bond {topology.atoms[bond[0]]} {topology.atoms[bond[1]]}"
        scans.append(Scan(name, SHORTEST * covalent, LONGEST * covalent, place))
    return scans


def torsion_scans(positions: Float[Tensor, "atoms 3"], topology: Topology) -> list[Scan]:
    """One whole turn of each torsion of the molecule's z-matrix, impropers and ring torsions included.

    All other internal coordinates stay as they are. A topology that is not of one molecule has no such scans.
    """
    try:
        coordinates = InternalCoordinates(topology).to(positions)
    except TopologyError:
        return []
    q, _ = coordinates.encode(positions[None])
    scans = []
    for i in coordinates.codomain.indices(Circle):

        def place(angle: Tensor, i: int = i) -> Float[Tensor, "points atoms 3"]:
            turned = q.expand(len(angle), -1).clone()
            turned[:, i] += angle.to(q)
            return coordinates.decode(turned)[0]

        scans.append(Scan(f"torsion {coordinates.codomain.names[i]}", 0.0, FULL_TURN, place))
    return scans


def without_overlaps(scan: Scan) -> list[Scan]:
    """The parts of a scan in which no two atoms coincide: a distance has a kink where they do."""
    grid = torch.linspace(scan.low, scan.high, N_PLACES + 1, dtype=torch.float64)
    apart = torch.stack([torch.pdist(positions).min() > OVERLAP for positions in scan.place(grid)]).tolist()
    parts = []
    for is_apart, group in groupby(zip(grid.tolist(), apart, strict=True), key=lambda place: place[1]):
        places = [place for place, _ in group]
        if is_apart and len(places) > 1:
            parts.append(replace(scan, low=places[0], high=places[-1]))
    return parts
