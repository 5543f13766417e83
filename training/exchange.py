"""Frames from and to the formats of other programs: extended XYZ, npz with sGDML's keys, and trajectories.

Units are converted here: extended XYZ as ASE writes it is in Å and eV; npz files say theirs; mdtraj works in nm.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..coordinates.checks import check_frames
from ..coordinates.elements import ELEMENTS
from ..coordinates.topologies import topology_from_ase, topology_from_mdtraj, topology_from_pdb
from ..coordinates.topology_checks import require_molecule
from ..core.errors import ConfigurationError, FileFormatError, MissingDependencyError, TopologyError
from ..core.files import write_atomically
from ..core.potential import Potential
from ..core.topology import Atom, Topology
from ..core.units import ANGSTROM, ELECTRONVOLT
from .frames import BLOCK, Frames
from .progress import OnProgress, Progress, silent

KILOCALORIE = 4.184
"""One kcal/mol in kJ/mol (exact: the thermochemical calorie)."""

LENGTH_UNITS = {"Ang": ANGSTROM, "A": ANGSTROM, "angstrom": ANGSTROM, "nm": 1.0}
ENERGY_UNITS = {"kcal/mol": KILOCALORIE, "kJ/mol": 1.0, "eV": ELECTRONVOLT}
MAX_EXPANSION = 20
"""Arrays of numbers are not compressed by more than this factor."""

SMALL = 2**24
"""Bytes that any npz file may unpack to."""

MAX_COMMENT = 2**14
"""Bytes in the second line of a frame in an XYZ file."""

MAX_XYZ_COLUMNS = 100
GUESSED = "guessed from covalent radii"
XYZ_SUFFIXES = (".xyz", ".extxyz")
TRAJECTORY_SUFFIXES = (".xtc", ".dcd", ".pdb", ".trr", ".nc", ".h5md")


def import_frames(path: str | Path, temperature: float | None = None, structure: str | Path | None = None) -> Frames:
    """Frames from another program's file; the suffix says which format it is.

    Args:
        path: Extended XYZ (``.xyz``), npz with sGDML's keys z, R, E, F, or a trajectory that mdtraj reads.
        temperature: K; needed where the file does not say it.
        structure: PDB file of the molecule; without it, bonds are guessed from distances, and trajectories other than
            PDB cannot be read.

    Raises:
        FileFormatError: If the file is missing, damaged, of another format or leaves a unit open.
        TopologyError: If it does not hold the molecule of ``structure``, or more than one molecule.
        GeometryError: If positions are not finite, overlap, or are in another unit than said.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f'There is no file "{path}".')
    topology = None if structure is None else topology_from_pdb(Path(structure))[0]
    if path.suffix in XYZ_SUFFIXES:
        frames = _read_xyz(path, temperature, topology)
    elif path.suffix == ".npz":
        frames = _read_npz(path, temperature, topology)
    elif path.suffix in TRAJECTORY_SUFFIXES:
        frames = _read_trajectory(path, temperature, structure, topology)
    else:
        raise ConfigurationError(_formats(path))
    if len(frames) == 0:
        raise FileFormatError(f'"{path}" holds no frames.')
    require_molecule(frames.topology)
    check_frames(frames.topology, torch.from_numpy(frames.positions))
    return frames


def export_frames(frames: Frames, path: str | Path) -> None:
    """Write frames in another program's format, complete or not at all; the suffix says which.

    Extended XYZ and npz keep energies and forces; trajectories hold positions alone.

    Raises:
        ConfigurationError: If the suffix is unknown.
        FileFormatError: If the file cannot be written.
    """
    path = Path(path)
    if path.suffix in XYZ_SUFFIXES:
        write_atomically(path, _xyz(frames))
    elif path.suffix == ".npz":
        write_atomically(path, _npz(frames))
    elif path.suffix in (".xtc", ".dcd", ".pdb"):
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
    energies = np.empty(len(frames))
    forces = np.empty_like(frames.positions)
    for start in range(0, len(frames), BLOCK):
        part = slice(start, start + BLOCK)
        energy, force = potential.energy_and_forces(torch.from_numpy(frames.positions[part]).double())
        energies[part] = energy.cpu().numpy()
        forces[part] = force.cpu().numpy()
        on_progress(Progress("Energies and forces", min(start + BLOCK, len(frames)), len(frames)))
    provenance = {**frames.provenance, "energies and forces": f"recomputed with {name}"}
    return replace(frames, energies=energies, forces=forces, provenance=provenance)


def _formats(path: Path) -> str:
    known = ", ".join((*XYZ_SUFFIXES, ".npz", *TRAJECTORY_SUFFIXES))
    return f'The format of "{path}" is unknown by its suffix. Known: {known}.'


def _temperature(path: Path, given: float | None, found: object) -> float:
    if given is not None:
        return given
    if isinstance(found, (int, float)):
        return float(found)
    raise ConfigurationError(f'"{path}" does not say at which temperature its frames were drawn. Give it in K.')


def _checked(
    path: Path, elements: tuple[str, ...], topology: Topology | None, guess: Callable[[], Topology]
) -> Topology:
    if topology is None:
        return guess()
    topology.require_elements(elements, "the structure", f'"{path}"')
    return topology


def _provenance(path: Path, guessed: bool) -> dict[str, str]:
    return {"imported from": path.name, "bonds": GUESSED if guessed else "of the structure"}


def _import_ase() -> Any:
    try:
        import ase.io
    except ImportError as error:
        raise MissingDependencyError("Extended XYZ", "ase", "ase") from error
    return ase


def _read_xyz(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    ase = _import_ase()
    _require_whole_xyz(path)
    try:
        images = ase.io.read(path, index=":", format="extxyz")
    # ASE's reader raises whatever a wrong column gives
    except Exception as error:
        raise FileFormatError(f'"{path}" is no extended XYZ file, or it is truncated: {error}.') from error
    if not images:
        raise FileFormatError(f'"{path}" holds no frames.')
    symbols = tuple(images[0].get_chemical_symbols())
    for i, atoms in enumerate(images):
        if tuple(atoms.get_chemical_symbols()) != symbols:
            raise TopologyError(f'Frame {i} of "{path}" holds other atoms than frame 0. Keep one molecule per file.')
        if atoms.pbc.any():
            raise TopologyError(f'Frame {i} of "{path}" is periodic. Frames are of one molecule in free space.')
    results = [atoms.calc.results if atoms.calc else {} for atoms in images]

    def column(name: str, unit: float) -> Any:
        return unit * np.array([r[name] for r in results]) if all(name in r for r in results) else None

    return Frames(
        topology=_checked(path, symbols, topology, lambda: topology_from_ase(images[0])),
        temperature=_temperature(path, temperature, images[0].info.get("temperature")),
        positions=np.array([atoms.positions for atoms in images]) * ANGSTROM,
        forces=column("forces", ELECTRONVOLT / ANGSTROM),
        energies=column("energy", ELECTRONVOLT),
        provenance=_provenance(path, topology is None),
    )


def _require_whole_xyz(path: Path) -> None:
    """Raise a `FileFormatError` unless every frame has the lines it claims, and few columns: ASE believes any claim."""
    with path.open("rb") as file:
        for i, line in enumerate(iter(lambda: file.readline(MAX_COMMENT), b"")):
            if not line.strip() or line.startswith(b"VEC"):
                continue
            comment = file.readline(MAX_COMMENT)
            widths = re.findall(rb":\s*(\d+)", comment)
            claimed = int(line) if re.fullmatch(rb"\s*\d{1,9}\s*", line) else 0
            if (
                claimed == 0
                or not comment.endswith(b"\n")
                or any(len(width) > 3 or int(width) > MAX_XYZ_COLUMNS for width in widths)
                or not all(file.readline(MAX_COMMENT) for _ in range(claimed))
            ):
                raise FileFormatError(f'"{path}" is no extended XYZ file, or it is truncated in its frame {i}.')


def _xyz(frames: Frames) -> bytes:
    ase = _import_ase()
    from ase.calculators.singlepoint import SinglePointCalculator

    images = []
    for i in range(len(frames)):
        atoms = ase.Atoms(frames.topology.elements, frames.positions[i].astype(np.float64) / ANGSTROM)
        atoms.info["temperature"] = frames.temperature
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


def _read_npz(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {f"{key}.npy": key for key in ("z", "R", "E", "F", *NPZ_EXTRA)}
            members = [member for member in archive.infolist() if member.filename in names]
            size = sum(member.file_size for member in members)
            if size > max(SMALL, MAX_EXPANSION * path.stat().st_size):
                raise FileFormatError(f'"{path}" would unpack to {size} bytes, which is no compression of frames.')
            arrays = {
                names[member.filename]: np.lib.format.read_array(io.BytesIO(archive.read(member)), allow_pickle=False)
                for member in members
            }
    # besides damage: arrays that claim more than there is, and compression that Python does not know
    except (*NPZ_ERRORS, MemoryError, NotImplementedError, RuntimeError) as error:
        raise FileFormatError(f'"{path}" is no npz file, or it is truncated: {error}.') from error
    for key, kinds in NPZ_KINDS.items():
        if key in arrays and arrays[key].dtype.kind not in kinds:
            raise FileFormatError(f'"{path}": {key} must hold numbers, not {arrays[key].dtype}.')
    missing = [key for key in ("z", "R") if key not in arrays]
    if missing:
        raise FileFormatError(f'"{path}" lacks the key "{missing[0]}". sGDML\'s keys are expected: z, R, E and F.')
    length = _unit(path, arrays, "r_unit", LENGTH_UNITS)
    energy = _unit(path, arrays, "e_unit", ENERGY_UNITS) if "E" in arrays or "F" in arrays else 1.0
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

    def guess() -> Topology:
        ase = _import_ase()
        return topology_from_ase(ase.Atoms(elements, positions[0] / ANGSTROM))

    return Frames(
        topology=_checked(path, elements, topology, guess),
        temperature=_temperature(
            path, temperature, arrays["temperature"].tolist() if "temperature" in arrays else None
        ),
        positions=positions,
        forces=arrays["F"] * (energy / length) if "F" in arrays else None,
        energies=arrays["E"].reshape(-1) * energy if "E" in arrays else None,
        provenance=_provenance(path, topology is None),
    )


NPZ_EXTRA = ("r_unit", "e_unit", "temperature")
NPZ_KINDS = {"z": "iu", "R": "fiu", "E": "fiu", "F": "fiu", "temperature": "fiu"}
"""Kinds of numbers, as numpy calls them."""

NPZ_ERRORS = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)


def _unit(path: Path, arrays: dict[str, Any], key: str, known: dict[str, float]) -> float:
    value = arrays.get(key, np.array("")).reshape(-1)[:1]
    text = "".join(v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in value.tolist())
    if text not in known:
        said = f'says {key} "{text}"' if text else f'does not say its unit (key "{key}")'
        raise FileFormatError(f'"{path}" {said}. Known: {", ".join(known)}. Add the key with numpy.savez.')
    return known[text]


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
    """What the C code of mdtraj's DCD reader prints is no result of ours."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _read_trajectory(
    path: Path, temperature: float | None, structure: str | Path | None, topology: Topology | None
) -> Frames:
    mdtraj = import_mdtraj()
    if structure is None and path.suffix != ".pdb":
        raise ConfigurationError(f'"{path}" says nothing of its atoms. Give the PDB file of the molecule as well.')
    try:
        # mdtraj takes the whole file's atoms, in the file's order
        options = {} if structure is None else {"top": str(structure)}
        with _standard_output_to_error():
            trajectory = mdtraj.load(str(path), **options)
    # mdtraj's readers raise whatever a wrong byte gives
    except Exception as error:
        raise FileFormatError(f'"{path}" is no trajectory that mdtraj reads for this structure: {error}.') from error
    elements = tuple(atom.element.symbol for atom in trajectory.topology.atoms)
    return Frames(
        topology=_checked(path, elements, topology, lambda: topology_from_mdtraj(trajectory.topology)),
        temperature=_temperature(path, temperature, None),
        positions=trajectory.xyz,
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
