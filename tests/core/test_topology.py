"""Topologies, and what is seen when a molecule is another one, or in another unit."""

from __future__ import annotations

import json

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


def test_a_topology_survives_json() -> None:
    assert Topology.from_dict(json.loads(json.dumps(PEROXIDE.to_dict()))) == PEROXIDE
    assert Topology.from_dict(Topology((), ()).to_dict()) == Topology((), ())
    assert len(PEROXIDE) == 4
    assert PEROXIDE.elements == ("O", "O", "H", "H")
    assert str(PEROXIDE.atoms[3]) == "HOO1-H2"


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {"atoms": []},
        {"atoms": [["O", "O1", "HOO"]], "bonds": []},
        {"atoms": [["O", "O1", "HOO", "first"]], "bonds": []},
        {"atoms": [], "bonds": [[0, 1, 2]]},
        {"atoms": 3, "bonds": []},
    ],
)
def test_data_that_is_not_a_topology_is_refused(data: object) -> None:
    with pytest.raises(TopologyError, match="Not a topology"):
        Topology.from_dict(data)


@pytest.mark.parametrize("bond", [(1, 0), (0, 0), (0, 4), (-1, 2)])
def test_bonds_join_two_atoms_smaller_index_first(bond: tuple[int, int]) -> None:
    with pytest.raises(TopologyError, match=r"does not join two of the 4 atoms, smaller index first"):
        Topology(PEROXIDE.atoms, (bond,))
    assert Topology(PEROXIDE.atoms, ((2, 3),)).bonds == ((2, 3),)


def test_neighbours_are_in_order() -> None:
    assert PEROXIDE.neighbours() == [[1, 2], [0, 3], [0], [1]]
    assert Topology(PEROXIDE.atoms, ((1, 2), (0, 2))).neighbours() == [[2], [2], [0, 1], []]


def test_other_elements_are_named() -> None:
    PEROXIDE.require_elements(("O", "O", "H", "H"), "the model", "the file")
    with pytest.raises(TopologyError, match=r"^the model has 4 atoms and the file has 3\. Use the molecule"):
        PEROXIDE.require_elements(("O", "O", "H"), "the model", "the file")
    with pytest.raises(TopologyError, match="the model and the file: atom 1 is O in the first and H in the second"):
        PEROXIDE.require_elements(("O", "H", "O", "H"), "the model", "the file")


def test_bonds_that_only_the_other_one_has_are_named() -> None:
    more = Topology(PEROXIDE.atoms, (*PEROXIDE.bonds, (2, 3)))
    message = r"atoms 2 \(HOO1-H1\) and 3 \(HOO1-H2\) are bonded in the file but not in the model"
    with pytest.raises(TopologyError, match=message):
        PEROXIDE.require_bonds(more, "the model", "the file")
    Topology(PEROXIDE.atoms, ()).require_bonds(more, "the model", "the file")


@pytest.mark.parametrize(("length", "fits"), [(0.049, False), (0.051, True), (0.399, True), (0.401, False)])
def test_one_bond_among_others_may_be_between_the_limits(length: float, fits: bool) -> None:
    positions = POSITIONS.copy()
    positions[2] = positions[0] + [0, length, 0]
    if fits:
        PEROXIDE.require_bond_lengths(positions)
    else:
        with pytest.raises(GeometryError, match=rf"0 \(HOO1-O1\) and 2 \(HOO1-H1\) is {length:.2g} nm long"):
            PEROXIDE.require_bond_lengths(positions)


# two pieces of a longer chain, with a virtual bond between their ends
PIECES = Topology(
    tuple(Atom("C", f"C{i}", "POL", 0) for i in range(4)), ((0, 1), (1, 2), (2, 3)), (1, 2), virtual_bonds=((1, 2),)
)
FAR_APART = np.array([[0.0, 0.0, 0.0], [0.15, 0.0, 0.0], [0.8, 0.0, 0.0], [0.8, 0.15, 0.0]])


def test_virtual_bonds_may_have_any_length_and_others_may_not() -> None:
    assert PIECES.chemical_bonds == ((0, 1), (2, 3))
    PIECES.require_bond_lengths(FAR_APART)
    with pytest.raises(GeometryError, match=r"atoms 1 .* and 2 .* is 0\.65 nm long"):
        Topology(PIECES.atoms, PIECES.bonds).require_bond_lengths(FAR_APART)
    torn = FAR_APART + np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 1, 0]])
    with pytest.raises(GeometryError, match=r"atoms 2 .* and 3 "):
        PIECES.require_bond_lengths(torn)


def test_virtual_bonds_are_those_of_one_side_alone() -> None:
    molecule = Topology(PIECES.atoms, PIECES.chemical_bonds)
    PIECES.require_same(molecule, "the model", "the file")
    molecule.require_same(PIECES, "the file", "the model")
    with pytest.raises(TopologyError, match=r"atoms 2 .* are bonded in the model but not in the file"):
        PIECES.require_bonds(Topology(PIECES.atoms, ((0, 1),)), "the model", "the file")


def test_virtual_bonds_survive_json_and_another_order() -> None:
    assert Topology.from_dict(json.loads(json.dumps(PIECES.to_dict()))) == PIECES
    assert PIECES.take([3, 2, 1, 0]).virtual_bonds == ((1, 2),)
    assert PIECES.take([0, 1]).virtual_bonds == ()


@pytest.mark.parametrize("virtual", [((0, 2),), ((1, 2), (0, 1)), ((1, 2), (1, 2))])
def test_virtual_bonds_are_some_of_the_bonds_in_order(virtual: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(TopologyError, match="virtual bonds"):
        Topology(PIECES.atoms, PIECES.bonds, virtual_bonds=virtual)
