"""The automatic z-matrix: a spanning tree of the bonds, grown from the middle of the backbone."""

from __future__ import annotations

from ..core.errors import TopologyError
from ..core.topology import Topology
from ..molecules.topology_checks import require_molecule
from .linear_groups import Rods, linear_rods
from .naming import CHI_BONDS, backbone_atoms, named_torsion

Quad = tuple[int, int, int, int]


def automatic_rows(topology: Topology) -> list[Quad]:
    """The rows of the automatic z-matrix; see `ZMatrix.from_topology`."""
    require_molecule(topology)
    neighbours = topology.neighbours()
    everything = set(range(len(topology)))
    heavy = {i for i in everything if topology.elements[i] != "H"}
    backbone = backbone_atoms(topology)
    stages = [stage for stage in (backbone, heavy, everything) if stage]
    rods = linear_rods(topology)
    root, head = _central_bond(neighbours, stages)
    if rods:
        root, head = _bond_beside(topology, neighbours, rods, root, head)
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
    if rods:
        return _beside_rods(rows, neighbours, rods, root, head)
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


def _bond_beside(topology: Topology, neighbours: list[list[int]], rods: Rods, root: int, head: int) -> tuple[int, int]:
    """The bond nearest to the central one from which a third atom can be placed that is not in line."""
    candidates = [
        (first, second)
        for first in _nearest_first(neighbours, root)
        for second in sorted(neighbours[first], key=lambda i: (i != head, topology.elements[i] == "H", i))
        if any(third != second and not rods.hold(third, first, second) for third in neighbours[first])
    ]
    if not candidates:
        raise TopologyError(
            "All atoms lie on one line: torsions about a linear molecule are undefined, so that it has no internal "
            "coordinates of this kind. Leave it out; linear groups within a larger molecule are supported."
        )
    # bonds of linear groups only where there are no others
    return min(candidates, key=lambda bond: rods.has_within(*bond))


def _nearest_first(neighbours: list[list[int]], start: int) -> list[int]:
    """All atoms, those with the fewest bonds to ``start`` first."""
    reached = [start]
    for atom in reached:
        reached += [other for other in neighbours[atom] if other not in reached]
    return reached


def _beside_rods(rows: dict[int, Quad], neighbours: list[list[int]], rods: Rods, root: int, head: int) -> list[Quad]:
    """Rows whose references are not in line: those that would be are the nearest atoms beside the linear group.

    Each atom keeps the atom it is bonded to; where its angle or torsion reference is in line with it, or not placed
    yet, the nearest placed atom is taken that is not.
    """
    placed = [root, head]
    made = [rows[root], rows[head]]
    # first the atom that makes a plane with the first bond
    third = next(i for i in neighbours[root] if i != head and not rods.hold(i, root, head))
    first_child = next((i for i, row in rows.items() if row[1:] == (head, root, -1)), third)
    if not rods.hold(first_child, head, root):
        made.append((first_child, head, root, -1) if first_child != third else (third, root, head, -1))
    else:
        made.append((third, root, head, -1))
    placed.append(made[-1][0])
    waiting = [i for i in rows if i not in placed]
    while waiting:
        for atom in waiting:
            b, c, d = rows[atom][1:]
            if b not in placed:
                continue
            near = [i for i in _nearest_first(neighbours, b) if i in placed and i != b]
            siblings = [i for i in neighbours[b] if i in near]
            # far out on a long group, atoms of the group are nearly in line with those beside it
            beside = sorted((d, *siblings, *near), key=lambda i: rods.has_within(b, i))
            found = next(
                (
                    (angle, torsion)
                    for angle in (c, *near)
                    if angle in placed and angle != b and not rods.hold(atom, b, angle)
                    for torsion in beside
                    if torsion in placed and torsion not in (b, angle) and not rods.hold(b, angle, torsion)
                ),
                None,
            )
            if found is not None:
                made.append((atom, b, *found))
                placed.append(atom)
                waiting.remove(atom)
                break
        else:
            raise TopologyError(
                "No z-matrix was found that keeps to one side of the linear groups. Give one of your own (zmatrix in "
                "the settings of a training)."
            )
    return made
