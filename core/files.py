"""Files that are complete or not there, and what strangers write into their headers."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import ConfigurationError, FileFormatError

MAX_DEPTH = 32
"""Headers are nested less deeply than this."""

MAX_HEADER_BYTES = 4 * 2**20
"""Largest header of a safetensors file: enough for ten thousand atoms, and parsed in a fraction of a second."""

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file: a hundred times what a comparison of many flows writes."""

MAX_DIGITS = 20
"""Whole numbers in headers and settings fit into 64 bits."""


HEAD_BYTES = 2**16
"""Where a file's mark is looked for."""


def require_free(path: Path) -> None:
    """Raise unless a file can be made under a name.

    Raises:
        ConfigurationError: If something bears the name already, be it a link that leads nowhere.
        FileFormatError: If its folder is missing.
    """
    if os.path.lexists(path):
        raise ConfigurationError(f'"{path}" exists already. Remove it, or give another name.')
    if not path.parent.is_dir():
        raise FileFormatError(f'"{path}" cannot be written: there is no folder "{path.parent}". Make it first.')


def require_own(path: Path, marks: Iterable[bytes], kind: str) -> None:
    """Raise unless a name is free, or bears an earlier file of the same kind, which may be replaced.

    Args:
        path: The name.
        marks: Any of them tells the kind, within the first 64 KiB.
        kind: What is written, for the message.

    Raises:
        ConfigurationError: If something else bears the name.
        FileFormatError: If its folder is missing.
    """
    if _has_mark(path, marks):
        return
    if os.path.lexists(path):
        raise ConfigurationError(
            f'"{path}" exists already and is not {kind} written by smoothflow. Remove it, or give another name.'
        )
    require_free(path)


def require_own_folder(folder: Path, names: Sequence[str], marks: Mapping[str, bytes], kind: str) -> None:
    """Raise unless a folder is the work of an earlier run of the same kind, or has no file that a run would replace.

    Args:
        folder: The folder; it need not exist.
        names: Files that a run writes or replaces.
        marks: By the name of a file in it, what that file holds if the folder is such a run's.
        kind: What the folder would hold, for the message.

    Raises:
        ConfigurationError: If a file is somebody else's.
    """
    if any(_has_mark(folder / name, [mark]) for name, mark in marks.items()):
        return
    for name in names:
        if os.path.lexists(folder / name):
            raise ConfigurationError(
                f'"{folder / name}" exists already, and the folder does not hold {kind}. Choose another folder.'
            )


def require_distinct(paths: Iterable[Path]) -> None:
    """Raise a `ConfigurationError` if one command would write two of its files under one name."""
    seen: set[Path] = set()
    for path in paths:
        place = path.resolve()
        if place in seen:
            raise ConfigurationError(f'"{path}" is named for two different files. Give each a name of its own.')
        seen.add(place)


def _has_mark(path: Path, marks: Iterable[bytes]) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return any(mark in head for mark in marks)


def require_in_place(path: Path, descriptor: int) -> None:
    """Raise a `FileFormatError` unless a name is still that of an open file: nobody would find what is written there.

    Args:
        path: The name.
        descriptor: Descriptor of the open file.
    """
    try:
        there = path.stat()
    except OSError:
        there = None
    if there is None or not os.path.samestat(there, os.fstat(descriptor)):
        what = "was removed" if there is None else "was replaced by another file"
        raise FileFormatError(f'"{path}" cannot be written: it {what} while it was being written. Start the run anew.')


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under its final name, complete or not at all: to a temporary neighbour, synced, then renamed.

    Raises:
        FileFormatError: If the folder is missing or not writable, the disk is full, or the name is that of a link or a
            device; nothing is left behind.
    """
    if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
        what = "a symbolic link" if path.is_symlink() else "not a regular file"
        raise FileFormatError(f'"{path}" cannot be written: it is {what}. Give the name of a file.')
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


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where they are missing.

    Raises:
        FileFormatError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f'The folder "{path}" cannot be made: {error.strerror}.') from error


def decode_text(content: bytes) -> str:
    """The text of a file of another program, without a byte-order mark.

    Text is UTF-8, or UTF-16 where a byte-order mark says so; bytes that are not UTF-8 are taken as Latin-1, which only
    concerns comments: formats of molecules are ASCII.
    """
    for mark, encoding in (
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
    ):
        if content.startswith(mark):
            return content.removeprefix(mark).decode(encoding, errors="replace")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_text(path: Path) -> str:
    """The text of a file, as `decode_text` reads it; its lines end in line feeds, whatever system wrote it.

    Raises:
        FileFormatError: If the file cannot be read.
    """
    try:
        return decode_text(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise FileFormatError(f'"{path}" cannot be read: {error.strerror or error}.') from error


def read_at_most(path: Path, n_bytes: int) -> bytes:
    """The content of a file that may be a stranger's, up to a largest size.

    Raises:
        ValueError: If it is longer.
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(n_bytes + 1)
    if len(content) > n_bytes:
        raise ValueError(f"it is larger than {n_bytes} bytes")
    return content


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_safetensors(path: Path, what: str) -> None:
    """Raise a `FileFormatError` unless a file begins like a safetensors file whose header is of bounded size."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or not 0 < int.from_bytes(start, "little") <= MAX_HEADER_BYTES:
        raise FileFormatError(f'"{path}" is not a {what}: it does not begin like a safetensors file.')


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as `write_atomically` writes files; raises as it does."""
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file that may be a stranger's.

    Raises:
        FileFormatError: If it cannot be read, is too large, or is not as `parse_json` wants it.
    """
    try:
        return parse_json(read_at_most(path, MAX_JSON_BYTES))
    except (OSError, ValueError) as error:
        raise FileFormatError(f'"{path}" is damaged: {error}.') from error


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from a file that may be a stranger's.

    Raises:
        ValueError: If it is not JSON, gives one name twice, has a number beyond 64 bits, or is nested deeply.
    """
    too_deep = f"it is nested more than {MAX_DEPTH} levels deep"
    try:
        value = json.loads(text, object_pairs_hook=_named_once, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError(too_deep) from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return value
    raise ValueError(too_deep)


def _whole_number(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number has {len(text)} digits")
    return int(text)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f'"{twice}" is there twice')
    return found
