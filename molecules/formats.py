"""Frames from and to the formats of other programs: extended XYZ, npz with sGDML's keys, and trajectories.

Units are converted here: extended XYZ as ASE writes it is in Å and eV; npz files say theirs; mdtraj works in nm.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..core.errors import ConfigurationError, FileFormatError, GeometryError, TopologyError
from ..core.files import write_atomically
from ..core.potential import Potential
from ..runs.progress import OnProgress, Progress, silent
from .checks import check_positions
from .extended_xyz import read_xyz, read_xyz_system, xyz_content
from .foreign import ExchangeWarning, LabelKeys
from .foreign_hdf5 import read_hdf5_system, read_mdtraj_hdf5
from .frames import BLOCK, COLUMNS, Frames
from .label_checks import check_labels, describe_difference, warn_of_duplicates
from .parts import Selection, select_part
from .pdb import write_pdb
from .sgdml import read_sgdml, sgdml_content
from .topologies import STRUCTURE_SUFFIXES, topology_from_pdb
from .topology_checks import require_molecule
from .trajectories import read_models, read_selected, read_trajectory, write_trajectory

XYZ_SUFFIXES = (".xyz", ".extxyz")
TRAJECTORY_SUFFIXES = (".xtc", ".dcd", ".trr", ".nc")
HDF5_SUFFIXES = (".h5", ".hdf5", ".h5md")


def import_frames(
    path: str | Path,
    temperature: float | None = None,
    structure: str | Path | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    selection: Selection | None = None,
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
        selection: The atoms of a system to take, with molecules whole: see `parts.select_part`. The file and
            ``structure`` may then be of many molecules, and in a periodic box.

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
    structure, keys = None if structure is None else Path(structure), LabelKeys(energy_key, forces_key)
    if path.suffix.lower() not in (*XYZ_SUFFIXES, ".npz") and keys != LabelKeys():
        raise ConfigurationError(
            f'Only extended XYZ and npz files have keys of energies and forces; "{path}" has none.'
        )
    try:
        if selection is None:
            return _checked(path, _molecule(path, temperature, structure, keys))
        return _checked(path, _part(path, temperature, structure, keys, selection))
    except (FileFormatError, GeometryError, TopologyError) as error:
        if str(path) in str(error):
            raise
        raise type(error)(f'In "{path}": {error}') from error


def _molecule(path: Path, temperature: float | None, structure: Path | None, keys: LabelKeys) -> Frames:
    """Frames of a molecule alone."""
    suffix = path.suffix.lower()
    topology = None if structure is None else topology_from_pdb(structure)[0]
    if suffix in XYZ_SUFFIXES:
        return read_xyz(path, temperature, topology, keys)
    if suffix == ".npz":
        return read_sgdml(path, temperature, topology, keys)
    if suffix in HDF5_SUFFIXES:
        return read_mdtraj_hdf5(path, temperature, topology)
    if suffix in STRUCTURE_SUFFIXES:
        return read_models(path, temperature, topology)
    if suffix in TRAJECTORY_SUFFIXES:
        return read_trajectory(path, temperature, topology)
    raise ConfigurationError(_formats(path))


def _part(
    path: Path, temperature: float | None, structure: Path | None, keys: LabelKeys, selection: Selection
) -> Frames:
    """Frames of selected atoms of a system."""
    suffix, box = path.suffix.lower(), None
    if suffix in (*STRUCTURE_SUFFIXES, *TRAJECTORY_SUFFIXES):
        return read_selected(path, temperature, structure, selection)
    topology = None if structure is None else topology_from_pdb(structure)[0]
    if suffix in XYZ_SUFFIXES:
        frames, box = read_xyz_system(path, temperature, topology, keys)
    elif suffix in HDF5_SUFFIXES:
        frames, box = read_hdf5_system(path, temperature, topology)
    elif suffix == ".npz":
        frames = read_sgdml(path, temperature, topology, keys)
    else:
        raise ConfigurationError(_formats(path))
    return select_part(frames, selection, box, f'"{path}"')


def _checked(path: Path, frames: Frames) -> Frames:
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
        write_atomically(path, xyz_content(frames))
    elif suffix == ".npz":
        write_atomically(path, sgdml_content(frames))
    elif suffix in (".xtc", ".dcd", ".pdb"):
        lost = [name.replace("_", "-") for name in COLUMNS if name != "positions" and getattr(frames, name) is not None]
        if lost:
            distorted = " Without their weights, the frames are of another distribution." * ("log-weights" in lost)
            warnings.warn(
                f'"{path}" cannot hold {", ".join(lost)}: left out.{distorted} Extended XYZ and npz keep them.',
                ExchangeWarning,
                stacklevel=2,
            )
        if suffix == ".pdb":
            write_pdb(frames.topology, torch.from_numpy(frames.positions), path)
        else:
            write_trajectory(frames, path)
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
