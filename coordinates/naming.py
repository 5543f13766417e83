"""Names of internal coordinates, by which users select columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..core.topology import Topology

Quad = tuple[int, int, int, int]

# The side-chain torsions of the twenty amino acids, by the names of their four atoms (IUPAC-IUB 1970).
CHI: dict[tuple[str, ...], str] = {
    **{("N", "CA", "CB", end): "chi1" for end in ("CG", "CG1", "OG", "OG1", "SG")},
    **{("CA", "CB", "CG", end): "chi2" for end in ("CD", "CD1", "OD1", "ND1", "SD")},
    ("CA", "CB", "CG1", "CD1"): "chi2",
    ("CA", "CB", "CG1", "CD"): "chi2",
    **{("CB", "CG", "CD", end): "chi3" for end in ("NE", "OE1", "CE")},
    ("CB", "CG", "SD", "CE"): "chi3",
    ("CG", "CD", "NE", "CZ"): "chi4",
    ("CG", "CD", "CE", "NZ"): "chi4",
    ("CD", "NE", "CZ", "NH1"): "chi5",
}
CHI_BONDS = frozenset(names[2:] for names in CHI)
"""Bonds (parent's name, child's name) that continue a side chain's main path."""


def atom_labels(topology: Topology) -> list[str]:
    """Each atom's name, followed by its residue's number where the name alone would be ambiguous: ``CA`` or ``C:1``."""
    count = Counter(atom.name for atom in topology.atoms)
    return [a.name if count[a.name] == 1 else f"{a.name}:{a.residue_index + 1}" for a in topology.atoms]


def backbone_atoms(topology: Topology) -> set[int]:
    """N, CA and C of every amino acid, where N is bonded to CA and CA to C."""
    found: set[int] = set()
    neighbours = topology.neighbours()
    for i, atom in enumerate(topology.atoms):
        if atom.name == "CA" and atom.element == "C":
            same = {
                topology.atoms[j].name: j
                for j in neighbours[i]
                if topology.atoms[j].residue_index == atom.residue_index
            }
            if "N" in same and "C" in same:
                found |= {i, same["N"], same["C"]}
    return found


def named_torsion(topology: Topology, atoms: Quad) -> tuple[str, int] | None:
    """The conventional name of a torsion (phi, psi, omega, chi1 to chi5) and its residue; None without such a name.

    Args:
        topology: The molecule.
        atoms: Four atoms bonded in a chain, in either direction.
    """
    for quad in (atoms, atoms[::-1]):
        chain = [topology.atoms[i] for i in quad]
        names = tuple(atom.name for atom in chain)
        residues = [atom.residue_index for atom in chain]
        one_residue = len(set(residues)) == 1
        if one_residue and names in CHI:
            return CHI[names], residues[0]
        if names == ("C", "N", "CA", "C") and residues[0] != residues[1] == residues[2] == residues[3]:
            return "phi", residues[1]
        if names == ("N", "CA", "C", "N") and residues[0] == residues[1] == residues[2] != residues[3]:
            return "psi", residues[0]
        peptide = names[1:3] == ("C", "N") and residues[0] == residues[1] != residues[2] == residues[3]
        # the caps' carbons are CH3 (acetyl), C or CH3 (methylamide)
        if peptide and names[0] in ("CA", "CH3") and names[3] in ("CA", "CH3", "C"):
            return "omega", residues[1]
    return None


def is_methyl(topology: Topology, atom: int, neighbours: list[list[int]]) -> bool:
    """True for a carbon that carries exactly three hydrogens."""
    hydrogens = sum(topology.atoms[i].element == "H" for i in neighbours[atom])
    return topology.atoms[atom].element == "C" and len(neighbours[atom]) == 4 and hydrogens == 3


def bond_names(topology: Topology, pairs: Sequence[tuple[int, int]]) -> list[str]:
    """``bond CA-CB``; ``distance`` where the two atoms are not bonded."""
    labels, neighbours = atom_labels(topology), topology.neighbours()
    return [f"{'bond' if b in neighbours[a] else 'distance'} {labels[b]}-{labels[a]}" for a, b in pairs]


def angle_names(topology: Topology, triples: Sequence[tuple[int, int, int]]) -> list[str]:
    """``angle N-CA-CB``."""
    labels = atom_labels(topology)
    return [f"angle {labels[c]}-{labels[b]}-{labels[a]}" for a, b, c in triples]


def torsion_names(topology: Topology, quads: Sequence[Quad]) -> list[str]:
    """A unique name for each torsion (atom, bond, angle and torsion reference).

    ``phi``, ``psi``, ``omega``, ``chi1`` to ``chi5`` where the four atoms are exactly those of the definition,
    ``methyl`` about the bond of a methyl group, ``improper`` and the placed atom where the first and last atom hang on
    the same one, ``torsion`` and the bond otherwise. A kind that occurs several times is followed by the residue's
    number, and by an atom where that is not enough.
    """
    labels = atom_labels(topology)
    neighbours = topology.neighbours()
    kinds: list[str] = []
    residues: list[int] = []
    details: list[str] = []
    for quad in quads:
        a, b, c, d = quad
        chain = b in neighbours[a] and c in neighbours[b] and d in neighbours[c]
        named = named_torsion(topology, quad) if chain else None
        rotor = next((i for i in (b, c) if is_methyl(topology, i, neighbours)), None) if chain else None
        residue, detail = topology.atoms[a].residue_index, labels[a]
        if d in neighbours[b]:
            kind = f"improper {labels[a]}"
        elif named is not None:
            kind, residue = named
        elif rotor is not None:
            kind, residue, detail = "methyl", topology.atoms[rotor].residue_index, labels[rotor]
        else:
            kind = f"torsion {labels[c]}-{labels[b]}"
        kinds.append(kind)
        residues.append(residue)
        details.append(detail)
    numbered = [f"{kind} {residue + 1}" for kind, residue in zip(kinds, residues, strict=True)]
    detailed = [f"{kind} {detail}" for kind, detail in zip(kinds, details, strict=True)]
    by_kind = Counter(kinds)
    clashing = {kind for kind, name in zip(kinds, numbered, strict=True) if numbered.count(name) > 1}
    return [
        kind if by_kind[kind] == 1 else detail if kind in clashing else number
        for kind, number, detail in zip(kinds, numbered, detailed, strict=True)
    ]
