"""Checkpoints: everything that the next step of a run depends on, in one safetensors file.

The settings are JSON in its header. Nothing in it is code, nothing is unpickled, and numbers come back bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..core.engine import DynamicsSettings
from ..core.errors import ConfigurationError, FileFormatError
from ..core.files import parse_json, require_safetensors, write_atomically
from ..core.integrator import State
from ..core.reporter import EnergyRecord

FORMAT = "smoothflow-checkpoint"
SCHEMA = 1
STATE = ("positions", "velocities", "forces", "potential_energy", "masses")
RECORD = ("times", "potential_energy", "kinetic_energy")


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a run.

    Attributes:
        settings: What is run.
        integrator: Name of the integrator.
        step: Steps done.
        state: The state after them.
        integrator_state: What `Integrator.state_dict` gave.
        energies: Times and energies of the reports so far.
        provenance: What the run is of, in JSON types.
    """

    settings: DynamicsSettings
    integrator: str
    step: int
    state: State
    integrator_state: Mapping[str, Tensor]
    energies: EnergyRecord
    provenance: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, complete or not at all; one of that name is replaced.

    Raises:
        FileFormatError: If it cannot be written.
    """
    header = {
        "format": FORMAT,
        "schema": SCHEMA,
        "settings": asdict(checkpoint.settings),
        "integrator": checkpoint.integrator,
        "step": checkpoint.step,
        "time": checkpoint.state.time,
        "provenance": dict(checkpoint.provenance),
    }
    tensors = {f"state/{name}": getattr(checkpoint.state, name) for name in STATE}
    tensors |= {f"integrator/{name}": value for name, value in checkpoint.integrator_state.items()}
    if len(checkpoint.energies):
        tensors |= {f"energies/{name}": getattr(checkpoint.energies, name) for name in RECORD}
    stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_atomically(Path(path), save(stored, metadata={"smoothflow": json.dumps(header)}))


def read_checkpoint(path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
    """The checkpoint in a file, its state on a device.

    Raises:
        FileFormatError: If the file is missing, damaged, no checkpoint, or of a newer schema.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f'There is no checkpoint "{path}".')
    try:
        require_safetensors(path, "checkpoint of a run")
        with safe_open(path, framework="pt") as file:
            header = parse_json((file.metadata() or {})["smoothflow"])
            # cloned, so that the memory is aligned as that of any tensor: vectorized sums may depend on it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if header["format"] != FORMAT:
            raise FileFormatError(f'"{path}" is a safetensors file, but not a checkpoint of a run.')
        if header["schema"] > SCHEMA:
            raise FileFormatError(
                f'"{path}" has schema {header["schema"]}; this version reads up to {SCHEMA}. Update smoothflow.'
            )
        state = State(**{name: tensors[f"state/{name}"].to(device) for name in STATE}, time=float(header["time"]))
        recorded = [tensors[f"energies/{name}"] for name in RECORD if f"energies/{name}" in tensors]
        return Checkpoint(
            settings=DynamicsSettings(**header["settings"]),
            integrator=str(header["integrator"]),
            step=int(header["step"]),
            state=state,
            integrator_state={
                name.removeprefix("integrator/"): value
                for name, value in tensors.items()
                if name.startswith("integrator/")
            },
            energies=EnergyRecord.restored(*recorded) if recorded else EnergyRecord(),
            provenance=dict(header["provenance"]),
        )
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RuntimeError, ConfigurationError) as error:
        raise FileFormatError(
            f'"{path}" is not a checkpoint of a run, or it is damaged ({type(error).__name__}: {error}). Remove it and '
            "start the run again."
        ) from error
