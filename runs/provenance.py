"""Where numbers come from: the command, the versions of the code, the machine; and whether two runs are the same."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ConfigurationError

CPU_INFO = Path("/proc/cpuinfo")

MISSING = "nothing"
"""What a message says in place of a value that one of two runs does not have."""


def require_same_run(
    what: str, there: Mapping[str, Any], here: Mapping[str, Any], ignored: Iterable[str] = ("versions",)
) -> None:
    """Raise unless a file or folder is of the run that is to go on with it.

    Args:
        what: The file or folder, for the message.
        there: What it says of its run, in JSON types; what it says beyond ``here`` does not matter.
        here: What the run is that would go on: settings, digests of files.
        ignored: Names that may differ.

    Raises:
        ConfigurationError: If they are different; names the first difference.
    """
    for name, theirs, ours in differences(there, here, ignored):
        raise ConfigurationError(
            f"{what} is of another run: {name} is {theirs} there and {ours} here. Choose another name, or use its "
            "settings."
        )


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], ignored: Iterable[str] = ("versions",)
) -> Iterator[tuple[str, Any, Any]]:
    """Where two runs differ: the name, with dots for what lies in mappings, and what each has."""
    for name in here:
        if name not in ignored:
            yield from _differences(name, there.get(name, MISSING), here[name])


def _differences(name: str, theirs: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
        for inner in dict.fromkeys((*ours, *theirs)):
            yield from _differences(f"{name}.{inner}", theirs.get(inner, MISSING), ours.get(inner, MISSING))
    elif theirs != ours:
        yield name, theirs, ours


def versions(*names: str) -> dict[str, str]:
    """Versions of distributions by their names; those that are not installed are left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def origin(arguments: Sequence[str]) -> dict[str, str]:
    """What a reader needs to make numbers again, in words.

    Args:
        arguments: The command and its arguments.
    """
    return {
        "command": shlex.join(arguments),
        "commit": commit() or "not a clone",
        **versions("smoothflow", "torch"),
        "machine": machine(),
    }


def commit() -> str | None:
    """The commit of the clone that this code is in, with ``-dirty`` if files were changed; None outside of a clone."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor(*names: str) -> str:
    """What the system says of the processor under the first of these names that it knows; empty if it says nothing."""
    try:
        lines = [line.partition(":") for line in CPU_INFO.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return ""
    return next((value.strip() for key, _, value in lines if key.strip() in names), "")


def machine() -> str:
    """Processor, number of cores, and threads of torch."""
    name = processor("model name") or platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {threads} thread{'s' if threads != 1 else ''} of torch"
