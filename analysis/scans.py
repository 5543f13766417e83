"""Scans of a molecule: its bonds stretched, its torsions turned, the rest of it rigid."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..coordinates.elements import element
from ..core.differences import Scan
from ..core.topology import Topology

SHORTEST, LONGEST = 0.5, 2.0
"""Lengths between which a bond is scanned, in units of the sum of covalent radii."""


def covalent_lengths(topology: Topology) -> Float[Tensor, "bonds"]:
    """The sum of the covalent radii of each bond's atoms, nm."""
    radii = [element(symbol).radius for symbol in topology.elements]
    return torch.tensor([radii[first] + radii[second] for first, second in topology.bonds], dtype=torch.float64)


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
        if moving is None:
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
    """One whole turn about each bond that is in no ring and ends in no bare atom."""
    neighbours = topology.neighbours()
    scans = []
    for bond in topology.bonds:
        moving = far_side(topology, bond)
        if moving is None or min(len(neighbours[i]) for i in bond) < 2:
            continue
        centre = positions[bond[1]]
        axis = centre - positions[bond[0]]
        axis = axis / axis.norm()
        turning = positions.new_zeros(len(positions), 1)
        turning[moving] = 1

        def place(
            angle: Tensor, centre: Tensor = centre, axis: Tensor = axis, turning: Tensor = turning
        ) -> Float[Tensor, "points atoms 3"]:
            # Rodrigues' formula, for the change of the position
            arms = positions - centre
            around = torch.linalg.cross(axis.expand_as(arms), arms)
            sine, versine = (f.to(positions)[:, None, None] for f in (angle.sin(), 1 - angle.cos()))
            change = sine * around + versine * torch.linalg.cross(axis.expand_as(arms), around)
            turned: Tensor = positions + turning * change
            return turned

        name = f"torsion about {topology.atoms[bond[0]]} {topology.atoms[bond[1]]}"
        scans.append(Scan(name, 0.0, 2 * math.pi, place))
    return scans
