"""Structures as they are named: the path of a file, a molecule that comes with the package, or a SMILES string."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from ..core.errors import FileFormatError, UnknownNameError
from .shipped import molecule_path

SMILES = re.compile(r"(Cl|Br|[BCNOPSFI]|[bcnops]|\[[^\[\]\s]+\]|[-=#$:/\\.~*()]|%[0-9]{2}|[0-9])+", re.ASCII)
"""Text that consists of tokens of SMILES; RDKit decides whether it is a SMILES string."""

LONGEST_NAME = 100
"""Characters of a SMILES string that stand in a file's name."""


def is_smiles(name: str) -> bool:
    """Whether a name that is not a file's and no molecule's can only be meant as a SMILES string."""
    return SMILES.fullmatch(name) is not None and any(letter.isalpha() for letter in name)


@contextmanager
def structure_file(name: str | Path) -> Iterator[Path]:
    """A structure file by its path, of a molecule by its name, or made of a SMILES string while it is needed.

    The file of a SMILES string holds the string, and whoever reads it embeds the molecule with one fixed seed: the
    atoms and their positions are the same every time.

    Raises:
        FileFormatError: If it is a path that leads to no file.
        UnknownNameError: If it is none of the three.
    """
    text = str(name)
    path = _path(text)
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / f"{quote(text, safe='()=[]@+#')[:LONGEST_NAME]}.smi"
        written.write_text(f"{text}\n", encoding="utf-8")
        yield written


def absolute_name(name: str | Path) -> str:
    """The same structure as it is named from any folder: the full path of a file, or the SMILES string.

    Raises:
        SmoothflowError: As `structure_file` does.
    """
    path = _path(str(name))
    return str(name) if path is None else str(path.resolve())


def _path(name: str) -> Path | None:
    """The file that a name means; None for a SMILES string."""
    path = Path(name)
    try:
        if path.is_file():
            return path
        return molecule_path(name)
    except (OSError, UnknownNameError) as error:
        # the system refuses long names as those of files
        if is_smiles(name):
            return None
        if isinstance(error, OSError):
            raise FileFormatError(f'"{name}" cannot be read: {error.strerror}.') from error
        if path.suffix or len(path.parts) > 1:
            raise FileFormatError(
                f'There is no file "{name}". Give the path of a PDB, mmCIF, SDF or SMILES file, the name of a molecule '
                "that comes with the package, or a SMILES string."
            ) from error
        raise
