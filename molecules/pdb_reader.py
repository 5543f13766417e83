"""The PDB format: what its columns say, and nothing that they do not.

Elements come from the element column, or else from the alignment of the atom's name: with a space before it CA is a
carbon, without one it is calcium. Where a file shifts its names to the left, alignment says nothing, and only residues
that everybody knows have elements. Charges, alternate locations, insertion codes, hybrid-36 numbers, CONECT records and
models are read here; what is bonded to what in standard residues is left to OpenMM or MDTraj, which read
`PDBFileContent.text`.

Reference: wwPDB, Atomic Coordinate Entry Format, version 3.3.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ..core.errors import FileFormatError, TopologyError
from .elements import ELEMENTS
from .pdb import STANDARD_RESIDUES

ORGANIC_RESIDUES = frozenset(
    (
        *STANDARD_RESIDUES,
        *("ACE", "NME", "NMA", "NH2", "NHE", "FOR", "HID", "HIE", "HIP", "HSD", "HSE", "HSP", "CYX"),
        *("CYM", "ASH", "GLH", "LYN", "MSE", "SEC", "PYL", "A", "C", "G", "U", "T", "DA", "DC", "DG", "DT", "DU"),
        *("HOH", "WAT", "TIP", "SOL"),
    )
)
"""Residues whose atoms are H, C, N, O, P, S and Se, named by their elements' letters."""

ISOTOPES = ("D", "T")
"""Symbols of hydrogen's isotopes."""

TWO_LETTERS_ALWAYS = ("CL", "BR")
"""No carbon is named CL, and no boron BR."""

CHARGE = re.compile(r"(\d)([+-])|([+-])(\d)|([+-])")
SIGNED = re.compile(r"\d[+-]|[+-]\d")
"""A charge, and no end of a line's number."""


class StructureWarning(UserWarning):
    """Something in a structure file that was left out."""


class _AtomLine(NamedTuple):
    """One ATOM or HETATM record."""

    record: str
    serial: str
    name: str
    alternate: str
    residue: str
    chain_and_number: str
    element_column: str
    charge_column: str
    occupancy: float
    place: tuple[float, float, float]

    @property
    def residue_key(self) -> tuple[str, str]:
        return self.chain_and_number, self.residue.strip()

    @property
    def key(self) -> tuple[str, str, str]:
        return *self.residue_key, self.name.strip()

    def __str__(self) -> str:
        return " ".join(f"{self.serial} {self.name} {self.residue} {self.chain_and_number}".split())


@dataclass(frozen=True)
class PDBFileContent:
    """What a PDB file holds.

    Attributes:
        text: The first model in plain columns, every element in its column, no alternate locations.
        positions: nm, of all models.
        charges: Formal charge of each atom, in units of e; None if the file says none.
    """

    text: str
    positions: Float[np.ndarray, "models atoms 3"]
    charges: tuple[int, ...] | None


def parse_pdb(text: str, source: str) -> PDBFileContent:
    """Read the text of a PDB file, which messages call ``source``.

    Raises:
        FileFormatError: If a record cannot be read, or models differ in their atoms or in their order.
        TopologyError: If an element cannot be told, or an atom is there twice.
    """
    models, connections, ends = _records(text, source)
    if not models:
        raise FileFormatError(f"{source} has no atoms. Give a PDB file with ATOM or HETATM records.")
    dropped: set[str] = set()
    models = [_one_location(model, dropped) for model in models]
    if dropped:
        warnings.warn(
            f"{source} has alternate locations: of residues {', '.join(sorted(dropped)[:5])} those of the highest "
            "occupancy are read.",
            StructureWarning,
            stacklevel=4,
        )
    first = models[0]
    _require_same_atoms(models, source)
    count = Counter(atom.key for atom in first)
    twice = [atom for atom in first if count[atom.key] > 1]
    if twice:
        raise TopologyError(f"{source} has an atom twice: {twice[0]}. Remove one of the two.")
    elements = _elements(first, source)
    return PDBFileContent(
        _plain(first, elements, connections, ends),
        np.array([[atom.place for atom in model] for model in models]) / 10,
        _charges(first, source),
    )


def _records(text: str, source: str) -> tuple[list[list[_AtomLine]], list[list[str]], set[str]]:
    """The models, the serial numbers of CONECT records, and those of atoms that end a chain."""
    models: list[list[_AtomLine]] = []
    connections: list[list[str]] = []
    ends: set[str] = set()
    begins, periodic = True, False
    # str.splitlines ends lines at letters that comments may hold, too
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        record = line[:6].strip().upper()
        if record in ("ATOM", "HETATM"):
            if begins:
                models.append([])
                begins = False
            models[-1].append(_atom_line(line, f"{source}, line {number}"))
        elif record in ("MODEL", "ENDMDL", "END"):
            begins = True
        elif record == "TER" and models and len(models) == 1 and models[0]:
            ends.add(models[0][-1].serial)
        elif record == "CRYST1":
            periodic = periodic or _has_box(line)
        elif record == "CONECT":
            connections.append([line[start : start + 5].strip() for start in range(6, min(len(line), 31), 5)])
    if periodic:
        warnings.warn(
            f"{source} has a periodic box (CRYST1), which is left out: the molecule is taken to be whole, and in free "
            "space.",
            StructureWarning,
            stacklevel=5,
        )
    return models, connections, ends


def _has_box(line: str) -> bool:
    """Whether a CRYST1 record describes a box: a cell of 1 Å says that there is none."""
    try:
        return any(float(line[start : start + 9]) > 1 for start in (6, 15, 24))
    except ValueError:
        return False


def _atom_line(line: str, where: str) -> _AtomLine:
    # a last number that is cut would be another one
    is_whole = len(line.rstrip()) >= 54 or line.endswith(" ")
    line = line.ljust(80)
    try:
        if not is_whole or "_" in line[30:54]:
            raise ValueError
        x, y, z = (float(line[start : start + 8]) for start in (30, 38, 46))
    except ValueError as error:
        raise FileFormatError(
            f'{where}: "{line[30:54].strip()}" in columns 31 to 54 are not three coordinates. The file may be '
            "truncated, or of another format."
        ) from error
    try:
        occupancy = float(line[54:60])
    except ValueError:
        occupancy = 1.0
    return _AtomLine(
        line[:6].strip().upper(),
        line[6:11].strip(),
        line[12:16],
        line[16].strip(),
        # some programs write four letters
        line[17:21],
        line[21:27],
        line[76:78].strip(),
        line[78:80].strip(),
        occupancy,
        (x, y, z),
    )


def _one_location(atoms: list[_AtomLine], dropped: set[str]) -> list[_AtomLine]:
    """The alternate locations with the highest occupancy of their residue; the first of equals."""
    occupancy: dict[tuple[str, str], dict[str, float]] = {}
    for atom in atoms:
        if atom.alternate:
            # residues of two kinds at one place are alternatives, too
            found = occupancy.setdefault((atom.chain_and_number, ""), {})
            found[atom.alternate] = found.get(atom.alternate, 0.0) + atom.occupancy
    if not occupancy:
        return atoms
    best = {place: max(found, key=lambda location: found[location]) for place, found in occupancy.items()}
    dropped |= {place.strip() for place, _ in (key for key, found in occupancy.items() if len(found) > 1)}
    return [a for a in atoms if not a.alternate or a.alternate == best[a.chain_and_number, ""]]


def _require_same_atoms(models: list[list[_AtomLine]], source: str) -> None:
    first = models[0]
    keys = [atom.key for atom in first]
    for number, model in enumerate(models[1:], start=2):
        if len(model) != len(first):
            raise FileFormatError(
                f"{source}: model {number} has {len(model)} atoms and model 1 has {len(first)}. Give models of one "
                "molecule, each of them whole."
            )
        for i, (key, atom) in enumerate(zip(keys, model, strict=True)):
            if atom.key != key:
                raise FileFormatError(
                    f"{source}: model {number} lists its atoms in another order than model 1: atom {i} is {atom} in "
                    f"model {number} and {first[i]} in model 1. Write all models in one order."
                )
            if _said(atom) is not None and _said(first[i]) is not None and _said(atom) != _said(first[i]):
                raise FileFormatError(
                    f"{source}: atom {i} ({atom}) has another element or charge in model {number} than in model 1. "
                    "Give models of one molecule."
                )


def _said(atom: _AtomLine) -> tuple[str, str] | None:
    """Element and charge, where the columns at the end of a line hold them."""
    symbol = _symbol(atom.element_column)
    return None if symbol is None else (symbol, atom.charge_column)


def _elements(atoms: list[_AtomLine], source: str) -> list[str]:
    sizes = Counter(atom.residue_key for atom in atoms)
    # a name like "N   " begins a column too early, and then all of them may
    is_shifted = any(
        len(atom.name.strip()) < 4
        and atom.name[0].isalpha()
        and not atom.name.startswith("SE")
        and (atom.residue.strip() in ORGANIC_RESIDUES or _symbol(atom.name[:2]) is None)
        and sizes[atom.residue_key] > 1
        for atom in atoms
    )
    return [_element(atom, sizes[atom.residue_key], is_shifted, source) for atom in atoms]


def _element(atom: _AtomLine, residue_size: int, is_shifted: bool, source: str) -> str:
    given = _symbol(atom.element_column)
    if given is not None:
        return given
    if atom.element_column.upper() in ISOTOPES:
        raise TopologyError(
            f"{source}: atom {atom} is deuterium or tritium. Isotopes have no masses of their own here: write H into "
            "columns 77-78 if that of hydrogen will do."
        )
    if atom.element_column.isalpha():
        raise TopologyError(
            f'{source}: atom {atom} is of the element "{atom.element_column}", which does not exist. Virtual sites '
            "have no internal coordinates; otherwise correct columns 77-78."
        )
    name = atom.name.strip().upper()
    letters = name.lstrip("0123456789'")
    one, two = _symbol(letters[:1]), _symbol(letters[:2]) if len(letters) > 1 else None
    residue = atom.residue.strip().upper()
    if residue_size == 1 and _symbol(residue.rstrip("0123456789+-")) is not None and residue[:2] == name[:2]:
        return _symbol(residue.rstrip("0123456789+-")) or ""
    if residue in ORGANIC_RESIDUES:
        found = "Se" if letters.startswith("SE") and residue in ("MSE", "SEC") else one
    elif letters[:2] in TWO_LETTERS_ALWAYS:
        found = None if atom.name.startswith(" ") else two
    elif two is None or name != letters or (letters.startswith("H") and len(name) == 4):
        found = one
    elif atom.name.startswith(" "):
        found = one if not atom.name.startswith("  ") else None
    elif is_shifted or len(name) == 4:
        found = None
    else:
        found = two
    if found is None:
        raise TopologyError(
            f'{source}: the element of atom {atom} cannot be told from its name "{atom.name}". Write elements into '
            "columns 77-78 (openmm.app.PDBFile.writeFile and most other programs do), or align names: elements of one "
            "letter begin in column 14."
        )
    return found


def _symbol(text: str) -> str | None:
    symbol = text.strip().capitalize()
    return symbol if symbol in ELEMENTS else None


def _charges(atoms: list[_AtomLine], source: str) -> tuple[int, ...] | None:
    # in old files the last columns hold the number of the line
    columns = [
        atom.charge_column if _symbol(atom.element_column) or SIGNED.fullmatch(atom.charge_column) else ""
        for atom in atoms
    ]
    if not any(columns):
        return None
    return tuple(_charge(column, atom, source) for column, atom in zip(columns, atoms, strict=True))


def _charge(column: str, atom: _AtomLine, source: str) -> int:
    if column in ("", "0"):
        return 0
    match = CHARGE.fullmatch(column)
    if match is None:
        raise FileFormatError(
            f'{source}: the charge "{column}" of atom {atom} in columns 79-80 is not one like 1- or 2+. Correct it.'
        )
    size, sign = match[1] or match[4] or "1", match[2] or match[3] or match[5]
    return int(f"{sign}{size}")


def _plain(atoms: list[_AtomLine], elements: list[str], connections: list[list[str]], ends: set[str]) -> str:
    """The first model as any reader understands it: numbers of atoms and residues count from 1."""
    lines = []
    residue, last = 0, None
    for i, (atom, element) in enumerate(zip(atoms, elements, strict=True)):
        residue += atom.residue_key != last
        last = atom.residue_key
        place = "".join(f"{x:8.3f}"[:8] for x in atom.place)
        lines.append(
            f"{atom.record:<6}{(i + 1) % 100000:5d} {atom.name} {atom.residue}{atom.chain_and_number[0]}"
            f"{residue % 10000:4d}    {place}  1.00  0.00          {element.upper():>2}"
        )
        if atom.serial in ends:
            lines.append("TER")
    number = {atom.serial: i + 1 for i, atom in enumerate(atoms)}
    for serials in connections:
        known = [number[serial] for serial in serials if serial in number]
        if len(known) > 1 and serials[0] in number:
            lines.append("CONECT" + "".join(f"{n:5d}" for n in known))
    return "\n".join([*lines, "END", ""])
