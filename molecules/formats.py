"""Frames from and to the formats of other programs: extended XYZ, npz with sGDML's keys, and trajectories.

Units are converted here: extended XYZ as ASE writes it is in Å and eV; npz files say theirs; mdtraj works in nm.
"""

from __future__ import annotations

import io
import math
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..core.errors import ConfigurationError, FileFormatError, GeometryError, MissingDependencyError, TopologyError
from ..core.files import read_text, write_atomically
from ..core.potential import Potential
from ..core.topology import Atom, Topology
from ..core.units import ANGSTROM, ELECTRONVOLT
from ..runs.progress import OnProgress, Progress, silent
from .checks import check_positions
from .elements import ELEMENTS
from .foreign_hdf5 import read_mdtraj_hdf5
from .frames import BLOCK, COLUMNS, Frames, near_origin
from .label_checks import check_labels, describe_difference, warn_of_duplicates
from .npz_reader import read_npz
from .topologies import STRUCTURE_SUFFIXES, read_structure, topology_from_ase, topology_from_pdb
from .topology_checks import require_molecule

KILOCALORIE = 4.184
"""One kcal/mol in kJ/mol (exact: the thermochemical calorie)."""

BOHR = 0.0529177210903
"""nm (CODATA 2018)."""

HARTREE = 27.211386245988 * ELECTRONVOLT
"""kJ/mol (CODATA 2018)."""

LENGTH_UNITS = {"Ang": ANGSTROM, "A": ANGSTROM, "angstrom": ANGSTROM, "Å": ANGSTROM, "nm": 1.0, "bohr": BOHR}
ENERGY_UNITS = {"kcal/mol": KILOCALORIE, "kJ/mol": 1.0, "eV": ELECTRONVOLT, "hartree": HARTREE}
MAX_COMMENT = 2**15
"""Letters in the second line of a frame in an XYZ file."""

NEAR = 10.0
"""Molecules farther (nm) than this from the origin are centred before they are stored in single precision."""

MAX_XYZ_COLUMNS = 100
GUESSED = "guessed from covalent radii"
XYZ_UNITS = {"å", "a", "ang", "angstrom", "angstroms", "ev", "ev/a", "ev/å", "ev/ang", "ev/angstrom", "k", "e", "ase"}
"""What a comment may say of units, in small letters."""

CHARGES = dict.fromkeys(("charge", "total_charge", "Q"), "charge")
CHARGES |= dict.fromkeys(("multiplicity", "spin_multiplicity"), "multiplicity")
"""What files call the total charge and the multiplicity, and what the provenance does."""

XYZ_SUFFIXES = (".xyz", ".extxyz")
TRAJECTORY_SUFFIXES = (".xtc", ".dcd", ".trr", ".nc")
HDF5_SUFFIXES = (".h5", ".hdf5", ".h5md")
XYZ_INFO = {"log_weight": "log_weights", "replica": "replica", "time_ps": "times"}
"""What the comment of a frame calls the columns of `Frames`."""

ENERGY_LIKE = re.compile(r"energ|e_?tot|^u0?$|^e$|_e$", re.IGNORECASE)
FORCES_LIKE = re.compile(r"forc|grad|^f$|_f$", re.IGNORECASE)
"""Names that seem to be those of energies and of forces."""

I_PI = re.compile(r"\b(?!cell\b)(\w+)\{(\w+)\}(?=\s+cell\{|\s*$)")
"""Quantity and unit in i-PI's comments: ``positions{angstrom}  cell{atomic_unit}``."""


class ExchangeWarning(UserWarning):
    """Something that a file holds, or should hold, and that is left out."""


@dataclass(frozen=True)
class LabelKeys:
    """What a file calls energies and forces; None for the format's own name, ``none`` to leave them out."""

    energy: str | None = None
    forces: str | None = None


def import_frames(
    path: str | Path,
    temperature: float | None = None,
    structure: str | Path | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
) -> Frames:
    """Frames from another program's file; the suffix says which format it is.

    What a file holds beside positions, energies, forces, temperature, log-weights, replicas and times is left out with
    a warning that names it. Forces and energies are compared with physics, see `label_checks`.

    Args:
        path: Extended XYZ (``.xyz``), npz with sGDML's keys z, R, E, F, MDTraj's HDF5 (``.h5``), a PDB or mmCIF file,
            or a trajectory that mdtraj reads.
        temperature: K; needed where the file does not say it.
        structure: PDB, mmCIF, SDF or SMILES file of the molecule; without it, bonds are guessed from distances where
            the file does not hold them, and trajectories alone cannot be read.
        energy_key: What extended XYZ or npz files call the energy, in eV or the unit of ``e_unit``; ``none`` leaves
            energies out.
        forces_key: The same of the forces, in eV/Å or the unit of energy over that of length.

    Raises:
        FileFormatError: If the file is missing, damaged, of another format, leaves a unit open, or has labels that
            cannot be those of its positions.
        TopologyError: If it does not hold the molecule of ``structure``, or more than one molecule.
        GeometryError: If positions are not finite, overlap, or are in another unit than said.
        ConfigurationError: If the temperature is unknown, or energies and forces go by unknown names.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f'There is no file "{path}".')
    topology = None if structure is None else topology_from_pdb(Path(structure))[0]
    keys = LabelKeys(energy_key, forces_key)
    try:
        return _checked_frames(path, temperature, topology, keys)
    except (FileFormatError, GeometryError, TopologyError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f'In "{path}": {error}') from error


def _checked_frames(path: Path, temperature: float | None, topology: Topology | None, keys: LabelKeys) -> Frames:
    suffix = path.suffix.lower()
    if suffix not in (*XYZ_SUFFIXES, ".npz") and keys != LabelKeys():
        raise ConfigurationError(
            f'Only extended XYZ and npz files have keys of energies and forces; "{path}" has none.'
        )
    if suffix in XYZ_SUFFIXES:
        frames = _read_xyz(path, temperature, topology, keys)
    elif suffix == ".npz":
        frames = _read_npz(path, temperature, topology, keys)
    elif suffix in HDF5_SUFFIXES:
        frames = _read_hdf5(path, temperature, topology)
    elif suffix in STRUCTURE_SUFFIXES:
        frames = _read_models(path, temperature, topology)
    elif suffix in TRAJECTORY_SUFFIXES:
        frames = _read_trajectory(path, temperature, topology)
    else:
        raise ConfigurationError(_formats(path))
    if len(frames) == 0:
        raise FileFormatError(f'"{path}" holds no frames.')
    if frames.log_weights is not None and not np.isfinite(frames.log_weights).any():
        raise FileFormatError(f'No frame of "{path}" has a weight: all log-weights are minus infinity.')
    frames.require_precision()
    require_molecule(frames.topology)
    check_positions(frames.topology, torch.from_numpy(frames.positions))
    check_labels(frames, f'"{path}"')
    warn_of_duplicates(frames, f'"{path}"')
    return frames


def export_frames(frames: Frames, path: str | Path) -> None:
    """Write frames in another program's format, complete or not at all; the suffix says which.

    Extended XYZ and npz keep energies, forces, log-weights, replicas and times; trajectories hold positions alone, and
    a warning names what they lose.

    Raises:
        ConfigurationError: If the suffix is unknown.
        FileFormatError: If the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in XYZ_SUFFIXES:
        write_atomically(path, _xyz(frames))
    elif suffix == ".npz":
        write_atomically(path, _npz(frames))
    elif suffix in (".xtc", ".dcd", ".pdb"):
        lost = [name.replace("_", "-") for name in COLUMNS if name != "positions" and getattr(frames, name) is not None]
        if lost:
            distorted = " Without their weights, the frames are of another distribution." * ("log-weights" in lost)
            warnings.warn(
                f'"{path}" cannot hold {", ".join(lost)}: left out.{distorted} Extended XYZ and npz keep them.',
                ExchangeWarning,
                stacklevel=2,
            )
        _write_trajectory(frames, path)
    else:
        raise ConfigurationError(_formats(path))


def recompute(frames: Frames, potential: Potential, name: str, on_progress: OnProgress = silent) -> Frames:
    """The same frames with energies and forces of ``potential``, and its name in their provenance.

    Raises:
        TopologyError: If the potential is of another molecule.
        GeometryError: If an energy or force is not finite; names the frame.
    """
    frames.require_potential(potential, "the potential")
    difference = describe_difference(frames, potential)
    if difference:
        warnings.warn(
            f"{difference} that the frames held differ from those of {name}, which take their place.",
            ExchangeWarning,
            stacklevel=2,
        )
    energies = np.empty(len(frames))
    forces = np.empty_like(frames.positions)
    for start in range(0, len(frames), BLOCK):
        part = slice(start, start + BLOCK)
        positions = torch.from_numpy(frames.positions[part]).to(potential.device, torch.float64)
        energy, force = potential.energy_and_forces(positions)
        energies[part] = energy.cpu().numpy()
        forces[part] = force.cpu().numpy()
        on_progress(Progress("Energies and forces", min(start + BLOCK, len(frames)), len(frames)))
    provenance = {**frames.provenance, "energies and forces": f"recomputed with {name}"}
    return replace(frames, energies=energies, forces=forces, provenance=provenance)


def _formats(path: Path) -> str:
    known = ", ".join((*XYZ_SUFFIXES, ".npz", ".h5", ".pdb", ".cif", *TRAJECTORY_SUFFIXES))
    return f'The format of "{path}" is unknown by its suffix. Known: {known}.'


def _temperature(path: Path, given: float | None, found: Sequence[object]) -> float:
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


def _whole_column(path: Path, name: str, values: Sequence[Any], remedy: str) -> list[Any] | None:
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


def _numbers(path: Path, name: str, values: Sequence[Any]) -> Any:
    """A column of numbers, one of each frame; None if there are none."""
    found = _whole_column(path, name, values, "")
    if found is None:
        return None
    array = np.array(found)
    if array.shape != (len(found),) or array.dtype.kind not in "fiu":
        raise FileFormatError(f'"{path}": {name} must be a number in each frame, not {str(found[0])[:40]}.')
    return array


def _say_left_out(path: Path, names: Iterable[str]) -> None:
    found = sorted(set(names))
    if found:
        shown = ", ".join(found[:8]) + (f" and {len(found) - 8} more" if len(found) > 8 else "")
        warnings.warn(f'Not read from "{path}": {shown}.', ExchangeWarning, stacklevel=4)


def _require_known_labels(
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


def _checked(
    path: Path, elements: tuple[str, ...], topology: Topology | None, guess: Callable[[], Topology]
) -> Topology:
    if topology is None:
        return guess()
    topology.require_elements(elements, "the structure", f'"{path}"')
    return topology


def _electrons(path: Path, said: Mapping[str, Sequence[object]]) -> dict[str, int]:
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


def _provenance(path: Path, guessed: bool) -> dict[str, Any]:
    return {"imported from": path.name, "bonds": GUESSED if guessed else "of the structure"}


def _import_ase() -> Any:
    try:
        import ase.io
    except ImportError as error:
        raise MissingDependencyError("Extended XYZ", "ase", "ase") from error
    return ase


def _read_xyz(path: Path, temperature: float | None, topology: Topology | None, keys: LabelKeys) -> Frames:
    ase = _import_ase()
    text = read_text(path).replace("\r\n", "\n")
    comments = _require_whole_xyz(path, text)
    length = _xyz_length(path, comments)
    try:
        images = ase.io.read(io.StringIO(text), index=":", format="extxyz")
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
        if atoms.pbc.any():
            raise TopologyError(f'Frame {i} of "{path}" is periodic. Frames are of one molecule in free space.')
    energies = _xyz_labels(path, images, "energy", keys.energy, ())
    forces = _xyz_labels(path, images, "forces", keys.forces, (len(symbols), 3))
    numbers = {name: [_info(atoms, name) for atoms in images] for name in (*XYZ_INFO, "temperature")}
    columns = {column: _numbers(path, name, numbers[name]) for name, column in XYZ_INFO.items()}
    _require_units(path, images)
    said = {name: [_info(atoms, name) for atoms in images] for name in CHARGES}
    electrons = _electrons(path, {k: [v for v in values if v is not None] for k, values in said.items()})
    _say_left_out_of_xyz(path, images, comments, text, keys, energies is not None, forces is not None)
    positions = near_origin(np.array([atoms.positions for atoms in images]) * length, NEAR)
    return Frames(
        topology=_checked(path, symbols, topology, lambda: _guessed_topology(symbols, positions[0])),
        temperature=_temperature(path, temperature, numbers["temperature"]),
        positions=positions,
        forces=None if forces is None else np.array(forces, dtype=np.float64) * (ELECTRONVOLT / ANGSTROM),
        energies=None if energies is None else np.array(energies, dtype=np.float64) * ELECTRONVOLT,
        provenance=_provenance(path, topology is None) | electrons,
        **columns,
    )


def _guessed_topology(elements: tuple[str, ...], positions: Any) -> Topology:
    """Bonds from the distances of one frame, nm."""
    ase = _import_ase()
    return topology_from_ase(ase.Atoms(elements, positions / ANGSTROM))


def _info(atoms: Any, name: str) -> object:
    """What a comment says under a name, however that is capitalized."""
    return next((value for key, value in atoms.info.items() if key.lower() == name), None)


def _xyz_labels(path: Path, images: list[Any], name: str, key: str | None, shape: tuple[int, ...]) -> list[Any] | None:
    """Energies or forces of all frames, by ASE's own name or by the user's."""
    if key == "none":
        return None
    found = []
    for atoms in images:
        results = atoms.calc.results if atoms.calc else {}
        known = {**atoms.arrays, **results} if shape else {**atoms.info, **results}
        found.append(known.get(key or name))
    remedy = f", or leave them out: --{'forces' if shape else 'energy'}-key none"
    values = _whole_column(path, key or name, found, remedy)
    if values is None and key is not None:
        raise ConfigurationError(f'No frame of "{path}" has "{key}".')
    for i, value in enumerate(values or ()):
        if np.shape(value) != shape or np.asarray(value).dtype.kind not in "fiu":
            raise FileFormatError(
                f'"{key or name}" of frame {i} of "{path}" has shape {np.shape(value)} and type '
                f"{np.asarray(value).dtype}; numbers of shape {shape} are needed."
            )
    return values


def _say_left_out_of_xyz(
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
    _require_known_labels(
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
    taken = {*XYZ_INFO, *CHARGES, "temperature"}
    left = [k for k in left if k.lower() not in taken and k != keys.energy]
    left += ["move_mask (atoms that were held: such frames are of another distribution)"] * any(
        atoms.constraints for atoms in images
    )
    left += [k for k in arrays if k not in ("numbers", "positions", keys.forces)]
    left += [k for k in results if (k, has_energies) != ("energy", True) and (k, has_forces) != ("forces", True)]
    if "Properties=" not in comments[0] and len(text.split("\n", 3)[2].split()) > 4:
        left.append("columns beyond x, y and z (name them by Properties=)")
    _say_left_out(path, left)


def _require_units(path: Path, images: list[Any]) -> None:
    """Raise if comments name units that are not those of extended XYZ."""
    for name, value in {k: v for atoms in images for k, v in atoms.info.items()}.items():
        said = {word.casefold() for word in re.split(r"[\s,;]+", str(value)) if word}
        # words of i-PI's comments have no value
        if "unit" in name.lower() and value is not True and not said <= XYZ_UNITS:
            raise FileFormatError(
                f'"{path}" says {name}={str(value)[:40]}; lengths in Å, energies in eV and forces in eV/Å are read. '
                "Convert them, or remove what it says of units if it is not of these."
            )


def _xyz_length(path: Path, comments: list[str]) -> float:
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


def _require_whole_xyz(path: Path, text: str) -> list[str]:
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
    is_wide = all(re.fullmatch("[0-9]{1,9}", width) and 1 <= int(width) <= MAX_XYZ_COLUMNS for width in widths)
    if len(fields) % 3 or not is_wide or dict(zip(names, widths, strict=False)).get("pos") != "3":
        raise FileFormatError(
            f'"{path}" is not an extended XYZ file: the columns of frame {frame} are "{match[0][:200]}". Write name, '
            f"type and width of each, with widths of 1 to {MAX_XYZ_COLUMNS} and positions as pos:R:3."
        )


def _require_once(path: Path, frame: int, comment: str) -> None:
    """Raise if a comment gives a value of ours twice: nobody knows which of the two is meant."""
    plain = re.sub(r"""("[^"]*"|'[^']*'|\{[^}]*\}|\[[^]]*\])""", "", comment)
    names = [name.lower() for name in re.findall(r"(?:^|\s)(\w+)\s*=", plain)]
    for name in ("energy", "forces", "temperature", *CHARGES, *XYZ_INFO):
        if names.count(name) > 1:
            raise FileFormatError(f'"{path}" gives the {name} of frame {frame} twice. Leave one of the two out.')


def _xyz(frames: Frames) -> bytes:
    ase = _import_ase()
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for i in range(len(frames)):
        atoms = ase.Atoms(frames.topology.elements, frames.positions[i].astype(np.float64) / ANGSTROM)
        atoms.info["temperature"] = frames.temperature
        for name, column in XYZ_INFO.items():
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
    ase.io.write(text, images, format="extxyz")
    return text.getvalue().encode()


def _read_npz(path: Path, temperature: float | None, topology: Topology | None, keys: LabelKeys) -> Frames:
    energy_key, forces_key = keys.energy or "E", keys.forces or "F"
    wanted = {key for key in ("z", "R", energy_key, forces_key, *NPZ_EXTRA, *PERIODIC, *CHARGES) if key != "none"}
    arrays, left_out = read_npz(path, wanted)
    others = [name for name in left_out if name not in NPZ_METADATA]
    for name, kinds in NPZ_KINDS.items():
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
    _require_known_labels(
        path,
        keys,
        "the units of r_unit and e_unit",
        () if "E" in arrays else [name for name in others if ENERGY_LIKE.search(name)],
        () if "F" in arrays else [name for name in others if FORCES_LIKE.search(name)],
    )
    _say_left_out(path, others)
    length = _unit(path, arrays, "r_unit", LENGTH_UNITS)
    energy = _unit(path, arrays, "e_unit", ENERGY_UNITS) if energy_key in arrays or forces_key in arrays else 1.0
    if arrays["z"].ndim != 1:
        raise FileFormatError(
            f'"{path}": z must list the atomic number of each atom, the same in all frames, and has shape '
            f"{arrays['z'].shape}."
        )
    by_number = {element.number: symbol for symbol, element in ELEMENTS.items()}
    try:
        elements = tuple(by_number[int(number)] for number in arrays["z"])
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
    electrons = _electrons(path, {name: arrays[name].reshape(-1).tolist() for name in CHARGES if name in arrays})
    if positions.dtype != np.float32:
        positions = near_origin(positions, NEAR)
    return Frames(
        topology=_checked(path, elements, topology, lambda: _guessed_topology(elements, positions[0])),
        temperature=_temperature(path, temperature, _per_frame(arrays.get("temperature"))),
        positions=positions,
        forces=arrays[forces_key] * (energy / length) if forces_key in arrays else None,
        energies=arrays[energy_key].reshape(-1) * energy if energy_key in arrays else None,
        provenance=_provenance(path, topology is None) | electrons,
        **{name: arrays[name] for name in XYZ_INFO.values() if name in arrays},
    )


def _per_frame(values: Any) -> list[object]:
    return [] if values is None else list(np.unique(np.asarray(values).reshape(-1)))


NPZ_EXTRA = ("r_unit", "e_unit", "temperature", "log_weights", "replica", "times")
NPZ_METADATA = (
    *("type", "code_version", "name", "theory", "md5", "perms"),
    *("E_min", "E_max", "E_mean", "E_var", "F_min", "F_max", "F_mean", "F_var"),
)
"""What sGDML writes beside the frames, all of it about them or made from them."""

PERIODIC = ("lattice", "cell", "box", "pbc")
"""Names of what only periodic frames have."""

NPZ_KINDS = {"z": "iu", "R": "fiu", "E": "fiu", "F": "fiu", "temperature": "fiuUS"}
NPZ_KINDS |= {"log_weights": "fiu", "replica": "iu", "times": "fiu"}
"""Kinds of numbers, as numpy calls them."""


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


def _npz(frames: Frames) -> bytes:
    arrays: dict[str, Any] = {
        "type": "d",
        "name": "smoothflow",
        "theory": "unknown",
        "z": np.array([ELEMENTS[symbol].number for symbol in frames.topology.elements], dtype=np.uint8),
        "R": frames.positions.astype(np.float64) / ANGSTROM,
        "r_unit": "Ang",
        "e_unit": "kcal/mol",
        "temperature": frames.temperature,
    }
    if frames.energies is not None:
        arrays["E"] = frames.energies / KILOCALORIE
    if frames.forces is not None:
        arrays["F"] = frames.forces.astype(np.float64) * (ANGSTROM / KILOCALORIE)
    for column in XYZ_INFO.values():
        if getattr(frames, column) is not None:
            arrays[column] = getattr(frames, column)
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def import_mdtraj() -> Any:
    """mdtraj, or a `MissingDependencyError` that names the extra."""
    try:
        import mdtraj
    except ImportError as error:
        raise MissingDependencyError("Reading and writing trajectories", "mdtraj", "mdtraj") from error
    return mdtraj


@contextmanager
def _standard_output_to_error() -> Iterator[None]:
    """What the C code of mdtraj's DCD reader prints is not a result of ours."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _read_models(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    """The models of a PDB or mmCIF file, or the conformers of an SDF file."""
    structure = read_structure(path)
    if topology is not None:
        topology.require_elements(structure.topology.elements, "the structure", f'"{path}"')
        topology.require_bonds(structure.topology, "the structure", f'"{path}"')
    return Frames(
        topology=structure.topology if topology is None else topology,
        temperature=_temperature(path, temperature, ()),
        positions=near_origin(structure.positions.numpy(), NEAR),
        provenance=_provenance(path, False) | ({} if structure.charges is None else {"charge": sum(structure.charges)}),
    )


def _read_trajectory(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    mdtraj = import_mdtraj()
    if topology is None:
        raise ConfigurationError(f'"{path}" says nothing of its atoms. Give the PDB file of the molecule: --structure.')
    try:
        # mdtraj takes the whole file's atoms, in the file's order
        with _standard_output_to_error():
            trajectory = mdtraj.load(str(path), top=_mdtraj_topology(topology))
    # mdtraj's readers raise whatever a wrong byte gives
    except Exception as error:
        raise FileFormatError(f'"{path}" is not a trajectory that mdtraj reads for this structure: {error}.') from error
    if trajectory.unitcell_lengths is not None and (trajectory.unitcell_lengths > 0).any():
        _say_left_out(path, ["its periodic box: the molecule is taken to be whole, and in free space"])
    return Frames(
        topology=topology,
        temperature=_temperature(path, temperature, ()),
        positions=trajectory.xyz,
        provenance=_provenance(path, False),
    )


def _read_hdf5(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    found = read_mdtraj_hdf5(path)
    if topology is not None:
        topology.require_elements(found.topology.elements, "the structure", f'"{path}"')
        topology.require_bonds(found.topology, "the structure", f'"{path}"')
    _say_left_out(path, found.left_out)
    return Frames(
        topology=found.topology if topology is None else topology,
        temperature=_temperature(path, temperature, ()),
        positions=found.positions,
        energies=found.energies,
        times=found.times,
        provenance=_provenance(path, False),
    )


def _mdtraj_topology(topology: Topology) -> Any:
    mdtraj = import_mdtraj()
    made = mdtraj.Topology()
    chain = made.add_chain()
    residue = None
    last: Atom | None = None
    for atom in topology.atoms:
        if last is None or atom.residue_index != last.residue_index:
            residue = made.add_residue(atom.residue_name, chain)
        made.add_atom(atom.name, mdtraj.element.Element.getBySymbol(atom.element), residue)
        last = atom
    for first, second in topology.bonds:
        made.add_bond(made.atom(first), made.atom(second))
    return made


def _write_trajectory(frames: Frames, path: Path) -> None:
    trajectory = import_mdtraj().Trajectory(frames.positions, _mdtraj_topology(frames.topology))
    # mdtraj writes to a name; the content then goes the atomic way
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        trajectory.save(str(temporary))
        write_atomically(path, temporary.read_bytes())
