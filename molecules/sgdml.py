"""npz files with the keys of sGDML: z, R, E, F, and the units that they say.

Reference: Chmiela et al., sGDML, Comput. Phys. Commun. 240, 38 (2019).
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import ConfigurationError, FileFormatError, TopologyError
from ..core.topology import Topology
from ..core.units import ANGSTROM, BOHR, ELECTRONVOLT, HARTREE, KILOCALORIE
from .elements import SYMBOLS, atomic_numbers
from .foreign import (
    CHARGES,
    ENERGY_LIKE,
    FORCES_LIKE,
    INFO,
    NEAR,
    LabelKeys,
    electrons_of,
    given_or_guessed,
    one_temperature,
    provenance_of,
    require_known_labels,
    say_left_out,
)
from .frames import Frames, near_origin
from .npz_reader import read_npz

LENGTH_UNITS = {"Ang": ANGSTROM, "A": ANGSTROM, "angstrom": ANGSTROM, "Å": ANGSTROM, "nm": 1.0, "bohr": BOHR}
ENERGY_UNITS = {"kcal/mol": KILOCALORIE, "kJ/mol": 1.0, "eV": ELECTRONVOLT, "hartree": HARTREE}

EXTRA = ("r_unit", "e_unit", "temperature", "log_weights", "replica", "times")
METADATA = (
    *("type", "code_version", "name", "theory", "md5", "perms"),
    *("E_min", "E_max", "E_mean", "E_var", "F_min", "F_max", "F_mean", "F_var"),
)
"""What sGDML writes beside the frames, all of it about them or made from them."""

PERIODIC = ("lattice", "cell", "box", "pbc")
"""Names of what only periodic frames have."""

KINDS = {"z": "iu", "R": "fiu", "E": "fiu", "F": "fiu", "temperature": "fiuUS"}
KINDS |= {"log_weights": "fiu", "replica": "iu", "times": "fiu"}
"""Kinds of numbers, as numpy calls them."""


def read_sgdml(path: Path, temperature: float | None, topology: Topology | None, keys: LabelKeys) -> Frames:
    """Frames in an npz file; see `formats.import_frames`."""
    energy_key, forces_key = keys.energy or "E", keys.forces or "F"
    wanted = {key for key in ("z", "R", energy_key, forces_key, *EXTRA, *PERIODIC, *CHARGES) if key != "none"}
    arrays, left_out = read_npz(path, wanted)
    others = [name for name in left_out if name not in METADATA]
    for name, kinds in KINDS.items():
        key = {"E": energy_key, "F": forces_key}.get(name, name)
        if key in arrays and arrays[key].dtype.kind not in kinds:
            what = "whole numbers" if kinds == "iu" else "numbers"
            raise FileFormatError(f'"{path}": {key} must hold {what}, not {arrays[key].dtype}.')
    missing = [key for key in ("z", "R") if key not in arrays]
    if missing:
        there = f" It has {', '.join(sorted(others)[:8])}." if others else ""
        raise FileFormatError(
            f'"{path}" lacks the key "{missing[0]}". sGDML\'s keys are expected: z, R, E and F.{there}'
        )
    box = next((name for name in PERIODIC if name in arrays and np.any(arrays[name] != np.zeros(1))), None)
    if box is not None:
        raise TopologyError(f'"{path}" has a {box}: it is periodic. Frames are of one molecule in free space.')
    for key, given in ((energy_key, keys.energy), (forces_key, keys.forces)):
        if given not in (None, "none") and key not in arrays:
            raise ConfigurationError(f'"{path}" has no "{key}".')
    require_known_labels(
        path,
        keys,
        "the units of r_unit and e_unit",
        () if "E" in arrays else [name for name in others if ENERGY_LIKE.search(name)],
        () if "F" in arrays else [name for name in others if FORCES_LIKE.search(name)],
    )
    say_left_out(path, others)
    length = _unit(path, arrays, "r_unit", LENGTH_UNITS)
    energy = _unit(path, arrays, "e_unit", ENERGY_UNITS) if energy_key in arrays or forces_key in arrays else 1.0
    if arrays["z"].ndim != 1:
        raise FileFormatError(
            f'"{path}": z must list the atomic number of each atom, the same in all frames, and has shape '
            f"{arrays['z'].shape}."
        )
    try:
        elements = tuple(SYMBOLS[int(number)] for number in arrays["z"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f'"{path}": z must list the atomic number of each atom, but holds {error}.') from error
    positions = arrays["R"] * length
    if positions.ndim != 3 or positions.shape[1:] != (len(elements), 3):
        raise FileFormatError(
            f'"{path}": R must have shape (frames, {len(elements)}, 3) for {len(elements)} atomic numbers in z, not '
            f"{positions.shape}."
        )
    if len(positions) == 0:
        raise FileFormatError(f'"{path}" holds no frames.')
    electrons = electrons_of(path, {name: arrays[name].reshape(-1).tolist() for name in CHARGES if name in arrays})
    if positions.dtype != np.float32:
        positions = near_origin(positions, NEAR)
    return Frames(
        topology=given_or_guessed(path, topology, elements, positions),
        temperature=one_temperature(path, temperature, _per_frame(arrays.get("temperature"))),
        positions=positions,
        forces=arrays[forces_key] * (energy / length) if forces_key in arrays else None,
        energies=arrays[energy_key].reshape(-1) * energy if energy_key in arrays else None,
        provenance=provenance_of(path, topology is None) | electrons,
        **{name: arrays[name] for name in INFO.values() if name in arrays},
    )


def _per_frame(values: Any) -> list[object]:
    return [] if values is None else list(np.unique(np.asarray(values).reshape(-1)))


def _unit(path: Path, arrays: dict[str, Any], key: str, known: dict[str, float]) -> float:
    values = arrays.get(key, np.array("")).reshape(-1).tolist()
    texts = {v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in values}
    found = {known_as.casefold(): unit for known_as, unit in known.items()}
    units = {found.get(text.strip().casefold()) for text in texts}
    unit = next(iter(units), None)
    if len(units) != 1 or unit is None:
        said = f"says {key} {', '.join(sorted(texts))[:80]}" if any(texts) else f'does not say its unit (key "{key}")'
        raise FileFormatError(f'"{path}" {said}. Known: {", ".join(known)}. Write one of them with numpy.savez.')
    return unit


def sgdml_content(frames: Frames) -> bytes:
    """An npz file of the frames, in Å and kcal/mol."""
    arrays: dict[str, Any] = {
        "type": "d",
        "name": "smoothflow",
        "theory": "unknown",
        "z": np.array(atomic_numbers(frames.topology), dtype=np.uint8),
        "R": frames.positions.astype(np.float64) / ANGSTROM,
        "r_unit": "Ang",
        "e_unit": "kcal/mol",
        "temperature": frames.temperature,
    }
    if frames.energies is not None:
        arrays["E"] = frames.energies / KILOCALORIE
    if frames.forces is not None:
        arrays["F"] = frames.forces.astype(np.float64) * (ANGSTROM / KILOCALORIE)
    for column in INFO.values():
        if getattr(frames, column) is not None:
            arrays[column] = getattr(frames, column)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
