"""Files that are complete or not there."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from .errors import FileFormatError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under its final name, complete or not at all: to a temporary neighbour, synced, then renamed.

    Raises:
        FileFormatError: If the folder is missing or not writable, or the disk is full; nothing is left behind.
    """
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # temporary files are private; the final one has the permissions of any other new file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise FileFormatError(f'"{path}" cannot be written: {error.strerror or error}.') from error
    finally:
        # Ctrl-C and SIGTERM leave nothing behind either
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
