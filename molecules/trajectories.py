"""Positions alone: trajectories that MDTraj reads and writes, and the models of structure files."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..core.errors import ConfigurationError, FileFormatError
from ..core.files import write_atomically
from ..core.optional import import_optional
from ..core.topology import Topology
from .conversions import topology_to_mdtraj
from .foreign import NEAR, given_or_found, one_temperature, provenance_of, say_left_out
from .frames import Frames, near_origin
from .topologies import read_structure


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


def write_trajectory(frames: Frames, path: Path) -> None:
    """Write positions as a trajectory, in the format of the suffix; complete or not at all."""
    mdtraj = import_mdtraj()
    trajectory = mdtraj.Trajectory(frames.positions, topology_to_mdtraj(frames.topology))
    # mdtraj writes to a name; the content then goes the atomic way
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / path.name
        trajectory.save(str(temporary))
        write_atomically(path, temporary.read_bytes())
