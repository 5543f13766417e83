"""Arrays of an npz file, which may be a stranger's: nothing is unpickled, and no more is inflated than allowed."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from ..core.errors import FileFormatError

MAX_EXPANSION = 20
"""Arrays of numbers are not compressed by more than this factor."""

SMALL = 2**24
"""Bytes that any npz file may unpack to."""

PIECE = 2**18
"""Bytes that are inflated at once."""

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What NumPy writes; other methods make megabytes of each byte before they can be stopped."""

NPZ_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The arrays of those names that are in a file, and the names of the others, which are not read.

    The sizes in the file's directory are not trusted: bytes are counted as they are inflated.

    Raises:
        FileFormatError: If it is not an npz file, truncated, unpacks to far more than it is, or holds objects.
    """
    try:
        allowed = max(SMALL, MAX_EXPANSION * path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            arrays: dict[str, np.ndarray] = {}
            others = []
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                if name not in names or name == member.filename:
                    others.append(name)
                    continue
                if name in arrays:
                    raise ValueError(f'the array "{name}" is there twice')
                if member.compress_type not in METHODS:
                    raise ValueError(f'the array "{name}" is compressed in a way that NumPy does not write')
                content = _inflated(archive, member, allowed)
                if content is None:
                    raise FileFormatError(
                        f'"{path}" unpacks to more than {allowed} bytes, which no frames would be compressed to.'
                    )
                allowed -= len(content)
                arrays[name] = _array(content)
            return arrays, others
    # besides damage: arrays that claim more than there is, and encryption
    except (*NPZ_ERRORS, MemoryError, NotImplementedError, RuntimeError) as error:
        raise FileFormatError(f'"{path}" is not an npz file, or it is truncated: {error}.') from error


def _inflated(archive: zipfile.ZipFile, member: zipfile.ZipInfo, allowed: int) -> bytes | None:
    """The content of a member; None if it is larger than allowed."""
    content = bytearray()
    with archive.open(member) as file:
        # each piece is inflated on its own: a read without a length would inflate all before it looks at the size
        while piece := file.read(PIECE):
            content += piece
            if len(content) > allowed:
                return None
    if len(content) != member.file_size:
        raise ValueError(f'"{member.filename}" has another size than the directory says')
    return bytes(content)


def _array(content: bytes) -> np.ndarray:
    """The array in the content of an npy file, once it is known to be as large as its header says."""
    file = io.BytesIO(content)
    major, _ = np.lib.format.read_magic(file)
    readers = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if major not in readers:
        raise ValueError(f"an array has version {major} of the format")
    shape, _, dtype = readers[major](file)
    if dtype.hasobject:
        raise ValueError("an array holds objects")
    n_bytes = dtype.itemsize
    for length in shape:
        n_bytes *= length
    if min(shape, default=0) < 0 or n_bytes != len(content) - file.tell():
        raise ValueError(f"an array of shape {shape} is not as large as it should be")
    file.seek(0)
    array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
    return array
