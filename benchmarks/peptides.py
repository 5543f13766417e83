"""Ace-(Ala)n-Nme, n = 1, 2, ..., built from the capped alanine that ships with the package."""

from __future__ import annotations

from dataclasses import replace

import torch
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from torch import Tensor


def frame(positions: Tensor) -> tuple[Tensor, Tensor]:
    """The orthonormal axes of three atoms, and the second one's place."""
    first, origin, third = positions
    x = torch.nn.functional.normalize(third - origin, dim=0)
    z = torch.nn.functional.normalize(torch.linalg.cross(x, first - origin), dim=0)
    return torch.stack([x, torch.linalg.cross(z, x), z], dim=1), origin


def capped_polyalanine(n: int) -> tuple[Topology, Tensor]:
    """Topology and positions (nm) of Ace-(Ala)n-Nme: a helix whose residues are all like that of capped alanine.

    The rigid motion that carries one peptide plane onto the next carries a residue onto the next one.
    """
    unit, frames = topology_from_pdb(molecule_path("capped-alanine"))
    x = frames[0]
    place = {(atom.residue_name, atom.name): i for i, atom in enumerate(unit.atoms)}
    before, origin = frame(x[[place["ACE", "CH3"], place["ACE", "C"], place["ALA", "N"]]])
    after, target = frame(x[[place["ALA", "CA"], place["ALA", "C"], place["NME", "N"]]])
    rotation = after @ before.T
    atoms: list[Atom] = []
    bonds: list[tuple[int, int]] = []
    positions: list[Tensor] = []
    number: dict[tuple[int, int], int] = {}  # residue in the chain and atom of the unit, to atom of the chain
    for residue in range(n + 2):
        kind = 0 if residue == 0 else 2 if residue == n + 1 else 1
        for i, atom in enumerate(unit.atoms):
            if atom.residue_index != kind:
                continue
            number[residue, i] = len(atoms)
            atoms.append(replace(atom, residue_index=residue))
            moved = x[i]
            for _ in range(residue - kind):
                moved = rotation @ (moved - origin) + target
            positions.append(moved)
        bonds += [
            (number[residue, i], number[residue, j])
            for i, j in unit.bonds
            if {(residue, i), (residue, j)} <= set(number)
        ]
        if residue > 0:
            carbon = place["ACE" if residue == 1 else "ALA", "C"]
            nitrogen = place["NME" if residue == n + 1 else "ALA", "N"]
            bonds.append((number[residue - 1, carbon], number[residue, nitrogen]))
    return Topology(tuple(atoms), tuple(sorted(bonds))), torch.stack(positions)
