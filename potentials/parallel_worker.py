"""What a worker process does for `ParallelPotential`: it keeps the potential, and evaluates chunks of a batch."""

from __future__ import annotations

import hashlib
import pickle
import threading
import traceback
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float

from ..core.errors import ConfigurationError, SimulationError
from ..core.potential import Potential

KEPT = 8
"""Potentials that a worker keeps ready."""

Result = tuple[Float[np.ndarray, "chunk"], Float[np.ndarray, "chunk *shape"]]
"""Energies and forces of a chunk."""


@dataclass(frozen=True)
class Parcel:
    """A pickled potential and a name for its content."""

    name: str
    content: bytes

    @classmethod
    def pack(cls, potential: Potential) -> Parcel:
        """A potential, ready to be sent.

        Raises:
            ConfigurationError: If it is not on the CPU, or cannot be pickled.
        """
        if potential.device.type != "cpu":
            raise ConfigurationError(
                f"The potential is on {potential.device}, which evaluates a batch at once already. Use it as it is, "
                "or move it to the CPU first."
            )
        try:
            content = pickle.dumps(potential)
        # objects refuse to be pickled with errors of every kind
        except Exception as error:
            raise ConfigurationError(
                f"{type(potential).__name__} cannot be sent to a worker: {type(error).__name__}: {error}. Use a class "
                "that a module defines, and attributes that can be pickled."
            ) from error
        return cls(hashlib.sha256(content).hexdigest(), content)


@dataclass(frozen=True)
class Failure:
    """An error that the potential raised, as text: not every exception survives the way back."""

    frame: int | None
    text: str
    trace: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """What was raised, with its trace."""
        return cls(None, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))

    def error(self, piece: range) -> SimulationError:
        """The error to be raised for a piece of the batch."""
        if self.frame is not None:
            where = f"Frame {piece[self.frame]}"
        else:
            where = f"Frame {piece[0]}" if len(piece) == 1 else f"The chunk of frames {piece[0]} to {piece[-1]}"
        error = SimulationError(f"{where} cannot be evaluated: {self.text}")
        error.add_note(f"In the worker:\n{self.trace}")
        return error


_worker = threading.local()
"""The potentials that a thread of a worker has unpacked: a Context must not be shared by two."""


def unpack(parcel: Parcel) -> Potential:
    """The potential in a parcel, kept ready in this thread."""
    kept: dict[str, Potential] = _worker.__dict__
    if parcel.name not in kept:
        kept[parcel.name] = pickle.loads(parcel.content)
    kept[parcel.name] = kept.pop(parcel.name)  # the last one used is the last to go
    while len(kept) > KEPT:
        del kept[next(iter(kept))]
    return kept[parcel.name]


def settled(parcel: Parcel, frame: Float[np.ndarray, "1 *shape"]) -> Parcel | None:
    """The potential as it is after one evaluation; as it was if it cannot be packed then; None without evaluation."""
    try:
        potential = unpack(parcel)
        potential.energy_and_forces(torch.tensor(frame))
    except Exception:
        return None  # it will be raised again, and reported, with the frame's index
    try:
        return Parcel.pack(potential)
    except ConfigurationError:
        return parcel


def evaluate(parcel: Parcel, frames: Float[np.ndarray, "chunk *shape"]) -> Result | Failure:
    """What a worker does: energies and forces of a chunk, or what its first frame that fails raises."""
    try:
        energies, forces = unpack(parcel).energy_and_forces(torch.tensor(frames))
        return energies.numpy(), forces.numpy()
    # whatever a third party's program raises
    except Exception as error:
        failure = Failure.of(error)
    for i in range(len(frames) if len(frames) > 1 else 0):
        alone = evaluate(parcel, frames[i : i + 1])
        if isinstance(alone, Failure):
            return replace(alone, frame=i)
    return failure
