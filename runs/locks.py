"""A lock that keeps two processes from writing one file or one run folder.

It is the system's, gone with the process that holds it, and whoever is refused is told who that is. The library
filelock makes the same call, on a file of its own that stays behind when the lock is released; a frames file is locked
itself, so that a copy under another name is another file, and the lock of a file that does not exist yet is removed.
filelock does not know who holds a lock either. What it would spare is one call.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..core.errors import ConfigurationError, FileFormatError
from ..core.text import shown

MAX_HOLDER_BYTES = 200
FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
"""How a file that serves only as a lock is opened; a link that somebody put there would be followed to another file."""


def lock_descriptor(descriptor: int, what: str, wait: bool = False) -> None:
    """Lock an open file until it is closed; the system drops the lock of a process that dies.

    Args:
        descriptor: The open file.
        what: The file or folder, as an error calls it.
        wait: Whether to wait for a process that holds the lock.

    Raises:
        ConfigurationError: If another process holds the lock, and it is not waited for.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _held(what) from error


def _held(what: str, holder: str = "") -> ConfigurationError:
    return ConfigurationError(
        f"{what} is being written by another process{holder}. Wait for it to end, or choose another name."
    )


def _lock_named(descriptor: int, what: str, wait: bool = False) -> None:
    """Lock a file that serves only as a lock, and write into it who holds it."""
    try:
        lock_descriptor(descriptor, what, wait)
    except ConfigurationError as error:
        holder = os.pread(descriptor, MAX_HOLDER_BYTES, 0).decode(errors="replace")
        raise _held(what, f" ({shown(holder)})" if holder else "") from error
    # for those who are refused; on a full disk they are not told
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} on {platform.node()}".encode()[:MAX_HOLDER_BYTES], 0)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for the length of a ``with`` block.

    Raises:
        ConfigurationError: If another process holds it.
        FileFormatError: If it cannot be written.
    """
    try:
        descriptor = os.open(folder / ".lock", FLAGS, 0o644)
    except OSError as error:
        raise FileFormatError(f'The folder "{folder}" cannot be written: {error.strerror}.') from error
    try:
        _lock_named(descriptor, f'The folder "{folder}"')
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the name of a file, which need not exist, for the length of a ``with`` block.

    Args:
        path: The file.
        wait: Whether to wait for a process that holds it.

    Raises:
        ConfigurationError: If another process holds it, and it is not waited for.
        FileFormatError: If the folder is missing or cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _locked(lock, path, wait)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(lock: Path, path: Path, wait: bool) -> int:
    while True:
        try:
            descriptor = os.open(lock, FLAGS, 0o644)
        except OSError as error:
            raise FileFormatError(f'"{path}" cannot be written: {error.strerror}.') from error
        try:
            _lock_named(descriptor, f'"{path}"', wait)
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        # the process that held it removed it before it was locked here
        os.close(descriptor)
