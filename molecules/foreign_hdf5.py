"""HDF5 files of other programs: MDTraj's trajectories are read, others are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ..core.errors import FileFormatError, TopologyError
from ..core.files import parse_json
from ..core.topology import Atom, Topology
from .conversions import make_topology
from .foreign import given_or_found, one_temperature, provenance_of, say_left_out
from .frames import Frames
from .frames_reader import FORMAT, HDF5_ERRORS, MAX_JSON_BYTES, import_h5py

SMALL = 2**26
"""Bytes that any file may unpack to."""

MAX_EXPANSION = 20
"""Coordinates are not compressed by more than this factor."""


def is_frames_file(path: Path) -> bool:
    """Whether an HDF5 file is one of ours, whatever its state; False if it is another program's."""
    try:
        return kind_of_hdf5(path) == FORMAT
    except FileFormatError:
        # its own reader explains better what is wrong
        return True


def kind_of_hdf5(path: Path) -> str:
    """What an HDF5 file is: ours, ``mdtraj``, ``h5md``, ``spice`` (one group for each molecule) or ``unknown``.

    Raises:
        FileFormatError: If it is not HDF5, or damaged.
    """
    h5py = import_h5py()
    try:
        with h5py.File(path, "r", locking=False) as file:
            if _text(file.attrs.get("format", "")) == FORMAT:
                return FORMAT
            conventions = _text(file.attrs.get("conventions", ""))
            if "Pande" in conventions or {"coordinates", "topology"} <= set(file):
                return "mdtraj"
            if "h5md" in file or "particles" in file:
                return "h5md"
            groups = [item for item in (file.get(name) for name in list(file)[:5]) if isinstance(item, h5py.Group)]
            if groups and all({"atomic_numbers", "conformations"} & set(group) for group in groups):
                return "spice"
            return "unknown"
    except HDF5_ERRORS as error:
        raise FileFormatError(f'"{path}" is not an HDF5 file, or it is damaged: {error}.') from error


def read_mdtraj_hdf5(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    """Frames of what MDTraj's ``Trajectory.save_hdf5`` and ``HDF5Reporter`` write; see `formats.import_frames`.

    Raises:
        FileFormatError: If the file is of another program, which the message names, or damaged.
        TopologyError: If its topology cannot be read, or is another molecule's.
    """
    frames, box = read_hdf5_system(path, temperature, topology)
    if box is not None:
        say_left_out(path, ["its periodic box: the molecule is taken to be whole, and in free space"])
    return frames


def read_hdf5_system(
    path: Path, temperature: float | None, topology: Topology | None
) -> tuple[Frames, Float[np.ndarray, "frames 3 3"] | None]:
    """The same of a system that may be periodic, and the vectors of its box (nm) in rows; None if it has none."""
    kind = kind_of_hdf5(path)
    if kind != "mdtraj":
        raise FileFormatError(_OTHERS[kind].format(path=path))
    h5py = import_h5py()
    try:
        with h5py.File(path, "r", locking=False) as file:
            positions = _array(path, file, "coordinates", "nanometers")
            found = _topology(path, file)
            if positions.shape[1:] != (len(found), 3):
                raise FileFormatError(
                    f'"{path}": its coordinates have shape {positions.shape} for {len(found)} atoms of its topology.'
                )
            energies = (
                _array(path, file, "potentialEnergy", "kilojoules_per_mole") if "potentialEnergy" in file else None
            )
            box = _box(path, file) if "cell_lengths" in file and not _is_empty(file, "cell_lengths") else None
            times = _array(path, file, "time", "picoseconds") if "time" in file else None
            taken = ("coordinates", "topology", "potentialEnergy", "time", "cell_lengths", "cell_angles")
            left_out = [name for name in file if name not in taken and not _is_empty(file, name)]
    except (*HDF5_ERRORS, KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f'"{path}" is damaged ({type(error).__name__}: {error}). Write it anew.') from error
    said = {"temperature": "temperature (the momentary one)"}
    say_left_out(path, [said.get(name, name) for name in left_out])
    frames = Frames(
        topology=given_or_found(path, topology, found),
        temperature=one_temperature(path, temperature, ()),
        positions=positions,
        energies=energies,
        times=times,
        provenance=provenance_of(path, False),
    )
    return frames, box


def _box(path: Path, file: Any) -> Float[np.ndarray, "frames 3 3"]:
    r"""Vectors a along x, b in the plane of x and y, and c, of lengths and angles (degrees)."""
    lengths, angles = _array(path, file, "cell_lengths", "nanometers"), _array(path, file, "cell_angles", "degrees")
    if lengths.shape != angles.shape or lengths.ndim != 2 or lengths.shape[1] != 3:
        raise ValueError(f"cell_lengths of shape {lengths.shape} and cell_angles of {angles.shape}")
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(angles.astype(np.float64))).T
    sin_gamma = np.sqrt(1 - cos_gamma**2)
    c_y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    directions = np.zeros((len(lengths), 3, 3))
    directions[:, 0, 0] = 1
    directions[:, 1, :2] = np.stack([cos_gamma, sin_gamma], axis=1)
    directions[:, 2] = np.stack([cos_beta, c_y, np.sqrt(1 - cos_beta**2 - c_y**2)], axis=1)
    found: Float[np.ndarray, "frames 3 3"] = directions * lengths[:, :, None]
    return found


def _array(path: Path, file: Any, name: str, unit: str) -> Any:
    dataset = _own(path, file, name)
    if dataset.dtype.kind not in "fiu":
        raise FileFormatError(f'"{path}": {name} must be numbers, not of type {dataset.dtype}.')
    found = _text(dataset.attrs.get("units", unit))
    if found not in (unit, {"kilojoules_per_mole": "kilojoule/mole", "picoseconds": "picosecond"}.get(unit, unit)):
        raise FileFormatError(f'"{path}": {name} are in {found}, and {unit} are expected.')
    return dataset[:]


def _is_empty(file: Any, name: str) -> bool:
    """Whether it is an array without rows, as MDTraj leaves those that nobody filled."""
    if not isinstance(file.get(name, getlink=True), import_h5py().HardLink):
        return False
    return getattr(file[name], "shape", None) is not None and file[name].shape[:1] == (0,)


def _own(path: Path, file: Any, name: str) -> Any:
    """A dataset that lies in the file itself and does not unpack to far more than the file is.

    Raises:
        FileFormatError: If it is missing, a link, or of data elsewhere: files may name any file of whoever reads them.
    """
    h5py = import_h5py()
    link = file.get(name, getlink=True)
    if link is None:
        raise FileFormatError(f'"{path}" has no {name}, which a trajectory of MDTraj needs.')
    dataset = file[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None or dataset.is_virtual or dataset.external:
        raise FileFormatError(f'"{path}": {name} must be an array in the file itself.')
    n_bytes, allowed = dataset.size * dataset.dtype.itemsize, max(SMALL, MAX_EXPANSION * path.stat().st_size)
    if n_bytes > allowed:
        raise FileFormatError(f'"{path}": {name} would unpack to {n_bytes} bytes, and no more than {allowed} are read.')
    return dataset


def _topology(path: Path, file: Any) -> Topology:
    text = np.asarray(_own(path, file, "topology")[()]).reshape(-1)[0]
    try:
        if len(text) > MAX_JSON_BYTES:
            raise TopologyError(f'"{path}": its topology is too large.')
        data = parse_json(text)
        if isinstance(data, str):
            data = parse_json(data)
        residues = [residue for chain in data["chains"] for residue in chain["residues"]]
        atoms = [
            (int(atom["index"]), Atom(str(atom["element"]), str(atom["name"]), str(residue["name"]), number))
            for number, residue in enumerate(residues)
            for atom in residue["atoms"]
        ]
        bonds = [(int(bond[0]), int(bond[1])) for bond in data.get("bonds", ())]
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise TopologyError(
            f'"{path}": its topology is not the JSON that MDTraj writes ({type(error).__name__}: {error}).'
        ) from error
    if sorted(i for i, _ in atoms) != list(range(len(atoms))):
        raise TopologyError(f'"{path}": the atoms of its topology are not numbered from 0, each once.')
    return make_topology([atom for _, atom in sorted(atoms, key=lambda found: found[0])], bonds)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


_OTHERS = {
    FORMAT: '"{path}" is a frames file already.',
    "h5md": '"{path}" is an H5MD file, which is not read here. Write its frames as extended XYZ or xtc, for example '
    "with MDAnalysis, and give --structure.",
    "spice": '"{path}" is a collection of many molecules (one group for each, as in SPICE), and frames are of one. '
    "Write the molecule that you mean as npz with the keys z, R, E, F, r_unit and e_unit.",
    "unknown": '"{path}" is an HDF5 file of an unknown kind: neither frames of smoothflow nor a trajectory of MDTraj. '
    "Write it as npz with the keys z, R, E, F, r_unit and e_unit.",
}
