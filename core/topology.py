"""What a molecule is made of: elements, names, residues and bonds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from .display import described
from .errors import GeometryError, TopologyError

BOND_LENGTHS = (0.05, 0.4)
"""Bonds are longer and shorter than this, nm: H2 has 0.074, a bond of the heaviest atoms 0.33."""


@dataclass(frozen=True)
class Atom:
    """One atom: its element's symbol, its name in the residue, and the residue it belongs to."""

    element: str
    name: str
    residue_name: str
    residue_index: int

    def __str__(self) -> str:
        return f"{self.residue_name}{self.residue_index + 1}-{self.name}"


def atom_name(topology: Topology | None, atom: int) -> str:
    """The name of an atom in errors."""
    return f"atom {atom}" if topology is None else f"atom {atom} ({topology.atoms[atom]})"


@dataclass(frozen=True)
class Topology:
    """Atoms in order, and bonds as pairs of atom indices (smaller first, sorted).

    Attributes:
        atoms: In the order of all arrays.
        bonds: Pairs of atom indices.
        open_valences: Atoms known to have fewer neighbours than usual, like those of radicals, carbenes and carbanions
            (sorted): no hydrogen is missed at them.
        virtual_bonds: Those of the bonds that hold a part of a molecule together where the atoms between its pieces are
            left out (sorted): the two atoms are not bonded in the molecule, and may be at any distance.
    """

    atoms: tuple[Atom, ...]
    bonds: tuple[tuple[int, int], ...]
    open_valences: tuple[int, ...] = ()
    virtual_bonds: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if list(self.open_valences) != sorted(set(self.open_valences) & set(range(len(self.atoms)))):
            raise TopologyError(
                f"The open valences {self.open_valences} are not indices of the {len(self.atoms)} atoms in order."
            )
        for first, second in self.bonds:
            if not 0 <= first < second < len(self.atoms):
                raise TopologyError(
                    f"Bond ({first}, {second}) does not join two of the {len(self.atoms)} atoms, smaller index first."
                )
        if list(self.virtual_bonds) != sorted(set(self.virtual_bonds) & set(self.bonds)):
            raise TopologyError(f"The virtual bonds {self.virtual_bonds} are not some of the bonds in order.")

    def __len__(self) -> int:
        return len(self.atoms)

    def __repr__(self) -> str:
        return described(self, self.summary, f"{len(self.bonds)} bonds")

    @property
    def summary(self) -> str:
        """How many atoms of which elements, like ``22 atoms C6H12N2O2`` (in Hill's order)."""
        count = Counter(self.elements)
        first = [symbol for symbol in ("C", "H") if "C" in count and symbol in count]
        order = [*first, *sorted(set(count) - set(first))]
        return f"{len(self)} atoms {''.join(f'{s}{count[s] if count[s] > 1 else str()}' for s in order)}".rstrip()

    @cached_property
    def elements(self) -> tuple[str, ...]:
        """The element symbol of each atom."""
        return tuple(atom.element for atom in self.atoms)

    @cached_property
    def chemical_bonds(self) -> tuple[tuple[int, int], ...]:
        """The bonds that are not virtual."""
        return tuple(sorted(set(self.bonds) - set(self.virtual_bonds)))

    def to_dict(self) -> dict[str, Any]:
        """The topology in plain JSON types; `from_dict` reads it back."""
        return {
            "atoms": [[atom.element, atom.name, atom.residue_name, atom.residue_index] for atom in self.atoms],
            "bonds": [list(bond) for bond in self.bonds],
            # files written before there were open valences stay the same
            **({"open_valences": list(self.open_valences)} if self.open_valences else {}),
            **({"virtual_bonds": [list(bond) for bond in self.virtual_bonds]} if self.virtual_bonds else {}),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Topology:
        """The topology that `to_dict` wrote.

        Raises:
            TopologyError: If ``data`` is something else.
        """
        try:
            atoms = tuple(Atom(str(e), str(name), str(residue), int(i)) for e, name, residue, i in data["atoms"])
            bonds = tuple((int(first), int(second)) for first, second in data["bonds"])
            open_valences = tuple(int(i) for i in data.get("open_valences", ()))
            virtual_bonds = tuple((int(first), int(second)) for first, second in data.get("virtual_bonds", ()))
        except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as error:
            raise TopologyError(f"Not a topology: {type(error).__name__}: {error}.") from error
        return cls(atoms, bonds, open_valences, virtual_bonds)

    def neighbours(self) -> list[list[int]]:
        """The atoms bonded to each atom, in increasing order."""
        lists: list[list[int]] = [[] for _ in self.atoms]
        for first, second in self.bonds:
            lists[first].append(second)
            lists[second].append(first)
        return [sorted(neighbours) for neighbours in lists]

    def take(self, indices: Sequence[int]) -> Topology:
        """The topology of some of the atoms in the order of ``indices``, with the bonds between them."""
        place = {index: i for i, index in enumerate(indices)}

        def taken(bonds: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
            both = ((place[i], place[j]) for i, j in bonds if i in place and j in place)
            return tuple(sorted((min(bond), max(bond)) for bond in both))

        unsaturated = tuple(sorted(place[i] for i in self.open_valences if i in place))
        atoms = tuple(self.atoms[i] for i in indices)
        return Topology(atoms, taken(self.bonds), unsaturated, taken(self.virtual_bonds))

    def require_same(self, other: Topology, ours: str, theirs: str) -> None:
        """Raise a `TopologyError` unless ``other`` is this molecule: equal elements, bonds and names, in one order.

        A topology without bonds does not know them, and they are not compared. Names are compared residue by residue
        where both sides use the same names: other names are another convention, not another order.

        Args:
            other: The topology found elsewhere.
            ours: What this topology belongs to, for the message.
            theirs: What the other one belongs to, for the message.
        """
        order = self.order_by_names(other)
        moved = [(i, j) for i, j in enumerate(order) if i != j]
        if len(moved) == 2:
            do = f"Exchange atoms {moved[0][0]} and {moved[0][1]} in {theirs}."
        else:
            do = f"Put the atoms of {theirs} into this order: {', '.join(map(str, order))}."
        try:
            self.require_elements(other.elements, ours, theirs)
            self.require_bonds(other, ours, theirs)
        except TopologyError as error:
            if moved:
                raise TopologyError(f"{error} {do}") from error
            raise
        if moved:
            i, j = moved[0]
            raise TopologyError(
                f"Atom order differs between {ours} and {theirs}: atom {i} is {self.atoms[i]} in the first and "
                f"{other.atoms[i]} in the second, which has {self.atoms[i]} as atom {j}. {do}"
            )

    def require_elements(self, elements: tuple[str, ...], ours: str, theirs: str) -> None:
        """Raise a `TopologyError` unless ``elements``, which are all that is known, are this topology's, in order.

        Args:
            elements: Element symbols found elsewhere.
            ours: What this topology belongs to, for the message.
            theirs: Where ``elements`` come from, for the message.
        """
        if len(elements) != len(self):
            raise TopologyError(
                f"{ours} has {len(self)} atoms and {theirs} has {len(elements)}. Use the molecule that it was made for."
            )
        for i, (mine, other) in enumerate(zip(self.elements, elements, strict=True)):
            if mine != other:
                raise TopologyError(
                    f"Atom order differs between {ours} and {theirs}: atom {i} is {mine} in the first and {other} in "
                    "the second. Reorder the atoms, or train a model on this order."
                )

    def order_by_names(self, other: Topology) -> list[int]:
        """For each atom the one in ``other`` that has its name in its residue, where both use the same names there.

        Residues whose names differ, or are not unique, stay as they are. The residues must be the same ones in order.
        """
        order = list(range(len(self)))
        if len(other) != len(self):
            return order
        by_residue: dict[int, list[int]] = {}
        for i, atom in enumerate(self.atoms):
            by_residue.setdefault(atom.residue_index, []).append(i)
        theirs: dict[int, list[int]] = {}
        for i, atom in enumerate(other.atoms):
            theirs.setdefault(atom.residue_index, []).append(i)
        for mine, found in zip(by_residue.values(), theirs.values(), strict=False):
            places = {other.atoms[j].name: j for j in found}
            names = {self.atoms[i].name for i in mine}
            if len(mine) == len(found) == len(names) and names == set(places):
                for i in mine:
                    order[i] = places[self.atoms[i].name]
        return order if sorted(order) == list(range(len(order))) else list(range(len(order)))

    def require_bonds(self, other: Topology, ours: str, theirs: str) -> None:
        """Raise a `TopologyError` unless ``other``, with the same elements, has the same bonds; see `require_same`.

        Virtual bonds are known to one side alone, or are those of a molecule to the other: they are not compared.
        """
        if not self.bonds or not other.bonds:
            return
        virtual = {*self.virtual_bonds, *other.virtual_bonds}
        different = sorted((set(self.bonds) ^ set(other.bonds)) - virtual)
        if different:
            first, second = different[0]
            here, there = (ours, theirs) if (first, second) in self.bonds else (theirs, ours)
            raise TopologyError(
                f"Bonds differ between {ours} and {theirs}: atoms {first} ({self.atoms[first]}) and {second} "
                f"({self.atoms[second]}) are bonded in {here} but not in {there}. Atoms of one element seem to be in "
                "another order; reorder them, or train a model on this order."
            )

    def require_bond_lengths(self, positions: Float[np.ndarray, "atoms 3"]) -> None:
        """Raise a `GeometryError` if bonded atoms are not a bond apart: in a wrong unit, order or periodic image.

        Args:
            positions: nm, of one configuration.
        """
        self.require_unit(positions)
        shortest, longest = BOND_LENGTHS
        lengths = self._bond_lengths(positions)
        if not ((lengths < shortest) | (lengths > longest)).any():
            return
        for (i, j), length in zip(self.chemical_bonds, lengths, strict=True):
            if length < shortest or length > longest:
                raise GeometryError(
                    f"The bond of atoms {i} ({self.atoms[i]}) and {j} ({self.atoms[j]}) is {length:.2g} nm long. Check "
                    "the order of the atoms, and make the molecule whole if a periodic boundary cuts it."
                )

    def require_unit(self, positions: Float[np.ndarray, "atoms 3"]) -> None:
        """Raise a `GeometryError` if most bonds have a length that no bond has: positions (nm) in a wrong unit."""
        if not self.chemical_bonds:
            return
        shortest, longest = BOND_LENGTHS
        lengths = self._bond_lengths(positions)
        middle = float(np.median(lengths))
        # of a molecule that is torn, most bonds are whole
        if float(np.quantile(lengths, 0.1)) > longest:
            raise GeometryError(
                f"Bonds are about {middle:.2g} nm long: positions in Å seem to have been taken for nm. Divide them by "
                "10."
            )
        if float(np.quantile(lengths, 0.9)) < shortest:
            raise GeometryError(
                f"Bonds are about {middle:.2g} nm long: positions in nm seem to have been taken for Å. Multiply them "
                "by 10."
            )

    def _bond_lengths(self, positions: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "bonds"]:
        first, second = np.array(self.chemical_bonds, dtype=int).reshape(-1, 2).T
        return np.asarray(np.linalg.norm(positions[first] - positions[second], axis=1))
