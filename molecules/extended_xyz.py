"""Extended XYZ as ASE writes it, in Å and eV, and as i-PI writes it.

Reference: the format as ASE documents it, in ``ase.io.extxyz``.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..core.errors import ConfigurationError, FileFormatError, TopologyError
from ..core.files import read_text
from ..core.optional import import_optional
from ..core.topology import Topology
from ..core.units import ANGSTROM, BOHR, ELECTRONVOLT
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
    whole_column,
)
from .frames import Frames, near_origin

MAX_COMMENT = 2**15
"""Characters in the second line of a frame in an XYZ file."""

MAX_COLUMNS = 100

UNITS = {"å", "a", "ang", "angstrom", "angstroms", "ev", "ev/a", "ev/å", "ev/ang", "ev/angstrom", "k", "e", "ase"}
"""What a comment may say of units, in small letters."""

I_PI = re.compile(r"\b(?!cell\b)(\w+)\{(\w+)\}(?=\s+cell\{|\s*$)")
"""Quantity and unit in i-PI's comments: ``positions{angstrom}  cell{atomic_unit}``."""


def read_xyz(path: Path, temperature: float | None, topology: Topology | None, keys: LabelKeys) -> Frames:
    """Frames in an extended XYZ file; see `formats.import_frames`."""
    frames, box = read_xyz_system(path, temperature, topology, keys)
    if box is not None:
        raise TopologyError(
            f'Frame 0 of "{path}" is periodic. Frames are of one molecule in free space: select it (--select), with '
            "the structure of the whole system."
        )
    return frames


def read_xyz_system(
    path: Path, temperature: float | None, topology: Topology | None, keys: LabelKeys
) -> tuple[Frames, Float[np.ndarray, "frames 3 3"] | None]:
    """The same of a system that may be periodic, and the vectors of its box (nm) in rows; None if it has none."""
    ase_io = import_optional("ase.io", "Extended XYZ", "ase")
    text = read_text(path).replace("\r\n", "\n")
    comments = _require_whole(path, text)
    length = _length(path, comments)
    try:
        images = ase_io.read(io.StringIO(text), index=":", format="extxyz")
    except KeyError as error:
        raise FileFormatError(
            f'"{path}": {str(error)[:40]} is not the symbol of an element. Write symbols like H, C or Cl in the first '
            "column, without numbers; isotopes have none of their own."
        ) from error
    # ASE's reader raises whatever a wrong column gives
    except Exception as error:
        raise FileFormatError(f'"{path}" is not an extended XYZ file, or it is truncated: {error}.') from error
    if not images:
        raise FileFormatError(f'"{path}" holds no frames.')
    symbols = tuple(images[0].get_chemical_symbols())
    for i, atoms in enumerate(images):
        if "X" in atoms.get_chemical_symbols():
            raise TopologyError(f'Frame {i} of "{path}" has atoms without an element (X). Write their symbols.')
        if tuple(atoms.get_chemical_symbols()) != symbols:
            raise TopologyError(f'Frame {i} of "{path}" holds other atoms than frame 0. Keep one molecule per file.')
        if tuple(atoms.pbc) not in ((False,) * 3, (True,) * 3) or atoms.pbc.any() != images[0].pbc.any():
            raise TopologyError(
                f'Frame {i} of "{path}" is periodic, in some directions or unlike frame 0. Give all frames one '
                "periodic box, or none."
            )
    is_periodic = bool(images[0].pbc.any())
    if is_periodic and topology is None:
        raise TopologyError(
            f'"{path}" is periodic, and bonds across the box cannot be told from distances. Frames are of one '
            "molecule in free space: select it (--select), and give the structure of the whole system (--structure)."
        )
    energies = _labels(path, images, "energy", keys.energy, ())
    forces = _labels(path, images, "forces", keys.forces, (len(symbols), 3))
    numbers = {name: [_info(atoms, name) for atoms in images] for name in (*INFO, "temperature")}
    columns = {column: _numbers(path, name, numbers[name]) for name, column in INFO.items()}
    _require_units(path, images)
    said = {name: [_info(atoms, name) for atoms in images] for name in CHARGES}
    electrons = electrons_of(path, {k: [v for v in values if v is not None] for k, values in said.items()})
    _say_what_is_left_out(path, images, comments, text, keys, energies is not None, forces is not None)
    positions = near_origin(np.array([atoms.positions for atoms in images]) * length, NEAR)
    frames = Frames(
        topology=given_or_guessed(path, topology, symbols, positions),
        temperature=one_temperature(path, temperature, numbers["temperature"]),
        positions=positions,
        forces=None if forces is None else np.array(forces, dtype=np.float64) * (ELECTRONVOLT / ANGSTROM),
        energies=None if energies is None else np.array(energies, dtype=np.float64) * ELECTRONVOLT,
        provenance=provenance_of(path, topology is None) | electrons,
        **columns,
    )
    return frames, np.array([atoms.cell[:] for atoms in images]) * length if is_periodic else None


def _info(atoms: Any, name: str) -> object:
    """What a comment says under a name, however that is capitalized."""
    return next((value for key, value in atoms.info.items() if key.lower() == name), None)


def _numbers(path: Path, name: str, values: Sequence[Any]) -> Any:
    """A column of numbers, one of each frame; None if there are none."""
    found = whole_column(path, name, values, "")
    if found is None:
        return None
    array = np.array(found)
    if array.shape != (len(found),) or array.dtype.kind not in "fiu":
        raise FileFormatError(f'"{path}": {name} must be a number in each frame, not {str(found[0])[:40]}.')
    return array


def _labels(path: Path, images: list[Any], name: str, key: str | None, shape: tuple[int, ...]) -> list[Any] | None:
    """Energies or forces of all frames, by ASE's own name or by the user's."""
    if key == "none":
        return None
    found = []
    for atoms in images:
        results = atoms.calc.results if atoms.calc else {}
        known = {**atoms.arrays, **results} if shape else {**atoms.info, **results}
        found.append(known.get(key or name))
    remedy = f", or leave them out: --{'forces' if shape else 'energy'}-key none"
    values = whole_column(path, key or name, found, remedy)
    if values is None and key is not None:
        raise ConfigurationError(f'No frame of "{path}" has "{key}".')
    for i, value in enumerate(values or ()):
        if np.shape(value) != shape or np.asarray(value).dtype.kind not in "fiu":
            raise FileFormatError(
                f'"{key or name}" of frame {i} of "{path}" has shape {np.shape(value)} and type '
                f"{np.asarray(value).dtype}; numbers of shape {shape} are needed."
            )
    return values


def _say_what_is_left_out(
    path: Path,
    images: list[Any],
    comments: list[str],
    text: str,
    keys: LabelKeys,
    has_energies: bool,
    has_forces: bool,
) -> None:
    n = len(images[0])
    infos = {k: v for atoms in images for k, v in atoms.info.items()}
    arrays = {k: v for atoms in images for k, v in atoms.arrays.items()}
    results = {k for atoms in images if atoms.calc for k in atoms.calc.results}
    scalars = [k for k, v in infos.items() if np.ndim(v) == 0 and np.asarray(v).dtype.kind in "fiu"]
    vectors = [k for k, v in arrays.items() if np.shape(v) == (n, 3) and k != "positions"]
    require_known_labels(
        path,
        keys,
        "eV and eV/Å",
        () if has_energies else [k for k in scalars if ENERGY_LIKE.search(k)] + sorted(results & {"free_energy"}),
        () if has_forces else [k for k in vectors if FORCES_LIKE.search(k)],
    )
    words = any(v is True and not key.isalpha() for key, v in infos.items())
    if words and not has_energies and any(re.search("energ|e_?tot", comment, re.IGNORECASE) for comment in comments):
        left = ["the comments (they seem to hold energies: write energy=NUMBER, in eV)"]
    else:
        left = [key for key, v in infos.items() if v is not True]
    taken = {*INFO, *CHARGES, "temperature"}
    left = [k for k in left if k.lower() not in taken and k != keys.energy]
    left += ["move_mask (atoms that were held: such frames are of another distribution)"] * any(
        atoms.constraints for atoms in images
    )
    left += [k for k in arrays if k not in ("numbers", "positions", keys.forces)]
    left += [k for k in results if (k, has_energies) != ("energy", True) and (k, has_forces) != ("forces", True)]
    if "Properties=" not in comments[0] and len(text.split("\n", 3)[2].split()) > 4:
        left.append("columns beyond x, y and z (name them by Properties=)")
    say_left_out(path, left)


def _require_units(path: Path, images: list[Any]) -> None:
    """Raise if comments name units that are not those of extended XYZ."""
    for name, value in {k: v for atoms in images for k, v in atoms.info.items()}.items():
        said = {word.casefold() for word in re.split(r"[\s,;]+", str(value)) if word}
        # words of i-PI's comments have no value
        if "unit" in name.lower() and value is not True and not said <= UNITS:
            raise FileFormatError(
                f'"{path}" says {name}={str(value)[:40]}; lengths in Å, energies in eV and forces in eV/Å are read. '
                "Convert them, or remove what it says of units if it is not of these."
            )


def _length(path: Path, comments: list[str]) -> float:
    """The unit of length, nm: Å, unless i-PI's comments say otherwise."""
    units = {(match[1], match[2]) for comment in comments for match in I_PI.finditer(comment)}
    if not units:
        return ANGSTROM
    (name, unit), *others = sorted(units)
    lengths = {"angstrom": ANGSTROM, "atomic_unit": BOHR, "nanometer": 1.0}
    if others or name not in ("positions", "x_centroid") or unit not in lengths:
        shown = ", ".join(f"{n}{{{u}}}" for n, u in sorted(units))
        raise FileFormatError(f'"{path}" holds {shown}; positions in one of {", ".join(lengths)} are read.')
    return lengths[unit]


def _require_whole(path: Path, text: str) -> list[str]:
    """The comment of each frame; raises a `FileFormatError` unless every frame has the lines that it claims.

    ASE believes any claim, also those of columns.
    """
    comments: list[str] = []
    lines = iter(text.split("\n"))
    for line in lines:
        if not line.strip() or line.startswith("VEC"):
            continue
        comment = next(lines, None)
        claimed = int(line) if re.fullmatch(r"\s*\d{1,9}\s*", line) else 0
        _require_columns(path, len(comments), comment or "")
        if (
            claimed == 0
            or comment is None
            or len(comment) > MAX_COMMENT
            or not all(next(lines, "").strip() for _ in range(claimed))
        ):
            raise FileFormatError(
                f'"{path}" is not an extended XYZ file, or it is truncated in its frame {len(comments)}.'
            )
        _require_once(path, len(comments), comment)
        comments.append(comment)
    return comments


def _require_columns(path: Path, frame: int, comment: str) -> None:
    """Raise unless ``Properties=species:S:1:pos:R:3`` describes columns of bounded number, positions among them."""
    match = re.search(r"""\bProperties\s*=\s*(?:"([^"]*)"|'([^']*)'|(\S+))""", comment, re.IGNORECASE)
    if match is None:
        return
    fields = (match[1] or match[2] or match[3] or "").split(":")
    names, widths = fields[::3], fields[2::3]
    is_wide = all(re.fullmatch("[0-9]{1,9}", width) and 1 <= int(width) <= MAX_COLUMNS for width in widths)
    if len(fields) % 3 or not is_wide or dict(zip(names, widths, strict=False)).get("pos") != "3":
        raise FileFormatError(
            f'"{path}" is not an extended XYZ file: the columns of frame {frame} are "{match[0][:200]}". Write name, '
            f"type and width of each, with widths of 1 to {MAX_COLUMNS} and positions as pos:R:3."
        )


def _require_once(path: Path, frame: int, comment: str) -> None:
    """Raise if a comment gives a value of ours twice: nobody knows which of the two is meant."""
    plain = re.sub(r"""("[^"]*"|'[^']*'|\{[^}]*\}|\[[^]]*\])""", "", comment)
    names = [name.lower() for name in re.findall(r"(?:^|\s)(\w+)\s*=", plain)]
    for name in ("energy", "forces", "temperature", *CHARGES, *INFO):
        if names.count(name) > 1:
            raise FileFormatError(f'"{path}" gives the {name} of frame {frame} twice. Leave one of the two out.')


def xyz_content(frames: Frames) -> bytes:
    """An extended XYZ file of the frames, as ASE writes it."""
    ase_io = import_optional("ase.io", "Extended XYZ", "ase")
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for i in range(len(frames)):
        atoms = Atoms(frames.topology.elements, frames.positions[i].astype(np.float64) / ANGSTROM)
        atoms.info["temperature"] = frames.temperature
        for name, column in INFO.items():
            values = getattr(frames, column)
            if values is not None:
                atoms.info[name] = values[i].item()
        results: dict[str, Any] = {}
        if frames.energies is not None:
            results["energy"] = frames.energies[i] / ELECTRONVOLT
        if frames.forces is not None:
            results["forces"] = frames.forces[i].astype(np.float64) * ANGSTROM / ELECTRONVOLT
        atoms.calc = SinglePointCalculator(atoms, **results)
        images.append(atoms)
    text = io.StringIO()
    ase_io.write(text, images, format="extxyz")
    return text.getvalue().encode()
