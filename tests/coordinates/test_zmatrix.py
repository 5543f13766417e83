"""The automatic z-matrix, names of columns, and z-matrices given by users."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.coordinates.zmatrix import Row, ZMatrix
from smoothflow.core.errors import TopologyError
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.topology_checks import require_molecule


def without(topology: Topology, removed: set[int]) -> Topology:
    kept = [i for i in range(len(topology)) if i not in removed]
    new = {old: i for i, old in enumerate(kept)}
    bonds = tuple((new[i], new[j]) for i, j in topology.bonds if i in new and j in new)
    return Topology(tuple(topology.atoms[i] for i in kept), bonds)


def molecule_of(symbols: str, bonds: list[tuple[int, int]]) -> Topology:
    return Topology(tuple(Atom(s, f"{s}{i}", "MOL", 0) for i, s in enumerate(symbols)), tuple(sorted(bonds)))


def test_every_row_is_bonded(molecule) -> None:
    bonds = set(molecule.topology.bonds)

    def bonded(a: int, b: int) -> bool:
        return (min(a, b), max(a, b)) in bonds

    for i, (a, b, c, d) in enumerate(molecule.coordinates.zmatrix.rows):
        assert i < 1 or bonded(a, b)
        assert i < 2 or bonded(b, c)
        assert i < 3 or bonded(c, d) or bonded(b, d)


def test_one_proper_torsion_about_each_rotatable_bond(molecule) -> None:
    neighbours = molecule.topology.neighbours()
    rows = molecule.coordinates.zmatrix.rows
    proper = Counter(frozenset(row[1:3]) for row in rows[3:] if row.torsion not in neighbours[row.bond])
    tree = [row[:2] for row in rows[1:]]
    joints = Counter(atom for bond in tree for atom in bond)
    rotatable = {frozenset(bond) for bond in tree if min(joints[atom] for atom in bond) > 1}
    assert proper == Counter(dict.fromkeys(rotatable, 1))


def test_siblings_refer_to_the_first_of_them(molecule) -> None:
    neighbours = molecule.topology.neighbours()
    for a, b, c, d in molecule.coordinates.zmatrix.rows[3:]:
        if d in neighbours[b]:
            assert d in neighbours[b]
            assert c in neighbours[b]
            assert a != d


def test_levels_depend_on_earlier_levels_only(molecule) -> None:
    zmatrix = molecule.coordinates.zmatrix
    placed: set[int] = {-1}
    for level in zmatrix.levels:
        assert all(set(zmatrix.rows[i][1:]) <= placed for i in level)
        placed |= {zmatrix.rows[i].atom for i in level}
    assert len(zmatrix.levels) < 25  # 166 atoms in 24 steps: the tree grows from the middle


def test_names_of_capped_alanine(alanine) -> None:
    names = alanine.coordinates.codomain.names
    atoms = [str(atom) for atom in alanine.topology.atoms]
    proper = [name for name in names if not name.startswith(("bond", "angle", "improper"))]
    assert sorted(proper) == ["methyl 1", "methyl 2", "methyl 3", "omega 1", "omega 2", "phi", "psi"]
    torsions = dict(zip(names[41:], alanine.coordinates.zmatrix.rows[3:], strict=True))
    for name, expected in (
        ("phi", ["ACE1-C", "ALA2-N", "ALA2-CA", "ALA2-C"]),
        ("psi", ["ALA2-N", "ALA2-CA", "ALA2-C", "NME3-N"]),
        ("omega 1", ["ACE1-CH3", "ACE1-C", "ALA2-N", "ALA2-CA"]),
    ):
        quad = [atoms[i] for i in torsions[name]]
        assert quad in (expected, expected[::-1])
    assert "bond CA-CB" in names
    assert "angle CA-CB-HB1" in names
    assert "improper HB2" in names


def test_phi_and_psi_of_every_residue(molecule) -> None:
    expected = {"capped-alanine": 1, "proline-dipeptide": 1, "alanine-tetrapeptide": 3, "chignolin": 9}
    names = molecule.coordinates.codomain.names
    for kind in ("phi", "psi"):
        assert sum(name.split()[0] == kind for name in names) == expected.get(molecule.name, 0)
    if molecule.name == "chignolin":  # YYDPETGTWY, with the first side-chain torsions of all but glycine
        assert sum(name.startswith("chi1") for name in names) == 9
        assert "chi2 9" in names


def test_chirality_is_a_narrow_improper(alanine) -> None:
    q, _ = alanine.coordinates.encode(alanine.positions)
    mirrored, _ = alanine.coordinates.encode(-alanine.positions)
    column = alanine.coordinates.codomain.index("improper CB")
    # near +120 degrees in L-alanine, near -120 in D-alanine
    assert q[0, column].item() == pytest.approx(math.radians(120), abs=0.15)
    assert mirrored[0, column].item() == pytest.approx(-q[0, column].item())


@pytest.mark.parametrize(
    ("symbols", "bonds"),
    [
        ("OHH", [(0, 1), (0, 2)]),
        ("HOH", [(0, 1), (1, 2)]),
        ("NHHH", [(0, 1), (0, 2), (0, 3)]),
        ("HHHHC", [(0, 4), (1, 4), (2, 4), (3, 4)]),
        ("SFFFFFF", [(0, i) for i in range(1, 7)]),
        ("OOO", [(0, 1), (0, 2), (1, 2)]),  # a ring of three
        ("PPPP", [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),  # a cage
        ("HOSSOH", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        ("S" * 300, [(i, i + 1) for i in range(299)]),
        ("S" * 8, [*((i, i + 1) for i in range(7)), (0, 7)]),
    ],
)
def test_small_branched_caged_and_long_molecules(symbols: str, bonds: list[tuple[int, int]]) -> None:
    topology = molecule_of(symbols, bonds)
    coordinates = InternalCoordinates(topology)
    n = len(topology)
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand((4, 3 * n - 6), generator=generator, dtype=torch.float64)
    shift = torch.cat([torch.full((n - 1,), 0.1), torch.full((n - 2,), 1.3), torch.full((n - 3,), -1.0)]).double()
    q = shift + spread * torch.where(shift == 0.1, 0.1, 1.0)
    back, _ = coordinates.encode(coordinates.decode(q)[0])
    torch.testing.assert_close(back, q, rtol=0, atol=1e-8)  # 150 links each way add their rounding


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, -1, -1, -1), (1, 0, -1, -1)], "at least 3 rows"),
        ([(0, -1, -1, -1), (1, 0, -1, -1), (2, 1, -1, -1)], "refers to atom -1"),
        ([(0, -1, -1, -1), (1, 0, -1, -1), (2, 1, 1, -1)], "refers to one atom twice"),
        ([(0, -1, -1, -1), (1, 0, -1, -1), (1, 0, 1, -1)], "a second time"),
        ([(0, -1, -1, -1), (1, 0, -1, -1), (7, 1, 0, -1)], "numbered from 0 to 2"),
        ([(0, -1, -1, -1), (1, 2, -1, -1), (2, 1, 0, -1)], "which no earlier row places"),
        ([(0, -1, -1, -1), (1, 0, 0, -1), (2, 1, 0, -1)], "being among the first three"),
        ([(0, -1, -1, -1), (1, 0, -1, -1), (2, 1, 0)], "four atom indices"),
    ],
)
def test_a_wrong_zmatrix_is_refused(rows: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(TopologyError, match=message):
        ZMatrix(rows)  # type: ignore[arg-type]


def test_a_zmatrix_of_another_molecule_is_refused(alanine) -> None:
    with pytest.raises(TopologyError, match=r"3 rows and the molecule 22 atoms"):
        InternalCoordinates(alanine.topology, ZMatrix((Row(0, -1, -1, -1), Row(1, 0, -1, -1), Row(2, 1, 0, -1))))


def test_a_zmatrix_survives_lists_of_numbers(alanine) -> None:
    zmatrix = alanine.coordinates.zmatrix
    assert ZMatrix([list(row) for row in zmatrix.rows]) == zmatrix  # type: ignore[arg-type]


def test_an_unbonded_reference_is_called_a_distance() -> None:
    topology = molecule_of("OHH", [(0, 1), (0, 2)])
    rows = (Row(1, -1, -1, -1), Row(0, 1, -1, -1), Row(2, 1, 0, -1))
    assert InternalCoordinates(topology, ZMatrix(rows)).codomain.names[1] == "distance H1-H2"


def index(topology: Topology, name: str) -> int:
    return next(i for i, atom in enumerate(topology.atoms) if str(atom) == name)


def test_two_molecules_and_ions_are_refused(alanine) -> None:
    water = molecule_of("OHH", [(0, 1), (0, 2)])
    both = Topology(
        (*alanine.topology.atoms, *water.atoms[:0], *(Atom(a.element, a.name, "HOH", 3) for a in water.atoms)),
        (*alanine.topology.bonds, (22, 23), (22, 24)),
    )
    with pytest.raises(TopologyError, match=r"more than one molecule.*ACE1-CH3.*HOH4-O0"):
        require_molecule(both)
    ion = Topology((*alanine.topology.atoms, Atom("Na", "NA", "NA", 3)), alanine.topology.bonds)
    with pytest.raises(TopologyError, match=r"Atom 22 \(NA4-NA\) has no bond"):
        require_molecule(ion)


def test_an_ion_alone_is_refused() -> None:
    with pytest.raises(TopologyError, match="3 atoms or more; this one has 1"):
        require_molecule(Topology((Atom("Na", "NA", "NA", 0),), ()))


def test_duplicated_atoms_are_refused(alanine) -> None:
    topology = Topology((*alanine.topology.atoms, alanine.topology.atoms[4]), (*alanine.topology.bonds, (0, 22)))
    with pytest.raises(TopologyError, match="more than once: C of residue 1"):
        require_molecule(topology)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (["ALA2-HA"], r"ALA2-CA\) is C with 3 bonds: a hydrogen is missing"),
        (["ALA2-H"], r"ALA2-N\) is N with 2 bonds: a hydrogen is missing"),
        (["ALA2-HB1", "ALA2-HB2", "ALA2-HB3"], r"ALA2-CB\) is C with 1 bond: a hydrogen is missing"),
    ],
)
def test_missing_hydrogens_are_refused(alanine, missing: list[str], message: str) -> None:
    removed = {index(alanine.topology, name) for name in missing}
    with pytest.raises(TopologyError, match=message):
        ZMatrix.from_topology(without(alanine.topology, removed))


def test_impossible_bonds_are_refused(alanine) -> None:
    topology = Topology(alanine.topology.atoms, (*alanine.topology.bonds, (1, 2)))
    with pytest.raises(TopologyError, match=r"Atom 1 \(ACE1-H1\) is H with 2 bonds"):
        ZMatrix.from_topology(topology)
