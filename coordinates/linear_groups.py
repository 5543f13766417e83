"""Groups of atoms on a line, like alkynes, nitriles and allenes, as bonds show them."""

from __future__ import annotations

from dataclasses import dataclass

from ..core.topology import Topology

LINEAR_METALS = ("Be", "Zn", "Cd", "Hg", "Cu", "Ag", "Au", "Xe", "Kr")
"""Elements whose two neighbours are on opposite sides."""

SMALLEST_RING = 8
"""Smaller rings bend a triple bond."""


@dataclass(frozen=True)
class Rods:
    """Sets of atoms on one line each."""

    members: tuple[frozenset[int], ...]

    def __bool__(self) -> bool:
        return bool(self.members)

    def hold(self, first: int, second: int, third: int) -> bool:
        """Whether three atoms are on one line."""
        return any({first, second, third} <= rod for rod in self.members)

    def has_within(self, first: int, second: int) -> bool:
        """Whether two atoms are on one line with a third."""
        return any({first, second} <= rod for rod in self.members)


def linear_rods(topology: Topology) -> Rods:
    """The linear groups of a molecule: carbons with two neighbours, and the like, each with what is bonded to it."""
    neighbours = topology.neighbours()
    centres = {i for i in range(len(topology)) if _is_linear(topology, neighbours, i)}
    rods = []
    while centres:
        chain = [centres.pop()]
        for centre in chain:
            joined = centres & set(neighbours[centre])
            centres -= joined
            chain += sorted(joined)
        rods.append(frozenset(chain).union(*(neighbours[centre] for centre in chain)))
    return Rods(tuple(sorted(rods, key=min)))


def _is_linear(topology: Topology, neighbours: list[list[int]], atom: int) -> bool:
    ends = neighbours[atom]
    if len(ends) != 2 or atom in topology.open_valences:
        return False
    symbol = topology.elements[atom]
    if symbol == "N":
        # isonitriles, azides, diazo groups
        terminal = [i for i in ends if len(neighbours[i]) == 1]
        return any(topology.elements[i] in ("C", "N") for i in terminal)
    if symbol != "C" and symbol not in LINEAR_METALS:
        return False
    return not _in_small_ring(neighbours, atom)


def _in_small_ring(neighbours: list[list[int]], atom: int) -> bool:
    """Whether the two neighbours are joined by another path of few bonds."""
    start, end = neighbours[atom]
    reached = {atom, start}
    shell = [start]
    for _ in range(SMALLEST_RING - 3):
        shell = [j for i in shell for j in neighbours[i] if j not in reached]
        if end in shell:
            return True
        reached |= set(shell)
    return False
