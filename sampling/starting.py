"""Where a run of molecular dynamics begins: frames, a PDB file, or samples of the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import check_configurations
from ..core.errors import ConfigurationError, GeometryError
from ..core.files import file_digest
from ..molecules.frames_file import FramesReader
from ..molecules.topologies import STRUCTURE_SUFFIXES, topology_from_pdb
from ..potentials.flow_potential import FlowPotential
from ..runs.provenance import versions


def starting_positions(
    potential: FlowPotential, start: Path | None, n_replicas: int, generator: torch.Generator
) -> Float[Tensor, "replicas atoms 3"]:
    """Positions (nm) in the precision and on the device of a model.

    Args:
        potential: The model.
        start: Frames (HDF5) or a structure file of the model's molecule: the first configurations in it, or the only
            one for all replicas. None for samples of the model.
        n_replicas: How many.
        generator: Generator of the samples.

    Raises:
        FileFormatError: If the file cannot be read.
        TopologyError: If it holds another molecule, or the atoms in another order.
        GeometryError: If its positions are not finite, overlap, are in another unit, or of another isomer.
        ConfigurationError: If it holds too few configurations.
    """
    if start is None:
        with torch.no_grad():
            return potential.sample(n_replicas, generator)[0]
    topology = potential.coordinates.topology
    if start.suffix.lower() in STRUCTURE_SUFFIXES:
        found, configurations = topology_from_pdb(start)
    else:
        with FramesReader(start) as reader:
            frames = reader.read(0, n_replicas)
        frames.require_precision()
        found, configurations = frames.topology, torch.from_numpy(frames.positions)
    topology.require_same(found, "the model", f'"{start}"')
    if len(configurations) != 1 and len(configurations) < n_replicas:
        raise ConfigurationError(
            f'"{start}" has {len(configurations)} configurations, too few to start {n_replicas} replicas.'
        )
    if len(configurations) == 1:
        configurations = configurations.repeat(n_replicas, 1, 1)
    configurations = configurations[:n_replicas]
    potential.coordinates.check_geometry(configurations)
    try:
        check_configurations(potential, configurations)
    except GeometryError as error:
        raise GeometryError(f'In "{start}": {error}') from error
    return configurations.to(potential.device, potential.dtype)


def origin_of(model: Path, start: Path | None, potential: FlowPotential | None = None) -> dict[str, Any]:
    """What a run is of: the names of its files, what is in them, and the temperature of a model that has a range."""
    used = versions("smoothflow", "torch")
    origin: dict[str, Any] = {"model": model.name, "model_sha256": file_digest(model), "versions": used}
    if potential is not None and potential.temperature_range is not None:
        origin["temperature"] = potential.temperature
    if start is not None:
        origin |= {"start": start.name, "start_sha256": file_digest(start)}
    return origin
