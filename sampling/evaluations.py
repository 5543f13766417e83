"""Samples of flows with the energies and forces of an expensive reference, each kept as soon as it is computed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError, SimulationError
from ..core.finite import first_not_finite
from ..core.potential import Potential
from ..molecules.frames import Frames
from ..molecules.frames_file import FramesReader, FramesWriter
from ..potentials.flow_potential import FlowPotential
from ..potentials.parallel import ParallelPotential
from ..runs.progress import OnProgress, Progress, silent
from ..runs.provenance import require_same_run
from ..runs.randomness import generator
from ..runs.stopping import Asked
from .draws import require_target

CHUNK = 250
"""Samples that are drawn together; what is drawn again after an interruption costs little."""

SECONDS = 1.0
"""Evaluations that take about as long are written together."""

NO_ENERGY = 1e12
"""kJ/mol; stands in the file for the energy of a sample that the reference has none of. Its weight is zero."""


@dataclass(frozen=True)
class Evaluated:
    """Samples of a flow as the reference sees them.

    Attributes:
        positions: nm, as the file holds them: rounded to float32 before anything was computed.
        energy: The reference's, kJ/mol; infinite where it has none.
    """

    positions: Float[Tensor, "n atoms 3"]
    energy: Float[Tensor, "n"]

    def __len__(self) -> int:
        return len(self.energy)


class EvaluatedSamples:
    r"""The samples of a flow that a reference was asked for, in a frames file that grows.

    The file is one of weighted frames of the reference: its energies and forces, and the log-weights
    :math:`-u - \log q` of the flow; frames like others to train on. Sample n depends on the seed and n alone, and an
    evaluation that is in the file is never asked for again.

    Args:
        path: The frames file; if it is there, it must be of the same flow, reference and seed.
        flow: What is sampled.
        target: The reference.
        seed: Seed of the samples.
        provenance: What the evaluations are of, in JSON types.

    Raises:
        ConfigurationError: If the file is of something else.
        FileFormatError: If it cannot be read.
        TopologyError: If the reference is of another molecule.
    """

    def __init__(
        self, path: Path, flow: FlowPotential, target: Potential, seed: int, provenance: Mapping[str, Any]
    ) -> None:
        require_target(flow, target)
        self.path, self.flow, self.target, self.seed = path, flow, target, seed
        self.provenance = {**provenance, "seed": seed, "dtype": str(flow.dtype).removeprefix("torch.")}
        self.failure = ""
        if path.exists():
            with FramesReader(path) as reader:
                require_same_run(f'"{path}"', reader.provenance, self.provenance)

    def __len__(self) -> int:
        if not self.path.exists():
            return 0
        with FramesReader(self.path) as reader:
            return len(reader)

    def read(self) -> Evaluated:
        """All that has been evaluated."""
        if not self.path.exists():
            return Evaluated(torch.empty(0, *self.flow.shape, dtype=torch.float64), torch.empty(0, dtype=torch.float64))
        with FramesReader(self.path) as reader:
            frames = reader.read(0, len(reader))
        if frames.energies is None or frames.log_weights is None:
            raise ConfigurationError(f'"{self.path}" holds no evaluations. Choose another folder.')
        energy = torch.from_numpy(frames.energies)
        failed = torch.from_numpy(frames.log_weights) == -math.inf
        return Evaluated(torch.from_numpy(frames.positions).double(), torch.where(failed, math.inf, energy))

    def extend(
        self,
        n: int,
        asked: Asked = lambda: None,
        on_progress: OnProgress = silent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Evaluate until n samples are in the file, or a signal asks to stop.

        Args:
            n: How many, those that are there included.
            asked: Tells whether to stop; what is being evaluated is written before.
            on_progress: Told of evaluations.
            clock: Seconds.

        Raises:
            SimulationError: If a sample has no finite density, or the reference fails at the first samples of all.
        """
        # as many as there are workers, whatever they take
        at_once = self.target.n_workers if isinstance(self.target, ParallelPotential) else 1
        done, together = len(self), at_once
        with ExitStack() as stack:
            writer = stack.enter_context(FramesWriter.resume(self.path)) if self.path.exists() else None
            drawn, index = torch.empty(0), -1
            while done < n and asked() is None:
                if done // CHUNK != index:
                    index = done // CHUNK
                    drawn = self._draw(index)
                first = done - index * CHUNK
                part = drawn[first : first + min(together, n - done)]
                begin = clock()
                frames = self._evaluate(part, done)
                # as many as take a second; what takes longer is written as it comes
                took = max(clock() - begin, 1e-9) / len(part)
                together = max(at_once, min(CHUNK, 2 * together, int(SECONDS / took)))
                if writer is None:
                    # after the first evaluation, so that what cannot be evaluated leaves no file
                    writer = stack.enter_context(FramesWriter.create(self.path, frames))
                writer.append(frames)
                done = len(writer)
                on_progress(Progress("Evaluations", done, n))

    def _draw(self, index: int) -> Float[Tensor, "chunk atoms 3"]:
        """A chunk of samples, nm, as float32 holds them."""
        with torch.no_grad():
            positions, _ = self.flow.sample(CHUNK, generator(self.seed, index, device=self.flow.device))
        return positions.float().double().cpu()

    def _evaluate(self, positions: Float[Tensor, "batch atoms 3"], first: int) -> Frames:
        with torch.no_grad():
            log_prob = self.flow.log_prob(positions.to(self.flow.device, self.flow.dtype)).double().cpu()
        undefined = first_not_finite(log_prob[:, None])
        if undefined is not None:
            raise SimulationError(
                f"Sample {first + undefined[0]} of the model has no finite density. Draw in float64 (--dtype float64), "
                "or train the model further."
            )
        energy, forces = self._ask(positions, first)
        finite = energy.isfinite() & forces.isfinite().all(dim=2).all(dim=1)
        log_weights = torch.where(finite, -energy / self.flow.kT - log_prob, -math.inf)
        return Frames(
            positions=positions.numpy(),
            forces=torch.where(finite[:, None, None], forces, 0.0).numpy(),
            energies=torch.where(finite, energy, NO_ENERGY).numpy(),
            log_weights=log_weights.numpy(),
            topology=self.flow.coordinates.topology,
            temperature=self.flow.temperature,
            provenance=self.provenance,
        )

    def _ask(self, positions: Float[Tensor, "batch atoms 3"], first: int) -> tuple[Tensor, Tensor]:
        """Energies and forces; where the reference fails there is no energy."""
        try:
            asked = positions.to(self.target.device, self.target.dtype)
            energy, forces = self.target.energy_and_forces(asked)
            return energy.double().cpu(), forces.double().cpu()
        except SimulationError as error:
            if len(positions) == 1:
                if first == 0:
                    raise
                self.failure = str(error)
                return torch.full((1,), math.inf, dtype=torch.float64), torch.zeros_like(positions)
        parts = [self._ask(positions[i : i + 1], first + i) for i in range(len(positions))]
        return torch.cat([energy for energy, _ in parts]), torch.cat([forces for _, forces in parts])
