"""Writing PDB files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from ..core.errors import FileFormatError
from ..core.files import write_atomically
from ..core.topology import Topology
from ..core.units import ANGSTROM

STANDARD_RESIDUES = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE"),
    *("LEU", "LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL"),
)


def write_pdb(
    topology: Topology, positions: Float[Tensor, "frames atoms 3"], path: str | Path, title: str = ""
) -> None:
    """Write positions (nm) as a PDB file, one model per frame, with every bond as a CONECT record.

    The file appears under its name only when it is complete.

    Raises:
        FileFormatError: If a name or a coordinate does not fit into the columns of the format, or the file cannot be
            written.
    """
    content = "".join(f"{line}\n" for line in _lines(topology, positions, title))
    write_atomically(Path(path), content.encode("ascii", errors="replace"))


def _lines(topology: Topology, positions: Float[Tensor, "frames atoms 3"], title: str) -> Iterator[str]:
    if title:
        yield f"TITLE     {title}"[:80]
    for number, frame in enumerate((positions.detach().cpu().double() / ANGSTROM).tolist(), start=1):
        if len(positions) > 1:
            yield f"MODEL     {number:4d}"
        for i in range(len(topology)):
            yield _atom_line(topology, i, frame[i])
        last = topology.atoms[-1]
        yield f"TER   {len(topology) + 1:5d}      {last.residue_name:>3} A{last.residue_index + 1:4d}"
        if len(positions) > 1:
            yield "ENDMDL"
    for i, bonded in enumerate(topology.neighbours()):
        for start in range(0, len(bonded), 4):
            yield f"CONECT{i + 1:5d}" + "".join(f"{j + 1:5d}" for j in bonded[start : start + 4])
    yield "END"


def _atom_line(topology: Topology, i: int, place: list[float]) -> str:
    atom = topology.atoms[i]
    record = "ATOM" if atom.residue_name in STANDARD_RESIDUES else "HETATM"
    # one-letter elements start in column 14, unless the name fills all four
    name = f" {atom.name:<3}" if len(atom.element) == 1 and len(atom.name) < 4 else f"{atom.name:<4}"
    coordinates = "".join(f"{x:8.3f}" for x in place)
    fits = len(name) == 4 and len(coordinates) == 24 and len(atom.residue_name) <= 4 and atom.residue_index < 9999
    if not fits or i >= 99999:
        raise FileFormatError(
            f"Atom {i} ({atom}) at {coordinates} Å does not fit into the columns of the PDB format. Write another "
            "format, or shorten the names and centre the positions."
        )
    return (
        f"{record:<6}{i + 1:5d} {name} {atom.residue_name:>3}".ljust(21) + f"A{atom.residue_index + 1:4d}    "
        f"{coordinates}  1.00  0.00          {atom.element.upper():>2}"
    )
