"""Files that are complete or not there."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path

from .errors import FileFormatError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under its final name, complete or not at all: to a temporary neighbour, synced, then renamed.

    Raises:
        FileFormatError: If the folder is missing or not writable, or the disk is full; nothing is left behind.
    """
    # named before it is made, so that Ctrl-C and SIGTERM leave nothing behind either
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise FileFormatError(f'"{path}" cannot be written: {error.strerror or error}.') from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
