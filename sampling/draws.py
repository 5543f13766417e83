"""Samples of a flow in a frames file, chunk by chunk: a run that was interrupted goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ConfigurationError, SimulationError, TopologyError
from ..core.files import require_free
from ..core.finite import first_not_finite
from ..core.potential import Potential
from ..molecules.frames import Frames
from ..molecules.frames_file import FramesReader, FramesWriter
from ..potentials.flow_potential import FlowPotential
from ..runs.locks import lock_file
from ..runs.progress import OnProgress, Progress, silent
from ..runs.provenance import require_same_run
from ..runs.randomness import generator
from ..runs.stopping import stop_requests

CHUNK = 1000
"""Samples that are drawn together, and written together or not at all."""

CHUNK_ON_GPU = 50_000
"""The same on a GPU, which has room for more."""


@dataclass(frozen=True)
class SamplingPlan:
    r"""What to draw, and where to.

    Attributes:
        output: Frames file. Its energies are the model's, :math:`-kT \log q`.
        n_samples: How many.
        seed: Seed of the samples.
        target: Potential that the samples are weighted to: their log-weights are :math:`-u - \log q`, minus infinity
            where the target has no finite energy.
        provenance: What the samples are of, in JSON types.
    """

    output: Path
    n_samples: int
    seed: int = 0
    target: Potential | None = None
    provenance: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class SamplingReport:
    """The outcome of a run.

    Attributes:
        n_samples: Samples in the file.
        resumed_from: Number of samples that were there before.
        stopped_by: Number of the signal that ended it before its last sample, if one did.
    """

    n_samples: int
    resumed_from: int
    stopped_by: int | None


def draw_samples(potential: FlowPotential, plan: SamplingPlan, on_progress: OnProgress = silent) -> SamplingReport:
    """Draw samples of a flow into a file, or go on with those in it; memory holds one chunk.

    Each chunk has a generator of its own, so that on one machine a sample depends on the seed and its place alone: not
    on interruptions, nor on how many are asked for. Ctrl-C or SIGTERM end the run after the chunk that is being drawn.

    Args:
        potential: The flow.
        plan: What to draw; to go on it must be that of the file but for more samples, and ``versions``.
        on_progress: Told of samples.

    Raises:
        ConfigurationError: If the file exists and is of something else, or another process writes it.
        FileFormatError: If the file cannot be written, or is damaged.
        TopologyError: If the target is of another molecule.
        SimulationError: If a sample has no finite density; names it.
    """
    if plan.seed < 0:
        raise ConfigurationError(f"The seed must not be negative; it is {plan.seed}.")
    if plan.target is not None:
        require_target(potential, plan.target)
    origin = {
        **(plan.provenance or {}),
        "seed": plan.seed,
        "dtype": str(potential.dtype).removeprefix("torch."),
        "device": str(potential.device),
        **({} if potential.device.type == "cpu" else {"chunk": CHUNK_ON_GPU}),
    }
    with lock_file(plan.output), stop_requests() as asked, ExitStack() as stack:
        n_before = n_done = _samples_there(plan, origin)
        writer = None
        while n_done < plan.n_samples and asked() is None:
            frames = _chunk(potential, plan, n_done, origin)
            # after the first chunk, so that what cannot be drawn leaves no file
            if writer is None:
                there = plan.output.exists()
                writer = FramesWriter.resume(plan.output) if there else FramesWriter.create(plan.output, frames)
                stack.enter_context(writer)
            writer.append(frames)
            n_done = len(writer)
            on_progress(Progress("sample", n_done, plan.n_samples))
        stopped_by = asked() if n_done < plan.n_samples else None
    return SamplingReport(n_done, n_before, stopped_by)


def _chunk(potential: FlowPotential, plan: SamplingPlan, first: int, origin: Mapping[str, Any]) -> Frames:
    """The samples from number ``first`` to the end of its chunk, or to the last one that is asked for."""
    size = CHUNK if potential.device.type == "cpu" else CHUNK_ON_GPU
    index, skipped = divmod(first, size)
    part = slice(skipped, plan.n_samples - index * size)
    stream = generator(plan.seed, 0, index, device=potential.device)
    with torch.no_grad():
        # always a whole chunk: the rounding of a sample depends on how many are drawn with it
        positions, log_prob = (x[part].double().cpu() for x in potential.sample(size, stream))
        undefined = first_not_finite(torch.column_stack([log_prob, positions.flatten(1)]))
        if undefined is not None:
            raise SimulationError(
                f"Sample {first + undefined[0]} of the model has no finite position or density. Draw in "
                "float64 (--dtype float64), or train the model further."
            )
        log_weights = None
        if plan.target is not None:
            energy = plan.target.energy(positions.to(plan.target.device)).double().cpu()
            log_weights = torch.where(energy.isfinite(), -energy / potential.kT - log_prob, -math.inf).numpy()
    return Frames(
        positions=positions.numpy(),
        energies=-potential.kT * log_prob.numpy(),
        topology=potential.coordinates.topology,
        temperature=potential.temperature,
        provenance=origin,
        log_weights=log_weights,
    )


def _samples_there(plan: SamplingPlan, origin: Mapping[str, Any]) -> int:
    """How many samples of this very plan are in its file."""
    if not plan.output.exists():
        require_free(plan.output)
        return 0
    with FramesReader(plan.output) as reader:
        there, n_there = reader.provenance, len(reader)
    require_same_run(f'"{plan.output}"', there, origin)
    if n_there > plan.n_samples:
        raise ConfigurationError(
            f'"{plan.output}" exists already, with {n_there} samples where {plan.n_samples} are asked for. Ask for '
            "as many or more, or choose another name."
        )
    return n_there


def require_target(flow: FlowPotential, target: Potential) -> None:
    """Raise a `TopologyError` unless a reference is of the molecule of a flow."""
    if target.topology is not None:
        flow.coordinates.topology.require_same(target.topology, "the model", "the reference")
    if tuple(target.shape) != tuple(flow.shape):
        raise TopologyError(
            f"The reference is for configurations of shape {tuple(target.shape)} and the model for "
            f"{tuple(flow.shape)}. Use one molecule for both."
        )
