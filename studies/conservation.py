"""NVE runs of several potentials in several engines, side by side in processes."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import DynamicsSettings, Trajectory
from ..core.integrator import maxwell_boltzmann
from ..core.plugins import registry
from ..core.potential import Potential
from ..molecules.elements import masses
from ..molecules.frames import Frames
from ..potentials.reference import reference
from ..potentials.shipped import load
from ..runs.randomness import generator

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class PotentialSource:
    """Where a process finds a potential: a model file, or a provider's argument and a structure.

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
        settings: Number and length of steps.
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
    """An NVE run that starts from frames spread over the data, with velocities of their temperature.

    Replica 0 starts alike whatever the number of replicas, so that engines and potentials can be compared.
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
    runs: Sequence[ConservationRun], n_workers: int, on_progress: Callable[[int, int], None]
) -> dict[str, Trajectory]:
    """Run all, each in a process of one thread, at most ``n_workers`` at a time.

    Args:
        runs: What to run; titles must differ.
        n_workers: Number of processes.
        on_progress: Called with the number of steps done, summed over the runs, and the number of all.

    Returns:
        The trajectory of each run, by title.

    Raises:
        SimulationError: If an energy or a force is not finite.
    """
    total = sum(run.settings.n_steps for run in runs)
    done = dict.fromkeys((run.title for run in runs), 0)
    # spawned, not forked: torch's threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(n_workers, context) as pool:
        reports = manager.Queue()
        futures = {run.title: pool.submit(_run, run, reports) for run in runs}
        while not all(future.done() for future in futures.values()):
            try:
                title, steps = reports.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            done[title] = steps
            on_progress(sum(done.values()), total)
            _raise_failure(futures.values())
        trajectories = {title: future.result() for title, future in futures.items()}
    on_progress(total, total)
    return trajectories


def _raise_failure(futures: Any) -> None:
    """The first failure at once, instead of after the longest run."""
    for future in futures:
        if future.done() and future.exception() is not None:
            for other in futures:
                other.cancel()
            future.result()


def _run(run: ConservationRun, reports: Any) -> Trajectory:
    torch.set_num_threads(1)
    potential = run.source.load()
    return (
        registry()
        .engine(run.engine)()
        .run(
            potential,
            run.masses,
            run.positions,
            run.velocities,
            run.settings,
            lambda steps, _: reports.put((run.title, steps)),
        )
    )
