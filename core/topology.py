"""What a molecule is made of: elements, names, residues and bonds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import TopologyError


@dataclass(frozen=True)
class Atom:
    """One atom: its element's symbol, its name in the residue, and the residue it belongs to."""

    element: str
    name: str
    residue_name: str
    residue_index: int

    def __str__(self) -> str:
        return f"{self.residue_name}{self.residue_index + 1}-{self.name}"


@dataclass(frozen=True)
class Topology:
    """Atoms in order, and bonds as pairs of atom indices (smaller first, sorted)."""

    atoms: tuple[Atom, ...]
    bonds: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for first, second in self.bonds:
            if not 0 <= first < second < len(self.atoms):
                raise TopologyError(
                    f"Bond ({first}, {second}) does not join two of the {len(self.atoms)} atoms, smaller index first."
                )

    def __len__(self) -> int:
        return len(self.atoms)

    @property
    def elements(self) -> tuple[str, ...]:
        """The element symbol of each atom."""
        return tuple(atom.element for atom in self.atoms)

    def to_dict(self) -> dict[str, Any]:
        """The topology in plain JSON types; `from_dict` reads it back."""
        return {
            "atoms": [[atom.element, atom.name, atom.residue_name, atom.residue_index] for atom in self.atoms],
            "bonds": [list(bond) for bond in self.bonds],
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
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise TopologyError(f"This is no topology: {type(error).__name__}: {error}.") from error
        return cls(atoms, bonds)

    def neighbours(self) -> list[list[int]]:
        """The atoms bonded to each atom, in increasing order."""
        lists: list[list[int]] = [[] for _ in self.atoms]
        for first, second in self.bonds:
            lists[first].append(second)
            lists[second].append(first)
        return [sorted(neighbours) for neighbours in lists]

    def require_elements(self, elements: tuple[str, ...], ours: str, theirs: str) -> None:
        """Raise a `TopologyError` unless ``elements`` are this topology's, in order.

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
