"""NVE runs of several potentials in several engines, side by side in processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import DynamicsSettings, Trajectory
from ..core.integrator import State, maxwell_boltzmann
from ..core.plugins import registry
from ..core.potential import Potential
from ..molecules.elements import masses
from ..molecules.frames import Frames
from ..potentials.reference import reference
from ..potentials.shipped import load
from ..runs.progress import OnProgress, Progress, silent
from ..runs.randomness import generator
from ..runs.workers import Workers, tell


@dataclass(frozen=True)
class PotentialSource:
    """Where a process finds a potential: in a model file, or by a provider's argument and a structure.

    Attributes:
        model: A model file.
        reference: Instead of it, ``PROVIDER:ARGUMENT``.
        structure: A PDB file, for the provider.
    """

    model: Path | None = None
    reference: str = ""
    structure: Path | None = None

    def load(self) -> Potential:
        """The potential, in float64."""
        if self.model is not None:
            return load(self.model)
        return reference(self.reference, self.structure)


@dataclass(frozen=True)
class ConservationRun:
    """One NVE run of one potential in one engine.

    Attributes:
        title: Its name in tables and figures.
        source: Where the potential is.
        engine: The engine's name.
        masses: amu.
        positions: nm.
        velocities: nm/ps.
        settings: Number and length of the steps.
    """

    title: str
    source: PotentialSource
    engine: str
    masses: Float[Tensor, "atoms"]
    positions: Float[Tensor, "replicas atoms 3"]
    velocities: Float[Tensor, "replicas atoms 3"]
    settings: DynamicsSettings


def conservation_run(
    title: str, source: PotentialSource, engine: str, frames: Frames, n_replicas: int, settings: DynamicsSettings
) -> ConservationRun:
    """An NVE run from frames spread over the data, with thermal velocities.

    Replica 0 has the same start whatever the number of replicas, so that engines and potentials can be compared.
    """
    chosen = torch.linspace(0, len(frames) - 1, n_replicas).long()
    positions = torch.from_numpy(frames.positions)[chosen].double()
    mass = masses(frames.topology)
    velocities = torch.cat(
        [
            maxwell_boltzmann(mass, 1, frames.temperature, generator(settings.seed, replica))
            for replica in range(n_replicas)
        ]
    )
    return ConservationRun(title, source, engine, mass, positions, velocities, settings)


def run_conservation(
    runs: Sequence[ConservationRun], n_workers: int, on_progress: OnProgress = silent
) -> dict[str, Trajectory]:
    """Run all of them, each in a process of one thread, at most ``n_workers`` at a time.

    Args:
        runs: What to run; titles must differ.
        n_workers: Number of processes.
        on_progress: Told of steps, summed over the runs.

    Returns:
        The trajectory of each run, by title.

    Raises:
        SimulationError: If an energy or a force is not finite.
    """
    total = sum(run.settings.n_steps for run in runs)
    done = dict.fromkeys((run.title for run in runs), 0)

    def hear(message: tuple[str, int]) -> None:
        title, done[title] = message
        on_progress(Progress("NVE dynamics", sum(done.values()), total))

    with Workers(n_workers) as workers:
        trajectories = dict(zip(done, workers.call(_run, [(run,) for run in runs], hear), strict=True))
    on_progress(Progress("NVE dynamics", total, total))
    return trajectories


def _run(run: ConservationRun) -> Trajectory:
    def report(steps: int, state: State) -> None:
        tell((run.title, steps))

    engine = registry().engine(run.engine)()
    return engine.run(run.source.load(), run.masses, run.positions, run.velocities, run.settings, report)
