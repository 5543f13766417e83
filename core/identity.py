"""What tells a configuration of a molecule from another's: the signs of its stereocentres, its bonds and its angles.

Elements, bonds and names cannot tell a molecule from its mirror image, nor one hydrogen of a methyl group from another.
A density on internal coordinates can, and gives energies without meaning to the wrong one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from .errors import FileFormatError, GeometryError
from .topology import Topology, atom_name

FAR = 10.0
"""Widths from its location at which an internal coordinate is not one of the molecule's: 50 kT in a harmonic well."""

DISTORTION = {2: 0.1, 3: 1.4, 4: 1.4}
"""Deviations in nm (bonds) and radians (angles, torsions) that count at least: a crude guess of a structure, or atoms
displaced at random by 0.015 nm, are distorted less; an improper torsion of the other sign is 2.1 radians off."""

MAX_INVOLVED = 60
"""Atoms of faulty coordinates up to which all pairs of one element are tried for an exchange that mends them."""


@dataclass(frozen=True)
class Coordinate:
    """A bond, an angle or a torsion that the data hold within a narrow range.

    Attributes:
        atoms: Two, three or four.
        location: nm or radians.
        width: Standard deviation, nm or radians.
    """

    atoms: tuple[int, ...]
    location: float
    width: float


@dataclass(frozen=True)
class Geometry:
    """The internal coordinates of a molecule that are known to be narrow: improper torsions above all."""

    coordinates: tuple[Coordinate, ...]

    def to_list(self) -> list[list[Any]]:
        """The geometry in plain JSON types; `from_list` reads it back."""
        return [[list(c.atoms), c.location, c.width] for c in self.coordinates]

    @classmethod
    def from_list(cls, data: Any) -> Geometry:
        """The geometry that `to_list` wrote.

        Raises:
            FileFormatError: If ``data`` is something else.
        """
        try:
            coordinates = tuple(
                Coordinate(tuple(int(i) for i in atoms), float(location), float(width))
                for atoms, location, width in data
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise FileFormatError(f"Not the geometry of a molecule: {type(error).__name__}: {error}.") from error
        if not all(len(c.atoms) in DISTORTION and min(c.atoms) >= 0 and c.width > 0 for c in coordinates):
            raise FileFormatError("Not the geometry of a molecule: it has coordinates that are not bonds or torsions.")
        return cls(coordinates)

    def faults(self, positions: Float[np.ndarray, "atoms 3"]) -> Bool[np.ndarray, "coordinates"]:
        """Which coordinates of a configuration (nm) are nowhere near the molecule's."""
        deviation = np.abs(self.deviations(positions))
        # nothing is said of what is not defined, like a torsion of overlapping atoms
        return np.asarray((deviation > FAR * self.widths) & (deviation > self._distortion))

    def require(self, positions: Float[np.ndarray, "atoms 3"], topology: Topology) -> None:
        """Raise a `GeometryError` unless a configuration (nm) is one of the molecule; says which atoms to exchange."""
        faults = self.faults(positions)
        if faults.any():
            raise GeometryError(self._explanation(positions, topology, faults))

    @cached_property
    def _groups(self) -> list[tuple[Int[np.ndarray, "group"], Int[np.ndarray, "size group"]]]:
        """Places of the bonds, of the angles and of the torsions, and their atoms."""
        groups = []
        for size in DISTORTION:
            places = [i for i, c in enumerate(self.coordinates) if len(c.atoms) == size]
            atoms = np.array([self.coordinates[i].atoms for i in places], dtype=int).reshape(-1, size)
            groups.append((np.array(places, dtype=int), atoms.T))
        return groups

    @cached_property
    def _locations(self) -> Float[np.ndarray, "coordinates"]:
        return np.array([c.location for c in self.coordinates])

    @cached_property
    def widths(self) -> Float[np.ndarray, "coordinates"]:
        """Standard deviations in the data, nm and radians."""
        return np.array([c.width for c in self.coordinates])

    @cached_property
    def _distortion(self) -> Float[np.ndarray, "coordinates"]:
        return np.array([DISTORTION[len(c.atoms)] for c in self.coordinates])

    def deviations(self, positions: Float[np.ndarray, "atoms 3"]) -> Float[np.ndarray, "coordinates"]:
        """The coordinates of a configuration (nm) less their locations, nm and radians; torsions the shorter way."""
        x = positions
        values = np.empty(len(self.coordinates))
        (bonds, ends), (angles, corners), (torsions, four) = self._groups
        values[bonds] = np.linalg.norm(x[ends[0]] - x[ends[1]], axis=1)
        u, v = x[corners[0]] - x[corners[1]], x[corners[2]] - x[corners[1]]
        values[angles] = np.arctan2(np.linalg.norm(np.cross(u, v), axis=1), (u * v).sum(1))
        u, v, w = x[four[0]] - x[four[1]], x[four[2]] - x[four[1]], x[four[3]] - x[four[2]]
        uv, vw = np.cross(u, v), np.cross(v, w)
        values[torsions] = np.arctan2(-np.linalg.norm(v, axis=1) * (u * vw).sum(1), -(uv * vw).sum(1))
        deviation: Float[np.ndarray, "coordinates"] = values - self._locations
        deviation[torsions] -= 2 * np.pi * np.round(deviation[torsions] / (2 * np.pi))
        return deviation

    def _explanation(
        self, positions: Float[np.ndarray, "atoms 3"], topology: Topology, faults: Bool[np.ndarray, "coordinates"]
    ) -> str:
        exchanges, left = self._repair(positions, topology)
        if not left.any():
            listed = ", then ".join(f"{atom_name(topology, i)} and {atom_name(topology, j)}" for i, j in exchanges)
            return f"Check the order of the atoms: it is not the model's. Exchange {listed}."
        topology.require_bond_lengths(positions)
        mirrored = not self.faults(positions * [1.0, 1.0, -1.0]).any()
        centres = sorted(
            {
                c.atoms[1]
                for c, wrong in zip(self.coordinates, left, strict=True)
                if wrong and len(c.atoms) == 4 and _joined(topology, c)
            }
        )
        names = " and ".join(atom_name(topology, i) for i in centres)
        if mirrored:
            at = f": the handedness of {names} is the other one" if names else ""
            return f"This is the mirror image of the model's molecule{at}. Use the molecule that it was made for."
        if names:
            return (
                f"This is another stereoisomer of the model's molecule: the handedness of {names} is the other one. "
                "Use the molecule that it was made for."
            )
        deviation = np.abs(self.deviations(positions)) / self.widths
        worst = int(np.where(faults, deviation, 0).argmax())
        coordinate = self.coordinates[worst]
        kind, unit = {2: ("bond", "nm"), 3: ("angle", "rad"), 4: ("torsion", "rad")}[len(coordinate.atoms)]
        value = coordinate.location + self.deviations(positions)[worst]
        atoms = ", ".join(atom_name(topology, i) for i in coordinate.atoms)
        return (
            f"The {kind} of {atoms} is {value:.3g} {unit}, {deviation[worst]:.0f} widths from the "
            f"{coordinate.location:.3g} {unit} of the model's data. Check the order of the atoms, make the molecule "
            "whole if a periodic boundary cuts it, and start from a configuration like those of the data."
        )

    def _repair(
        self, positions: Float[np.ndarray, "atoms 3"], topology: Topology
    ) -> tuple[list[tuple[int, int]], Bool[np.ndarray, "coordinates"]]:
        """Exchanges of atoms that each leave fewer faults, one after the other, and the faults that are left."""
        x, faults = positions, self.faults(positions)
        branches, atoms = list(_equal_branches(topology)), list(self._equal_atoms(topology, faults))
        for pairs in (*branches, *atoms):
            if not self.faults(_exchanged(x, pairs)).any():
                return pairs, np.zeros_like(faults)
        exchanges: list[tuple[int, int]] = []
        # twice, since an exchange of branches may leave one inside of them
        for pairs in (*branches, *branches, *atoms):
            after = _exchanged(x, pairs)
            found = self.faults(after)
            if found.sum() < faults.sum():
                x, faults = after, found
                exchanges += pairs
        return exchanges, faults

    def _equal_atoms(
        self, topology: Topology, faults: Bool[np.ndarray, "coordinates"]
    ) -> Iterator[list[tuple[int, int]]]:
        """Pairs of atoms of one element in the faulty coordinates, while they are few."""
        involved = sorted({i for c, wrong in zip(self.coordinates, faults, strict=True) if wrong for i in c.atoms})
        elements = topology.elements
        for i in involved if len(involved) <= MAX_INVOLVED else ():
            yield from ([(i, j)] for j in involved if j > i and elements[i] == elements[j])


def _exchanged(x: Float[np.ndarray, "atoms 3"], pairs: list[tuple[int, int]]) -> Float[np.ndarray, "atoms 3"]:
    x = x.copy()
    for i, j in pairs:
        x[[i, j]] = x[[j, i]]
    return x


def _joined(topology: Topology, coordinate: Coordinate) -> bool:
    """Whether a torsion is an improper one, of three atoms about the one that they are bonded to."""
    bonds = set(topology.bonds)
    a, b, c, d = coordinate.atoms
    return all((min(b, i), max(b, i)) in bonds for i in (a, c, d))


def _equal_branches(topology: Topology) -> Iterator[list[tuple[int, int]]]:
    """Pairs of equal branches at one atom, as the pairs of their atoms: the hydrogens of a methyl group above all."""
    neighbours = topology.neighbours()
    # atoms have one rank if they look alike from any distance
    ranks = _ranked(topology.elements)
    while True:
        seen = [sorted(ranks[i] for i in near) for near in neighbours]
        refined = _ranked([(rank, *others) for rank, others in zip(ranks, seen, strict=True)])
        if max(refined) == max(ranks):
            break
        ranks = refined

    def branch(centre: int, start: int) -> list[int]:
        reached = [start]
        for atom in reached:
            new = {i for i in neighbours[atom] if i != centre and i not in reached}
            reached += sorted(new, key=lambda i: (ranks[i], i))
        return reached

    for centre in range(len(topology)):
        for first, second in combinations(neighbours[centre], 2):
            if ranks[first] == ranks[second]:
                one, other = branch(centre, first), branch(centre, second)
                if len(one) == len(other) and not set(one) & set(other):
                    yield list(zip(one, other, strict=True))


def _ranked(keys: Sequence[Any]) -> list[int]:
    """The place of each key among the different ones in order."""
    numbers = {key: n for n, key in enumerate(sorted(set(keys)))}
    return [numbers[key] for key in keys]
