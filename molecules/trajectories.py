"""Positions alone: trajectories that MDTraj reads and writes, and the models of structure files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..core.errors import ConfigurationError, FileFormatError
from ..core.files import write_atomically
from ..core.optional import import_optional
from ..core.topology import Topology
from .conversions import topology_from_mdtraj, topology_to_mdtraj
from .foreign import NEAR, given_or_found, one_temperature, provenance_of, say_left_out
from .frames import Frames, near_origin
from .parts import Selection, molecules_of, take_part
from .topologies import read_structure

CHUNK = 1000
"""Frames read at a time."""

TOPOLOGIES = (".gro", ".psf", ".prmtop", ".parm7")
WITH_TOPOLOGY = (".pdb", ".cif", ".mmcif")
"""Files of which MDTraj reads a topology, virtual sites included: alone, and beside positions."""


def import_mdtraj() -> Any:
    """MDTraj, or a `MissingDependencyError` that names the extra."""
    return import_optional("mdtraj", "Reading and writing trajectories", "mdtraj")


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


def read_models(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    """The models of a PDB or mmCIF file, or the conformers of an SDF file."""
    structure = read_structure(path)
    charge = {} if structure.charges is None else {"charge": sum(structure.charges)}
    return Frames(
        topology=given_or_found(path, topology, structure.topology),
        temperature=one_temperature(path, temperature, ()),
        positions=near_origin(structure.positions.numpy(), NEAR),
        provenance=provenance_of(path, False) | charge,
    )


def read_trajectory(path: Path, temperature: float | None, topology: Topology | None) -> Frames:
    """Frames in a trajectory of a molecule, which must be given."""
    mdtraj = import_mdtraj()
    if topology is None:
        raise ConfigurationError(f'"{path}" says nothing of its atoms. Give the PDB file of the molecule: --structure.')
    theirs = topology_to_mdtraj(topology)
    try:
        # mdtraj takes the whole file's atoms, in the file's order
        with _standard_output_to_error():
            trajectory = mdtraj.load(str(path), top=theirs)
    # mdtraj's readers raise whatever a wrong byte gives
    except Exception as error:
        raise FileFormatError(f'"{path}" is not a trajectory that mdtraj reads for this structure: {error}.') from error
    if trajectory.unitcell_lengths is not None and (trajectory.unitcell_lengths > 0).any():
        say_left_out(path, ["its periodic box: the molecule is taken to be whole, and in free space"])
    return Frames(
        topology=topology,
        temperature=one_temperature(path, temperature, ()),
        positions=trajectory.xyz,
        provenance=provenance_of(path, False),
    )


def read_selected(path: Path, temperature: float | None, structure: Path | None, selection: Selection) -> Frames:
    """Frames of the selected atoms in a trajectory of a system, with their molecules whole; see `parts.select_part`.

    Only the molecules of the selected atoms are read: the solvent need not fit into the memory.

    Args:
        path: Any trajectory that MDTraj reads.
        temperature: K.
        structure: File of the system's topology, also of a kind that MDTraj alone reads; a file that holds its own
            topology needs none.
        selection: Which atoms.
    """
    mdtraj = import_mdtraj()
    holds_topology = path.suffix.lower() in WITH_TOPOLOGY
    if structure is None and not holds_topology:
        raise ConfigurationError(f'"{path}" says nothing of its atoms. Give a file of the system: --structure.')
    theirs = _topology_for_mdtraj(path if structure is None else structure)
    chosen = selection.indices(theirs)
    read = molecules_of(theirs, chosen)
    parts, boxes = [], []
    try:
        with _standard_output_to_error():
            options = {} if holds_topology else {"top": theirs}
            # with chosen atoms, MDTraj would not notice a trajectory of more atoms
            n_found = mdtraj.load_frame(str(path), 0, **options).n_atoms
            for part in mdtraj.iterload(str(path), chunk=CHUNK, atom_indices=read, **options):
                parts.append(part.xyz)
                has_box = part.unitcell_lengths is not None and bool((part.unitcell_lengths > 0).all())
                boxes.append(part.unitcell_vectors if has_box else None)
    # mdtraj's readers raise whatever a wrong byte gives
    except Exception as error:
        raise FileFormatError(f'"{path}" is not a trajectory that mdtraj reads for this structure: {error}.') from error
    if n_found != theirs.n_atoms:
        raise FileFormatError(f'"{path}" holds {n_found} atoms, and "{structure}" {theirs.n_atoms}.')
    if not parts:
        raise FileFormatError(f'"{path}" holds no frames.')
    known = [each for each in boxes if each is not None]
    box = np.concatenate(known) if len(known) == len(boxes) else None
    frames = Frames(
        topology=topology_from_mdtraj(theirs.subset(read)),
        temperature=one_temperature(path, temperature, ()),
        positions=np.concatenate(parts),
        provenance=provenance_of(path, False),
    )
    place = {atom: i for i, atom in enumerate(read)}
    return take_part(frames, [place[atom] for atom in chosen], selection, theirs.n_atoms, box, f'"{path}"')


def _topology_for_mdtraj(path: Path) -> Any:
    """The topology of a file as MDTraj's, by MDTraj itself where it knows the format."""
    suffix, mdtraj = path.suffix.lower(), import_mdtraj()
    if suffix not in (*TOPOLOGIES, *WITH_TOPOLOGY):
        return topology_to_mdtraj(read_structure(path).topology)
    try:
        if suffix in WITH_TOPOLOGY:
            return mdtraj.load_frame(str(path), 0).topology
        return mdtraj.load_topology(str(path))
    # mdtraj's readers raise whatever a wrong line gives
    except Exception as error:
        raise FileFormatError(
            f'MDTraj reads no topology from "{path}" ({type(error).__name__}: {error}). Give a PDB, gro, psf or prmtop '
            "file of the system."
        ) from error


def write_trajectory(frames: Frames, path: Path) -> None:
    """Write positions as a trajectory, in the format of the suffix; complete or not at all."""
    mdtraj = import_mdtraj()
    trajectory = mdtraj.Trajectory(frames.positions, topology_to_mdtraj(frames.topology))
    # mdtraj writes to a name; the content then goes the atomic way
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        trajectory.save(str(temporary))
        write_atomically(path, temporary.read_bytes())
