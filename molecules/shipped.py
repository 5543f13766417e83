"""Structures that come with the package."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UnknownNameError

AMBER = "openmm:amber99sbildn.xml,amber99_obc.xml"
"""The default force field: Amber ff99SB-ILDN with OBC implicit solvent, no cutoff, no constraints."""

FOLDER = Path(__file__).parent / "structures"


def molecule_names() -> list[str]:
    """Names of the molecules that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.pdb"))


def molecule_path(name: str) -> Path:
    """The PDB file of a molecule that comes with the package.

    Raises:
        UnknownNameError: If there is none of that name.
    """
    path = FOLDER / f"{name}.pdb"
    if not path.is_file():
        raise UnknownNameError("molecule", name, molecule_names())
    return path
