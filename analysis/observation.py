"""What a flow and a force field say about each other's configurations: the raw material of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import ConfigurationError, TopologyError
from ..core.potential import Potential
from ..core.units import thermal_energy
from ..molecules.frames import Frames
from ..molecules.label_checks import check_labels, compare_labels, warn_of_duplicates
from ..potentials.flow_potential import FlowPotential
from ..runs.progress import OnProgress, Progress, silent

BATCH_SIZE = 500
"""Configurations per call of a potential."""

N_CHECKED = 10
"""Frames whose stored energies are compared with the reference."""

CHECK_TOLERANCE = 0.02
"""Largest disagreement between stored and recomputed energies, kT; float32 positions cause about 0.001."""


@dataclass(frozen=True)
class Configurations:
    """Configurations with the energies and forces of the reference and of the flow.

    Attributes:
        positions: nm.
        internal: Internal coordinates, nm and radians.
        log_prob: The flow's log-density over positions modulo rigid motion.
        energy: The reference's, kT; infinite where it is not finite.
        flow_forces: kT/nm.
        forces: The reference's, kT/nm.
        replica: The walker of each frame, in order of time for each; none for samples.
        times: Times of the frames, ps, if they have any.
    """

    positions: Float[Tensor, "n atoms 3"]
    internal: Float[Tensor, "n dim"]
    log_prob: Float[Tensor, "n"]
    energy: Float[Tensor, "n"]
    flow_forces: Float[Tensor, "n atoms 3"]
    forces: Float[Tensor, "n atoms 3"]
    replica: Int[np.ndarray, "n"] | None = None
    times: Float[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def log_weights(self) -> Float[Tensor, "n"]:
        """Importance log-weights of the reference's Boltzmann distribution over the flow's."""
        return -self.energy - self.log_prob

    @property
    def squared_force_error(self) -> Float[Tensor, "n"]:
        """The squared difference of the forces, mean over atoms and directions, (kT/nm)^2."""
        return ((self.flow_forces - self.forces) ** 2).mean(dim=(1, 2))


@dataclass(frozen=True)
class _Batch:
    """Positions, and what is known of them already: log-density, energies (kJ/mol) and forces (kJ/mol/nm)."""

    positions: Float[Tensor, "batch atoms 3"]
    log_prob: Float[Tensor, "batch"] | None = None
    energy: Float[Tensor, "batch"] | None = None
    forces: Float[Tensor, "batch atoms 3"] | None = None


def require_frames(potential: FlowPotential, frames: Frames, reference: Potential) -> Frames:
    """The frames in order of time, walker by walker where they say which is whose.

    Raises:
        TopologyError: If the frames are of another molecule.
        ConfigurationError: If they have another temperature, are weighted, or are not the reference's.
        FileFormatError: If their energies or forces cannot be those of their positions.
    """
    frames.require_potential(potential, "the model")
    if not math.isclose(frames.temperature, potential.temperature, rel_tol=1e-6):
        raise ConfigurationError(
            f"The frames were made at {frames.temperature:g} K and the model for {potential.temperature:g} K. Give "
            "frames of the model's temperature."
        )
    if frames.log_weights is not None:
        raise ConfigurationError("The frames carry weights; evaluate on frames drawn from the Boltzmann distribution.")
    if len(frames) < 2:
        raise ConfigurationError(f"An evaluation needs at least two frames; got {len(frames)}.")
    if frames.replica is not None:
        frames = frames[frames.by_walker]
    if frames.energies is not None:
        require_reference(frames, frames.energies, reference)
    frames.require_precision()
    check_labels(frames, "the frames")
    compare_labels(frames, reference, "the frames")
    warn_of_duplicates(frames, "the frames")
    return frames


def observe_frames(
    potential: FlowPotential, frames: Frames, reference: Potential, on_progress: OnProgress = silent
) -> Configurations:
    """Evaluate the flow on frames of molecular dynamics.

    Energies and forces that the frames hold are used as they are, once a few of them agree with the reference.

    Raises:
        TopologyError, ConfigurationError: As `require_frames`.
    """
    frames = require_frames(potential, frames, reference)

    def batches() -> Iterator[_Batch]:
        for start in range(0, len(frames), BATCH_SIZE):
            part = frames[start : start + BATCH_SIZE]
            known = part.energies is not None and part.forces is not None
            yield _Batch(
                like(potential, part.positions),
                energy=torch.from_numpy(part.energies) if known else None,
                forces=torch.from_numpy(part.forces) if known else None,
            )

    observed = _observe(potential, reference, batches(), len(frames), on_progress)
    return replace(observed, replica=frames.replica, times=frames.times)


def observe_samples(
    potential: FlowPotential,
    n_samples: int,
    generator: torch.Generator,
    reference: Potential,
    on_progress: OnProgress = silent,
) -> Configurations:
    """Draw samples of the flow, and evaluate both potentials on them.

    The density is that of the draw, through the inverse of each layer; the forces are those of `FlowPotential.energy`.
    """
    if n_samples < 2:
        raise ConfigurationError(f"An evaluation needs at least two samples; {n_samples} were asked for.")

    def batches() -> Iterator[_Batch]:
        for start in range(0, n_samples, BATCH_SIZE):
            with torch.no_grad():
                positions, log_prob = potential.sample(min(BATCH_SIZE, n_samples - start), generator)
            yield _Batch(positions, log_prob=log_prob)

    return _observe(potential, reference, batches(), n_samples, on_progress)


def like(potential: FlowPotential, positions: Float[np.ndarray, "n atoms 3"]) -> Float[Tensor, "n atoms 3"]:
    """Positions in the precision and on the device of a flow."""
    return torch.from_numpy(positions).to(potential.device, potential.dtype)


def require_reference(frames: Frames, energies: Float[np.ndarray, "n"], reference: Potential) -> None:
    """Raise a `ConfigurationError` unless the energies (kJ/mol) of frames are the reference's."""
    chosen = np.linspace(0, len(frames) - 1, min(N_CHECKED, len(frames))).astype(int)
    recomputed, _ = _reference(reference, torch.from_numpy(frames.positions[chosen]).double())
    difference = float((recomputed - torch.from_numpy(energies[chosen])).abs().max())
    largest = difference / thermal_energy(frames.temperature)
    if not largest <= CHECK_TOLERANCE:
        raise ConfigurationError(
            f"The energies stored with the frames differ from the reference's by up to {largest:.3g} kT. Give the "
            "potential that the frames were simulated with as the reference."
        )


def _reference(
    reference: Potential, positions: Float[Tensor, "n atoms 3"]
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n atoms 3"]]:
    """Energies in kJ/mol and forces in kJ/mol/nm; an energy that is not finite is infinite."""
    if tuple(positions.shape[1:]) != tuple(reference.shape):
        raise TopologyError(
            f"The reference is for configurations of shape {tuple(reference.shape)} and these have shape "
            f"{tuple(positions.shape[1:])}. Use one molecule for both."
        )
    # in the reference's own precision, so that a flow in float32 does not round a force field's energies
    energy, forces = reference.energy_and_forces(positions.to(reference.device, reference.dtype))
    energy = energy.double().cpu()
    return torch.where(energy.isfinite(), energy, math.inf), forces


def _observe(
    potential: FlowPotential,
    reference: Potential,
    batches: Iterable[_Batch],
    n_all: int,
    on_progress: OnProgress,
) -> Configurations:
    """Evaluate batch by batch, computing only what is not known."""
    kT = potential.kT
    own = ("replica", "times")  # of frames, whose walkers are not in a batch
    columns: dict[str, list[Tensor]] = {field.name: [] for field in fields(Configurations) if field.name not in own}
    n_done = 0
    for batch in batches:
        flow_energy, flow_forces = potential.energy_and_forces(batch.positions)
        with torch.no_grad():
            q, _ = potential.coordinates.encode(batch.positions)
        if batch.energy is not None and batch.forces is not None:
            energy, forces = batch.energy, batch.forces
        else:
            energy, forces = _reference(reference, batch.positions)
        log_prob = -flow_energy / kT if batch.log_prob is None else batch.log_prob
        found = {
            "positions": batch.positions,
            "internal": q,
            "log_prob": log_prob,
            "energy": energy.double() / kT,
            "flow_forces": flow_forces.double() / kT,
            "forces": forces.double() / kT,
        }
        for name, values in found.items():
            columns[name].append(values.detach().double().cpu())
        n_done += len(q)
        on_progress(Progress("evaluate", n_done, n_all))
    observed = {name: torch.cat(parts) for name, parts in columns.items()}
    return Configurations(**observed, replica=None, times=None)
