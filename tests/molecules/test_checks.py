"""Positions that have no internal coordinates are refused, and named."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.coordinates.checks import warn_of_bends
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.coordinates.zmatrix import ZMatrix
from smoothflow.core.errors import GeometryError
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.checks import GeometryWarning


def test_shipped_structures_pass(molecule) -> None:
    molecule.coordinates.check_geometry(molecule.positions)


def test_angstrom_is_recognized(molecule) -> None:
    with pytest.raises(GeometryError, match=r"seem to be in Å where nm are expected. Divide them by 10"):
        molecule.coordinates.check_geometry(10 * molecule.positions)
    with pytest.raises(GeometryError, match=r"seem to be in nm where Å are expected. Multiply them by 10"):
        molecule.coordinates.check_geometry(0.1 * molecule.positions)


def test_a_wrong_order_of_atoms_is_refused(alanine) -> None:
    with pytest.raises(GeometryError, match="Check the order of the atoms"):
        alanine.coordinates.check_geometry(alanine.positions.flip(1))


@pytest.mark.parametrize(("first", "second"), [("HA", "HB1"), ("CH3", "CA"), ("CB", "C")])
def test_two_atoms_of_one_element_exchanged(alanine, first: str, second: str) -> None:
    names = [f"{atom.residue_name}-{atom.name}" for atom in alanine.topology.atoms]
    i = next(k for k, name in enumerate(names) if name.endswith(f"-{first}"))
    j = names.index(f"ALA-{second}")
    positions = alanine.positions.clone()
    positions[:, [i, j]] = positions[:, [j, i]]
    with pytest.raises(GeometryError, match=r"Check the order of the atoms|a hydrogen is missing"):
        alanine.coordinates.check_geometry(positions)


def test_positions_of_atoms_that_are_not_finite_are_named(alanine) -> None:
    positions = alanine.positions.repeat(5, 1, 1)
    positions[3, 7, 1] = math.nan
    with pytest.raises(GeometryError, match=r"atom 7 \(ALA2-H\) in frame 3 is not finite"):
        alanine.coordinates.check_geometry(positions)


def test_overlapping_atoms_are_refused(alanine) -> None:
    positions = alanine.positions.repeat(5, 1, 1)
    positions[2, 2] = positions[2, 1] + 0.001
    with pytest.raises(GeometryError, match=r"Atoms 1 \(ACE1-H1\) and 2 \(ACE1-H2\) overlap in frame 2"):
        alanine.coordinates.check_geometry(positions)


def test_frames_of_the_mirror_image_among_others_are_refused(alanine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smoothflow.molecules.checks.CHUNK", 2 * 22**2)
    positions = alanine.positions.repeat(6, 1, 1)
    positions[4] *= positions.new_tensor([1.0, 1.0, -1.0])
    with pytest.raises(GeometryError, match=r"Frame 4 is another stereoisomer than most frames.* in 1 of 6 frames"):
        alanine.coordinates.check_geometry(positions)


def test_frames_with_two_hydrogens_of_a_methyl_group_exchanged_are_refused(alanine) -> None:
    first, second = (k for k, atom in enumerate(alanine.topology.atoms) if atom.name in ("HB1", "HB2"))
    positions = alanine.positions.repeat(3, 1, 1)
    positions[1, [first, second]] = positions[1, [second, first]]
    with pytest.raises(GeometryError, match=r"Frame 1 .* seen from atom \d+ \(ALA2-CB\), .*HB1.* the other way"):
        alanine.coordinates.check_geometry(positions)


@pytest.mark.parametrize("shape", [(22, 3), (1, 21, 3), (0, 22, 3)])
def test_shapes(alanine, shape: tuple[int, ...]) -> None:
    with pytest.raises(GeometryError, match="one row per atom"):
        alanine.coordinates.check_geometry(torch.zeros(shape))


def test_frames_are_counted_across_chunks(alanine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smoothflow.molecules.checks.CHUNK", 2 * 22**2)
    positions = alanine.positions.repeat(5, 1, 1)
    positions[4, 2] = positions[4, 1]
    with pytest.raises(GeometryError, match="overlap in frame 4"):
        alanine.coordinates.check_geometry(positions)


@pytest.mark.parametrize(("lost", "message"), [("HB1", "three bonds"), ("HB1 HB2", "two bonds at 110 degrees")])
def test_missing_hydrogens_are_seen_in_angles(alanine, lost: str, message: str) -> None:
    kept = [i for i, atom in enumerate(alanine.topology.atoms) if atom.name not in lost.split()]
    new = {old: i for i, old in enumerate(kept)}
    bonds = tuple((new[i], new[j]) for i, j in alanine.topology.bonds if i in new and j in new)
    coordinates = InternalCoordinates(Topology(tuple(alanine.topology.atoms[i] for i in kept), bonds))
    with pytest.raises(GeometryError, match=rf"ALA2-CB\) is carbon with {message}"):
        coordinates.check_geometry(alanine.positions[:, kept])


def disulfide(bend: float) -> tuple[InternalCoordinates, torch.Tensor]:
    """A chain O-S-S-O with one angle of pi - bend."""
    atoms = tuple(Atom(symbol, f"{symbol}{i}", "MOL", 0) for i, symbol in enumerate("OSSO"))
    coordinates = InternalCoordinates(Topology(atoms, ((0, 1), (1, 2), (2, 3))))
    q = torch.tensor([[0.2, 0.16, 0.16, 1.8, math.pi - bend, 1.0]], dtype=torch.float64)
    return coordinates, coordinates.decode(q)[0]


def test_collinear_atoms_are_refused() -> None:
    coordinates, positions = disulfide(1e-3)
    with pytest.raises(GeometryError, match=r"(MOL1-\w+(, )?){3} are collinear in frame 0 \(angle 179.94 deg"):
        coordinates.check_geometry(positions)


def test_nearly_collinear_atoms_are_warned_about() -> None:
    coordinates, positions = disulfide(0.05)
    with pytest.warns(GeometryWarning, match=r"Nearly collinear atoms: .*within 2\.9 degrees"):
        coordinates.check_geometry(positions)


def test_torsions_of_collinear_references_are_refused() -> None:
    # the three references of the last row are on a line, although no angle of the z-matrix is
    atoms = tuple(Atom("S", f"S{i}", "MOL", 0) for i in range(4))
    topology = Topology(atoms, ((0, 1), (1, 2), (1, 3)))
    coordinates = InternalCoordinates(topology, ZMatrix([(0, -1, -1, -1), (1, 0, -1, -1), (2, 1, 0, -1), (3, 0, 1, 2)]))
    positions = torch.tensor([[[0.0, 0, 0], [0.2, 0, 0], [0.4, 1e-4, 0], [0.2, 0.2, 0]]]).double()
    with pytest.raises(GeometryError, match="are collinear"):
        coordinates.check_geometry(positions)


def test_frames_of_a_linear_group_are_good_but_need_a_zmatrix() -> None:
    coordinates, positions = disulfide(1e-3)
    with pytest.warns(GeometryWarning, match=r"only with a z-matrix of your own: Atoms .* are collinear"):
        warn_of_bends(coordinates.topology, positions)
