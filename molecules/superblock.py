"""Reading HDF5 files whose writer was killed, or is at work, and what HDF5 does not check before it believes it.

Such a file is marked in its first 48 bytes, the superblock, as being written, and HDF5 opens it only as a reader that
waits for a writer: on a damaged file it waits for ever. Here the file is shown to HDF5 as `h5clear` would leave it,
with the mark taken off and the end of the file where it is; the file itself is not touched.

HDF5 counts the chunks of an array one by one up to a number that the file states, though it be 2^62, and divides by
numbers in it, though they be 0. It inflates compressed names of links and attributes without a limit.

Reference: HDF5 File Format Specification 3.0, "Disk Format: Level 0A - Format Signature and Superblock", version 3,
"Version 2 Data Object Header Prefix", "Link Info Message", "Attribute Info Message",
"Fractal Heap", "Data Layout Message", version 4, "The Extensible Array Index", and "Checksum"
(Jenkins' lookup3).
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIZE = 48
FLAGS = 11
EXTENSION = slice(20, 28)
END_OF_FILE = slice(28, 36)
CHECKSUM = slice(44, 48)

LAYOUT_MESSAGE = 8
CONTINUATION_MESSAGE = 16
COUNTERS = {2: 8, 21: 2}
"""Messages that name the heap of an object's links or attributes, and the size of a counter that may come first."""

MAX_CONTINUATIONS = 16
MAX_OBJECT_HEADER = 2**16
UNDEFINED = 2**64 - 1
"""The address of what is not there yet."""

INDEX_START = b"EAHD" + bytes((0, 0, 8, 32, 4, 16, 4, 10))
"""How the header of an extensible array of chunks begins: signature, version, and the parameters that HDF5 chooses."""

INDEX_IN_LAYOUT = bytes((4, 32, 4, 4, 16, 10))
"""The same in the layout message: the kind of index, and its parameters."""


def is_marked(path: Path) -> bool:
    """Whether the file is marked as being written."""
    with path.open("rb") as file:
        start = file.read(SIZE)
    # signature, version 3, and 8 bytes for each address and length
    return len(start) == SIZE and start[:11] == SIGNATURE + b"\x03\x08\x08" and start[FLAGS] != 0


def cleared_start(descriptor: int) -> bytes:
    """The superblock of an open file as it is without the mark, its end where the file ends."""
    start = bytearray(os.pread(descriptor, SIZE, 0))
    start[FLAGS] = 0
    start[END_OF_FILE] = struct.pack("<Q", os.fstat(descriptor).st_size)
    start[CHECKSUM] = struct.pack("<I", lookup3(bytes(start[: CHECKSUM.start])))
    return bytes(start)


class ClearedFile(io.RawIOBase):
    """A file for reading, with its mark taken off."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = os.fstat(self._file.fileno()).st_size
        self._start = cleared_start(self._file.fileno())
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        # the size is that of the moment when the file was opened
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n_bytes = min(len(buffer), max(0, self._size - self._place))
        data = bytearray(os.pread(self._file.fileno(), n_bytes, self._place))
        if self._place < SIZE:
            own = self._start[self._place : self._place + len(data)]
            data[: len(own)] = own
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def require_chunk_index(path: Path, address: int) -> None:
    """Raise a `ValueError` unless an array's chunks have the index that HDF5 makes for one growing axis.

    HDF5 divides by the index' parameters, and goes through as many chunks as it states.

    Args:
        path: The file.
        address: Where the array's object header is.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(address)
        place = _index_address(file.read(MAX_OBJECT_HEADER))
        if place == UNDEFINED:
            return
        file.seek(place)
        index = file.read(60)
    if index[:12] != INDEX_START or len(index) < 60:
        raise ValueError("its chunks are not in an extensible array")
    counts = struct.unpack("<6Q", index[12:])
    if max(counts) > size:
        raise ValueError(f"the index of its chunks states {max(counts)} of them")


def require_no_extension(path: Path) -> None:
    """Raise a `ValueError` if the superblock has an extension, which may say that object headers are kept in a heap."""
    with path.open("rb") as file:
        start = file.read(SIZE)
    if start[:8] != SIGNATURE or start[8] not in (2, 3) or int.from_bytes(start[EXTENSION], "little") != UNDEFINED:
        raise ValueError("its superblock is of another version, or has an extension")


def require_plain_heaps(path: Path, address: int) -> None:
    """Raise a `ValueError` if the links or attributes of an object are compressed.

    HDF5 inflates what is in such a heap, whatever it becomes, at the first look at a name.

    Args:
        path: The file.
        address: Where the object's header is.
    """
    with path.open("rb") as file:
        file.seek(address)
        header = file.read(MAX_OBJECT_HEADER)
        start, end, before = _first_messages(header)
        parts = [header[start:end]]
        for n_parts, part in enumerate(parts):
            for kind, message in _messages(part, before):
                if kind == CONTINUATION_MESSAGE and len(message) >= 16 and n_parts < MAX_CONTINUATIONS:
                    place, length = struct.unpack("<2Q", message[:16])
                    if length > MAX_OBJECT_HEADER:
                        raise ValueError("an object's header is too long")
                    file.seek(place)
                    # signature before, checksum behind
                    parts.append(file.read(length)[4:-4])
                elif kind == CONTINUATION_MESSAGE:
                    raise ValueError("an object's header has too many parts")
                elif kind in COUNTERS:
                    place = 2 + (COUNTERS[kind] if message[1] & 1 else 0)
                    heap = int.from_bytes(message[place : place + 8], "little")
                    if heap != UNDEFINED:
                        file.seek(heap)
                        head = file.read(9)
                        if head[:4] != b"FRHP" or head[7:9] != b"\0\0":
                            raise ValueError("its names are compressed, or in an unknown kind of heap")


def _first_messages(header: bytes) -> tuple[int, int, int]:
    """Start and end of the messages in the first part of an object header, and the bytes before each one's content."""
    if header[:5] != b"OHDR\x02":
        raise ValueError("its object header is of another version")
    flags = header[5]
    start = 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
    width = 1 << (flags & 3)
    place = start + width
    return place, place + int.from_bytes(header[start:place], "little"), 6 if flags & 4 else 4


def _messages(part: bytes, before: int) -> Iterator[tuple[int, bytes]]:
    """Kind and content of the messages in a part of an object header."""
    place = 0
    while place + before <= len(part):
        size = int.from_bytes(part[place + 1 : place + 3], "little")
        yield part[place], part[place + before : place + before + size]
        place += before + size


def _index_address(header: bytes) -> int:
    """Where the chunks' index is, from the layout message in the first part of an object header."""
    start, end, before = _first_messages(header)
    for kind, message in _messages(header[start:end], before):
        if kind == LAYOUT_MESSAGE:
            # version 4, chunked, flags, n dimensions, width of each, the dimensions, the index and its five parameters
            if message[:2] != b"\x04\x02" or len(message) < 5:
                break
            index = 5 + message[3] * message[4]
            if message[index : index + 6] != INDEX_IN_LAYOUT:
                break
            return int.from_bytes(message[index + 6 : index + 14], "little")
    raise ValueError("its layout is none of chunks along one growing axis")


def lookup3(key: bytes) -> int:
    """Bob Jenkins' hash of bytes, as HDF5 uses it for checksums (initial value 0)."""
    mask = 0xFFFFFFFF

    def rotated(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & mask

    a: int
    b: int
    c: int
    a = b = c = (0xDEADBEEF + len(key)) & mask
    while len(key) > 12:
        x, y, z = struct.unpack("<III", key[:12])
        a, b, c, key = (a + x) & mask, (b + y) & mask, (c + z) & mask, key[12:]
        for k in (4, 6, 8, 16, 19, 4):
            # the three change roles from step to step
            a, b, c = b, (c + b) & mask, ((a - c) & mask) ^ rotated(c, k)
    x, y, z = struct.unpack("<III", key.ljust(12, b"\0"))
    a, b, c = (a + x) & mask, (b + y) & mask, (c + z) & mask
    for k in (14, 11, 25, 16, 4, 14, 24):
        a, b, c = b, ((c ^ b) - rotated(b, k)) & mask, a
    return b
