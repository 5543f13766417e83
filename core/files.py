"""Files that are complete or not there, and what strangers write into their headers."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

from .errors import FileFormatError

MAX_DEPTH = 32
"""Headers are nested less deeply than this."""

MAX_DIGITS = 20
"""Whole numbers in headers and settings fit into 64 bits."""


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
    """The text of a file, as `decode_text` reads it.

    Raises:
        FileFormatError: If the file cannot be read.
    """
    try:
        return decode_text(path.read_bytes())
    except OSError as error:
        raise FileFormatError(f'"{path}" cannot be read: {error.strerror or error}.') from error


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text from a file that may be a stranger's.

    Raises:
        ValueError: If it is no JSON, gives one name twice, has a number beyond 64 bits, or is nested deeply.
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
