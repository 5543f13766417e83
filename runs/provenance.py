"""Where numbers come from: the command, the version of the code, and the machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")


def origin(arguments: Sequence[str]) -> dict[str, str]:
    """What a reader needs to make numbers again, in words.

    Args:
        arguments: The command and its arguments.
    """
    return {
        "command": shlex.join(arguments),
        "smoothflow": version("smoothflow"),
        "commit": commit() or "not a clone",
        "torch": torch.__version__,
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


def machine() -> str:
    """Processor, number of cores, and threads of torch."""
    name = platform.processor() or platform.machine()
    if CPU_INFO.exists():
        lines = (line.partition(":") for line in CPU_INFO.read_text(encoding="utf-8").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    threads = torch.get_num_threads()
    return f"{name}, {os.cpu_count()} cores, {threads} thread{'s' if threads != 1 else ''} of torch"
