"""References to force fields that a file may name: those that are data."""

from __future__ import annotations

import re
from pathlib import PurePath

DATA = (
    re.compile(r"ase:(emt|lj|morse|tblite(:GFN[12]-xTB|:IPEA1-xTB)?)", re.IGNORECASE),
    re.compile(r"smoothflow:[A-Za-z0-9][A-Za-z0-9_-]*"),
)
"""Calculators that compute in this process and take no file, and models by the name under which they are installed."""


def names_no_code(reference: str) -> bool:
    """Whether a reference, as ``PROVIDER:ARGUMENT``, runs only code that is installed.

    True for ``openmm:`` and ``torch:`` with files in XML, which OpenMM's provider checks, for ``smoothflow:`` and
    ``committee:`` with model files or names of models, and for a few calculators of ``ase:``. Whatever else, like
    ``ase:module:function``, compiled packages, TorchScript and what plug-ins' providers read, may be code.
    """
    provider, _, argument = reference.partition(":")
    if provider == "committee":
        return all(names_no_code(f"smoothflow:{member.strip()}") for member in argument.split(","))
    suffix = {"openmm": ".xml", "torch": ".xml", "smoothflow": ".safetensors"}.get(provider)
    files = argument.split(",") if suffix == ".xml" else [argument]
    if provider == "torch" and files[-1].strip() == "compiled":
        # how it is computed, and not a file
        files.pop()
    if suffix is not None and files and all(PurePath(file.strip()).suffix == suffix for file in files):
        return True
    return any(pattern.fullmatch(reference) for pattern in DATA)


def only_typed(reference: str, option: str) -> str:
    """What is said of a reference in a file that may name code.

    Args:
        reference: As the file has it.
        option: The option with which it is given instead.
    """
    return (
        f'"{reference}" may name code to run, and a file must not. If you trust it, take it out of the file and give '
        f"it on the command line, with {option}"
    )
