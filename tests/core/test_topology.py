"""Topologies, and what is seen when a molecule is another one, or in another unit."""

from __future__ import annotations

import numpy as np
import pytest
from smoothflow.core.errors import GeometryError, TopologyError
from smoothflow.core.topology import Atom, Topology

# hydrogen peroxide, nm
PEROXIDE = Topology(
    tuple(Atom(name[0], name, "HOO", 0) for name in ("O1", "O2", "H1", "H2")),
    ((0, 1), (0, 2), (1, 3)),
)
POSITIONS = np.array([[0.0, 0.0, 0.0], [0.147, 0.0, 0.0], [-0.02, 0.09, 0.0], [0.16, -0.03, 0.09]])


def test_a_part_keeps_the_bonds_between_its_atoms() -> None:
    part = PEROXIDE.take([3, 0, 1])
    assert [atom.name for atom in part.atoms] == ["H2", "O1", "O2"]
    assert part.bonds == ((0, 2), (1, 2))
    assert PEROXIDE.take([2, 3]).bonds == ()


def test_equal_elements_in_another_order_are_seen_in_the_bonds() -> None:
    PEROXIDE.require_bonds(PEROXIDE, "the model", "the file")
    PEROXIDE.require_bonds(Topology(PEROXIDE.atoms, ()), "the model", "the file")
    swapped = PEROXIDE.take([0, 1, 3, 2])
    PEROXIDE.require_elements(swapped.elements, "the model", "the file")
    message = r"atoms 0 \(HOO1-O1\) and 2 \(HOO1-H1\) are bonded in the model but not in the file"
    with pytest.raises(TopologyError, match=message):
        PEROXIDE.require_bonds(swapped, "the model", "the file")


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (10 * POSITIONS, r"0\.96 nm long: positions in Å seem to have been taken for nm"),
        (0.1 * POSITIONS, r"0\.0096 nm long: positions in nm seem to have been taken for Å"),
        (
            POSITIONS + np.array([[0.0], [0.0], [0.0], [2.0]]),
            r"1 \(HOO1-O2\) and 3 \(HOO1-H2\) is 3\.[0-9] nm long",
        ),
        (
            POSITIONS * np.array([[1.0], [0.1], [1.0], [1.0]]),
            r"0 \(HOO1-O1\) and 1 \(HOO1-O2\) is 0\.015 nm long",
        ),
    ],
    ids=["angstrom", "nanometre", "periodic image", "overlap"],
)
def test_positions_of_no_molecule_are_seen_in_the_bonds(positions: np.ndarray, message: str) -> None:
    PEROXIDE.require_bond_lengths(POSITIONS)
    with pytest.raises(GeometryError, match=message):
        PEROXIDE.require_bond_lengths(positions)


def test_without_bonds_nothing_is_known_of_their_lengths() -> None:
    Topology(PEROXIDE.atoms, ()).require_bond_lengths(10 * POSITIONS)
