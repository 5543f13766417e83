"""Scans move the right atoms, and as rigid bodies."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow import InternalCoordinates
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.studies.physics.scans import bond_scans, covalent_lengths, far_side, torsion_scans, without_overlaps


def test_atoms_beyond_a_bond() -> None:
    topology, _ = topology_from_pdb(molecule_path("aspirin"))
    neighbours = topology.neighbours()
    sides = {bond: far_side(topology, bond) for bond in topology.bonds}
    # aspirin has one ring of six, and every other bond divides it
    assert sum(side is None for side in sides.values()) == 6
    for (first, second), side in sides.items():
        if side is not None:
            assert second in side
            assert first not in side
            crossing = [(i, j) for i in side for j in neighbours[i] if j not in side]
            assert crossing == [(second, first)]


def test_scans_change_the_coordinate_that_they_are_of() -> None:
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    x = positions[0]
    coordinates = InternalCoordinates(topology)
    before, _ = coordinates.encode(positions)
    bonds = [i for i, name in enumerate(coordinates.codomain.names) if name.startswith("bond")]

    scans = bond_scans(x, topology)
    assert len(scans) == len(topology.bonds)
    for scan, bond, covalent in zip(scans, topology.bonds, covalent_lengths(topology).tolist(), strict=True):
        ends = scan.place(torch.tensor([scan.low, scan.high], dtype=torch.float64))
        lengths = (ends[:, bond[0]] - ends[:, bond[1]]).norm(dim=-1)
        assert lengths.tolist() == pytest.approx([0.5 * covalent, 2 * covalent])
        after, _ = coordinates.encode(ends[1:])
        # one bond changes, nothing else
        assert int((after[0, bonds] - before[0, bonds]).abs().gt(1e-9).sum()) == 1
        assert int((after[0] - before[0]).abs().gt(1e-9).sum()) == 1

    scans = torsion_scans(x, topology)
    assert [scan.name for scan in scans] == [f"torsion {name}" for name in coordinates.codomain.names[41:]]
    for i, scan in enumerate(scans):
        turned = scan.place(torch.tensor([0.0, 0.7, 2 * math.pi], dtype=torch.float64))
        after, _ = coordinates.encode(turned)
        change = (after - before + math.pi) % (2 * math.pi) - math.pi
        expected = torch.zeros(3, 60, dtype=torch.float64)
        expected[1, 41 + i] = 0.7
        torch.testing.assert_close(change, expected, rtol=0, atol=1e-9)


def test_parts_of_a_scan_in_which_atoms_coincide_are_left_out() -> None:
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    scans = {scan.name: scan for scan in torsion_scans(positions[0], topology)}
    # phi turns the two halves of the molecule, and no atom meets another
    (whole,) = without_overlaps(scans["torsion phi"])
    assert (whole.low, whole.high) == (0.0, 2 * math.pi)
    # a hydrogen of a methyl group meets its two siblings
    parts = without_overlaps(scans["torsion improper H2:1"])
    assert len(parts) in (2, 3)
    for part in parts:
        places = torch.linspace(part.low, part.high, 50, dtype=torch.float64)
        # the largest step between places that were looked at is half a degree, 0.001 nm
        assert min(float(torch.pdist(x).min()) for x in part.place(places)) > 0.019
    left_out = 2 * math.pi - sum(part.high - part.low for part in parts)
    assert 0.1 < left_out < 1.5
