"""What the readers of other programs' files have in common: what a file says, lacks, or holds beyond what is read."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import ConfigurationError, FileFormatError
from ..core.topology import Topology
from .conversions import guess_topology

NEAR = 10.0
"""Molecules farther (nm) than this from the origin are centred before they are stored in single precision."""

GUESSED = "guessed from covalent radii"

CHARGES = dict.fromkeys(("charge", "total_charge", "Q"), "charge")
CHARGES |= dict.fromkeys(("multiplicity", "spin_multiplicity"), "multiplicity")
"""What files call the total charge and the multiplicity, and what the provenance does."""

INFO = {"log_weight": "log_weights", "replica": "replica", "time_ps": "times"}
"""Names of the columns of `Frames` in the comment of a frame."""

ENERGY_LIKE = re.compile(r"energ|e_?tot|^u0?$|^e$|_e$", re.IGNORECASE)
FORCES_LIKE = re.compile(r"forc|grad|^f$|_f$", re.IGNORECASE)
"""Names that seem to be those of energies and of forces."""


class ExchangeWarning(UserWarning):
    """Something that a file holds, or should hold, and that is left out."""


@dataclass(frozen=True)
class LabelKeys:
    """What a file calls energies and forces; None for the format's own name, ``none`` to leave them out."""

    energy: str | None = None
    forces: str | None = None


def one_temperature(path: Path, given: float | None, found: Sequence[object]) -> float:
    """The one temperature (K) of all frames.

    Args:
        path: The file.
        given: What the user says; it is taken, with a warning where the file says another.
        found: What the file says of each frame, or of all; None where it says nothing.
    """
    said = [value for value in found if value is not None]
    if given is None:
        if not said:
            raise ConfigurationError(
                f'"{path}" does not say at which temperature its frames were drawn. Give it in K: --temperature.'
            )
        if len(said) < len(found):
            raise ConfigurationError(
                f'Only {len(said)} of {len(found)} frames of "{path}" say their temperature. If it is that of all, '
                "give it in K: --temperature."
            )
    kelvins = sorted({_kelvin(path, value, given) for value in said} - {math.nan}) if said else []
    if given is not None:
        if any(not math.isclose(value, given, rel_tol=1e-6) for value in kelvins):
            there = ", ".join(f"{value:g}" for value in kelvins[:5])
            warnings.warn(
                f'"{path}" says {there} K; {given:g} K is taken, as asked for.', ExchangeWarning, stacklevel=4
            )
        return given
    if not math.isclose(kelvins[0], kelvins[-1], rel_tol=1e-6):
        there = ", ".join(f"{value:g}" for value in kelvins[:5]) + (", ..." if len(kelvins) > 5 else "")
        raise ConfigurationError(
            f'The frames of "{path}" have several temperatures: {there} K. Split the file; or, if these are momentary '
            "ones of a thermostat, give its temperature: --temperature."
        )
    return kelvins[0]


def _kelvin(path: Path, value: object, given: float | None) -> float:
    """A temperature as files write it: a number of any kind, an array of one, text with or without a K."""
    array = np.asarray(value)
    text = str(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "iufUS" else ""
    if array.dtype.kind == "S":
        text = array.reshape(-1)[0].decode(errors="replace")
    match = re.fullmatch(r"\s*([-+.\deE]+)\s*K?\s*", text)
    try:
        kelvin = float(match[1]) if match else math.nan
    except ValueError:
        kelvin = math.nan
    if not 0 < kelvin < math.inf:
        if given is not None:
            return given
        raise ConfigurationError(
            f'"{path}" says that the temperature is {str(value)[:40]}, not a number of K. Give it: --temperature.'
        )
    return kelvin


def whole_column(path: Path, name: str, values: Sequence[Any], remedy: str) -> list[Any] | None:
    """The values of all frames, None if no frame has one; some frames without are refused, since all would be lost."""
    missing = [i for i, value in enumerate(values) if value is None]
    if len(missing) == len(values):
        return None
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise FileFormatError(
            f'{len(missing)} of {len(values)} frames of "{path}" have no {name}: frames {shown}. '
            f"Split the file{remedy}."
        )
    return list(values)


def say_left_out(path: Path, names: Iterable[str]) -> None:
    found = sorted(set(names))
    if found:
        shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        warnings.warn(f'Not read from "{path}": {shown}.', ExchangeWarning, stacklevel=4)


def require_known_labels(
    path: Path, keys: LabelKeys, units: str, energies: Sequence[str], forces: Sequence[str]
) -> None:
    """Raise if only names that seem to be energies or forces are there: which are meant, the user must say."""
    lost = [
        f"{', '.join(sorted(names)[:4])} ({option} {sorted(names)[0]}, or {option} none to leave {what} out)"
        for what, option, names, key in (
            ("energies", "--energy-key", energies, keys.energy),
            ("forces", "--forces-key", forces, keys.forces),
        )
        if key is None and names
    ]
    if lost:
        raise ConfigurationError(
            f'"{path}" has what seem to be labels under other names: {"; ".join(lost)}. They are read in {units}.'
        )


def given_or_found(path: Path, given: Topology | None, found: Topology) -> Topology:
    """The molecule that a file holds, as the user gave it; raises a `TopologyError` if that is another one."""
    if given is None:
        return found
    given.require_elements(found.elements, "the structure", f'"{path}"')
    given.require_bonds(found, "the structure", f'"{path}"')
    return given


def given_or_guessed(
    path: Path, given: Topology | None, elements: tuple[str, ...], positions: Float[ndarray, "frames atoms 3"]
) -> Topology:
    """The molecule of a file that holds no bonds: the user's, or else with those that its first frame (nm) shows."""
    if len(positions) == 0:
        raise FileFormatError(f'"{path}" holds no frames.')
    if given is None:
        return guess_topology(elements, torch.from_numpy(positions[0].astype(np.float64)))
    given.require_elements(elements, "the structure", f'"{path}"')
    return given


def electrons_of(path: Path, said: Mapping[str, Sequence[object]]) -> dict[str, int]:
    """Total charge and multiplicity of a molecule, for references that compute electrons."""
    found: dict[str, int] = {}
    for name, kind in CHARGES.items():
        for value in said.get(name, ()):
            try:
                number = float(str(value))
            except ValueError:
                number = math.nan
            if not number.is_integer():
                raise FileFormatError(f'"{path}": {name} must be a whole number, not {str(value)[:40]}.')
            if found.setdefault(kind, int(number)) != number:
                raise FileFormatError(
                    f'"{path}" holds frames of {kind} {found[kind]} and {int(number)}: these are two molecules. Split '
                    "the file."
                )
    return found


def provenance_of(path: Path, guessed: bool) -> dict[str, Any]:
    return {"imported from": path.name, "bonds": GUESSED if guessed else "of the structure"}
