"""Z-matrices: which atoms each atom is placed by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..core.errors import TopologyError
from ..core.topology import Topology
from .spanning_tree import automatic_rows


class Row(NamedTuple):
    """An atom and the atoms that its bond, angle and torsion refer to; -1 where there is none (first three rows)."""

    atom: int
    bond: int
    angle: int
    torsion: int


@dataclass(frozen=True)
class ZMatrix:
    """The order in which atoms are placed, and the references that place them.

    Row (a, b, c, d) places atom a by its distance from b, the angle a-b-c and the torsion a-b-c-d. The first row has no
    references, the second one, the third two; every later row has three, all placed before.

    Raises:
        TopologyError: If the rows do not place every atom once, by atoms placed before.
    """

    rows: tuple[Row, ...]

    def __post_init__(self) -> None:
        try:
            rows = tuple(Row(*(int(entry) for entry in row)) for row in self.rows)
        except (TypeError, ValueError, OverflowError) as error:
            raise TopologyError(
                "Every row of a z-matrix holds four atom indices: atom, bond, angle and torsion reference, with -1 "
                "where there is none."
            ) from error
        object.__setattr__(self, "rows", rows)
        if len(rows) < 3:
            raise TopologyError(
                f"A z-matrix needs at least 3 rows; this one has {len(rows)}. Use a molecule of 3 atoms or more."
            )
        placed: set[int] = set()
        for i, row in enumerate(rows):
            _check_row(i, row, placed, len(rows))
            placed.add(row.atom)

    @classmethod
    def from_topology(cls, topology: Topology) -> ZMatrix:
        """The automatic z-matrix of a connected molecule.

        A spanning tree of the bonds is grown from the middle of the backbone: backbone first, then the other heavy
        atoms, then hydrogens. Of the atoms that hang on one atom, the first is placed by a proper torsion, the only one
        about that bond, and its siblings by impropers relative to it. A ring is opened where the tree closes it.

        Raises:
            TopologyError: If the topology is not a single molecule of 3 atoms or more, or lacks atoms.
        """
        return cls(tuple(Row(*row) for row in automatic_rows(topology)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def levels(self) -> tuple[tuple[int, ...], ...]:
        """Row numbers by depth: rows of one level depend on earlier levels only."""
        depth: dict[int, int] = {-1: -1}
        members: list[list[int]] = []
        for i, row in enumerate(self.rows):
            depth[row.atom] = 1 + max(depth[reference] for reference in row[1:])
            if depth[row.atom] == len(members):
                members.append([])
            members[depth[row.atom]].append(i)
        return tuple(tuple(level) for level in members)

    def require_fits(self, topology: Topology) -> None:
        """Raise a `TopologyError` unless the z-matrix places exactly the atoms of ``topology``."""
        if len(self) != len(topology):
            raise TopologyError(
                f"The z-matrix has {len(self)} rows and the molecule {len(topology)} atoms. Give one row per atom."
            )


def _check_row(i: int, row: Row, placed: set[int], n_atoms: int) -> None:
    """Raise a `TopologyError` unless row ``i`` places a new atom by atoms placed before."""
    expected = min(i, 3)
    references: Sequence[int] = row[1 : 1 + expected]
    where = f"Row {i} of the z-matrix, {tuple(row)},"
    if not 0 <= row.atom < n_atoms:
        raise TopologyError(f"{where} places atom {row.atom}; atoms are numbered from 0 to {n_atoms - 1}.")
    if row.atom in placed:
        raise TopologyError(f"{where} places atom {row.atom} a second time. Give one row per atom.")
    if any(reference != -1 for reference in row[1 + expected :]):
        raise TopologyError(f"{where} must have {expected} references and then -1, being among the first three.")
    for reference in references:
        if reference not in placed:
            raise TopologyError(
                f"{where} refers to atom {reference}, which no earlier row places. Reorder the rows, or choose a "
                "reference that is placed before."
            )
    if len(set(references)) < len(references):
        raise TopologyError(f"{where} refers to one atom twice; the {expected} references must differ.")
