"""Where a run of molecular dynamics begins: frames, a PDB file, or samples of the model."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..coordinates.topologies import STRUCTURE_SUFFIXES, topology_from_pdb
from ..core.errors import ConfigurationError, TopologyError
from ..core.files import file_digest
from ..core.topology import Topology
from ..potentials.flow_potential import FlowPotential
from .frames import Frames
from .frames_file import FramesReader


def starting_positions(
    potential: FlowPotential, start: Path | None, n_replicas: int, generator: torch.Generator
) -> Float[Tensor, "replicas atoms 3"]:
    """Positions (nm) in the precision and on the device of a model.

    Args:
        potential: The model.
        start: Frames (HDF5) or a structure file of the model's molecule: the first configurations in it, or the only
            one for all replicas. None for samples of the model.
        n_replicas: How many.
        generator: Of the samples.

    Raises:
        FileFormatError: If the file cannot be read.
        TopologyError: If it holds another molecule, or the atoms in another order.
        GeometryError: If its positions are not finite, overlap, or are in another unit.
        ConfigurationError: If it holds too few configurations.
    """
    if start is None:
        with torch.no_grad():
            return potential.sample(n_replicas, generator)[0]
    topology = potential.coordinates.topology
    if start.suffix.lower() in STRUCTURE_SUFFIXES:
        found, configurations = topology_from_pdb(start)
        kind = Frames(found, potential.temperature, np.zeros((0, len(found), 3), dtype=np.float32))
        kind.require_topology(topology, "the model")
        _require_names(topology, found, start)
    else:
        with FramesReader(start) as reader:
            frames = reader.read(0, n_replicas)
        frames.require_topology(topology, "the model")
        frames.require_precision()
        configurations = torch.from_numpy(frames.positions)
    if len(configurations) != 1 and len(configurations) < n_replicas:
        raise ConfigurationError(
            f'"{start}" has {len(configurations)} configurations, too few to start {n_replicas} replicas.'
        )
    if len(configurations) == 1:
        configurations = configurations.repeat(n_replicas, 1, 1)
    configurations = configurations[:n_replicas]
    potential.coordinates.check_geometry(configurations)
    return configurations.to(next(potential.parameters()).device, potential.dtype)


def origin_of(model: Path, start: Path | None) -> dict[str, Any]:
    """What a run is of: the names of its files, and what is in them."""
    versions = {"smoothflow": version("smoothflow"), "torch": torch.__version__}
    origin = {"model": model.name, "model_sha256": file_digest(model), "versions": versions}
    if start is not None:
        origin |= {"start": start.name, "start_sha256": file_digest(start)}
    return origin


def _require_names(ours: Topology, theirs: Topology, start: Path) -> None:
    """Raise if the atoms bear the model's names in another order; other names are another convention."""
    mine, other = [a.name for a in ours.atoms], [a.name for a in theirs.atoms]
    if sorted(mine) == sorted(other) and mine != other:
        i = next(i for i, (a, b) in enumerate(zip(mine, other, strict=True)) if a != b)
        raise TopologyError(
            f'Atom order differs between the model and "{start}": atom {i} is {ours.atoms[i]} in the first and '
            f"{theirs.atoms[i]} in the second. Reorder the atoms of the file."
        )
