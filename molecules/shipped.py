"""Structures that come with the package."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UnknownNameError

FOLDER = Path(__file__).parent / "structures"


def molecule_names() -> list[str]:
    """The names that `molecule_path` knows."""
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
