"""The automatic z-matrix: a spanning tree of the bonds, grown from the middle of the backbone."""

from __future__ import annotations

from ..core.topology import Topology
from .naming import CHI_BONDS, backbone_atoms, named_torsion
from .topology_checks import require_molecule

Quad = tuple[int, int, int, int]


def automatic_rows(topology: Topology) -> list[Quad]:
    """The rows of the automatic z-matrix; see `ZMatrix.from_topology`."""
    require_molecule(topology)
    neighbours = topology.neighbours()
    everything = set(range(len(topology)))
    heavy = {i for i in everything if topology.elements[i] != "H"}
    backbone = backbone_atoms(topology)
    stages = [stage for stage in (backbone, heavy, everything) if stage]
    root, head = _central_bond(neighbours, stages)
    parent = _grow(neighbours, stages, root, head)
    children = _ordered_children(topology, parent, root, head, backbone)

    rows = {root: (root, -1, -1, -1), head: (head, root, -1, -1)}
    for p, members in children.items():
        g = parent[p]
        for a in members:
            if a != members[0]:
                rows[a] = (a, p, g, members[0])
            elif p == head:
                rows[a] = (a, head, root, -1)
            elif p == root:
                rows[a] = (a, root, head, children[head][0] if children[head] else -1)
            else:
                rows[a] = (a, p, g, _torsion_reference(topology, a, p, g, parent, children))
    return _sorted_by_depth(topology, rows)


def _central_bond(neighbours: list[list[int]], stages: list[set[int]]) -> tuple[int, int]:
    """The middle bond of a longest chain among the first stage's atoms; its first atom is in that stage."""
    first = stages[0]
    start = _farthest_path(neighbours, first, min(first))[-1]
    path = _farthest_path(neighbours, first, start)
    if len(path) > 1:
        middle = (len(path) - 2) // 2
        return path[middle], path[middle + 1]
    return path[0], neighbours[path[0]][0]


def _farthest_path(neighbours: list[list[int]], allowed: set[int], start: int) -> list[int]:
    """A shortest path, within ``allowed``, from ``start`` to an atom farthest from it."""
    previous = {start: start}
    reached = [start]
    for atom in reached:
        for other in neighbours[atom]:
            if other in allowed and other not in previous:
                previous[other] = atom
                reached.append(other)
    path = [reached[-1]]
    while path[-1] != start:
        path.append(previous[path[-1]])
    return path[::-1]


def _grow(neighbours: list[list[int]], stages: list[set[int]], root: int, head: int) -> dict[int, int]:
    """Each atom's parent in a tree that takes in one stage after another, breadth first; root and head are mutual."""
    parent = {root: head, head: root}
    placed = [root, head]
    for stage in stages:
        for atom in placed:
            for other in neighbours[atom]:
                if other in stage and other not in parent:
                    parent[other] = atom
                    placed.append(other)
    return parent


def _ordered_children(
    topology: Topology, parent: dict[int, int], root: int, head: int, backbone: set[int]
) -> dict[int, list[int]]:
    """Each atom's children, the one that continues the main chain first."""
    children: dict[int, list[int]] = {atom: [] for atom in parent}
    for atom, above in parent.items():
        if atom not in (root, head):
            children[above].append(atom)
    size = dict.fromkeys(parent, 1)
    n_heavy = {atom: int(topology.elements[atom] != "H") for atom in parent}
    for atom in reversed(parent):  # children come after their parents
        if atom not in (root, head):
            size[parent[atom]] += size[atom]
            n_heavy[parent[atom]] += n_heavy[atom]

    def rank(atom: int) -> tuple[bool, bool, int, int, int]:
        names = (topology.atoms[parent[atom]].name, topology.atoms[atom].name)
        return atom not in backbone, names not in CHI_BONDS, -n_heavy[atom], -size[atom], atom

    return {atom: sorted(members, key=rank) for atom, members in children.items()}


def _torsion_reference(
    topology: Topology, a: int, p: int, g: int, parent: dict[int, int], children: dict[int, list[int]]
) -> int:
    """The fourth atom of the proper torsion about p-g: one that makes it a named torsion, or else the parent of g."""
    above = parent[g]
    # siblings of p may serve as well: what hangs on p places none of them
    candidates = [above, *(other for other in children[g] if other != p)]
    return next((d for d in candidates if named_torsion(topology, (a, p, g, d))), above)


def _sorted_by_depth(topology: Topology, rows: dict[int, Quad]) -> list[Quad]:
    """The rows so that references come first: by depth, heavy atoms before hydrogens."""
    depth: dict[int, int] = {-1: -1}

    def depth_of(atom: int) -> int:
        if atom not in depth:
            depth[atom] = 1 + max(depth_of(reference) for reference in rows[atom][1:])
        return depth[atom]

    return sorted(rows.values(), key=lambda row: (depth_of(row[0]), topology.elements[row[0]] == "H", row[0]))
