"""Files that grow at their end by whole pieces."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.errors import ConfigurationError, FileFormatError
from ..core.files import require_in_place


class AppendedFile:
    """A file to which pieces of bytes are appended, each whole or not at all.

    Args:
        path: Its name.
        n_bytes: None for a new file; otherwise how many bytes, from the first, to go on from.

    Raises:
        ConfigurationError: If a new file is there already.
        FileFormatError: If the file cannot be written, or has fewer bytes.
    """

    def __init__(self, path: Path, n_bytes: int | None = None) -> None:
        self.path = path
        # what a link leads to is not this run's
        flags = os.O_EXCL if n_bytes is None else os.O_NOFOLLOW
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
        except FileExistsError as error:
            raise ConfigurationError(f'"{path}" exists already. Remove it, or give another name.') from error
        except OSError as error:
            raise FileFormatError(f'"{path}" cannot be written: {error.strerror}.') from error
        size = os.fstat(self._descriptor).st_size
        self.n_bytes = n_bytes or 0
        if size < self.n_bytes:
            os.close(self._descriptor)
            raise FileFormatError(f'"{path}" is shorter than the run that it is to go on with. Start that run anew.')
        os.ftruncate(self._descriptor, self.n_bytes)

    def append(self, piece: bytes) -> None:
        """Add a piece.

        Raises:
            FileFormatError: If the disk is full; the file stays as it was.
        """
        try:
            done = 0
            while done < len(piece):
                done += os.pwrite(self._descriptor, piece[done:], self.n_bytes + done)
        except OSError as error:
            os.ftruncate(self._descriptor, self.n_bytes)
            raise self._unwritten(error) from error
        self.n_bytes += len(piece)

    def overwrite(self, place: int, piece: bytes) -> None:
        """Replace bytes that are there."""
        try:
            os.pwrite(self._descriptor, piece, place)
        except OSError as error:
            raise self._unwritten(error) from error

    def sync(self) -> None:
        """Sync it to disk.

        Raises:
            FileFormatError: If that fails, or the file was removed or replaced.
        """
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._unwritten(error) from error
        require_in_place(self.path, self._descriptor)

    def close(self) -> None:
        """Sync it to disk, and close it."""
        try:
            self.sync()
        finally:
            os.close(self._descriptor)

    def _unwritten(self, error: OSError) -> FileFormatError:
        return FileFormatError(
            f'"{self.path}" cannot be written: {error.strerror}. What it holds is safe; make room and go on.'
        )
