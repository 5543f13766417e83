"""Transforms side by side: the same frames, the same number of steps, the same questions."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..coordinates.elements import masses
from ..coordinates.internal import InternalCoordinates
from ..core.architecture import transforms_for
from ..core.engine import DynamicsSettings, Trajectory
from ..core.errors import SimulationError
from ..core.integrator import maxwell_boltzmann
from ..core.topology import Topology
from ..potentials.model_file import load_model
from ..training.batches import generator
from ..training.config import TrainSettings
from ..training.frames import Frames
from ..training.progress import OnProgress, Progress
from ..training.run import train
from .conservation import ConservationRun, PotentialSource, run_conservation
from .dynamics import energy_conservation
from .evaluation import Evaluation, evaluate
from .gallery import conservation_picture, evaluation_pictures
from .report import Report, Table, write_report


@dataclass(frozen=True)
class Comparison:
    """One transform's flow.

    Attributes:
        transform: The name that the flow goes by.
        model: Its file.
        n_parameters: Number of trained parameters.
        training_seconds: Wall-clock time; of the last stretch, if the training was interrupted.
        evaluation: Its quality on held-out frames and samples.
        trajectory: Its NVE run; None if dynamics broke down.
        breakdown: Then, how.
    """

    transform: str
    model: Path
    n_parameters: int
    training_seconds: float
    evaluation: Evaluation
    trajectory: Trajectory | None
    breakdown: str = ""


def settings_for(name: str, settings: TrainSettings) -> TrainSettings:
    """The same settings for a flow named after one transform, without options of transforms that it does not use."""
    used = transforms_for(name)
    options = {key: value for key, value in settings.flow.options.items() if key in used.values()}
    return settings.model_copy(update={"flow": replace(settings.flow, transforms=used, options=options)})


def compare_transforms(
    frames: Frames,
    held_out: Frames,
    transforms: Sequence[str],
    settings: TrainSettings,
    reference: PotentialSource,
    dynamics: DynamicsSettings,
    n_samples: int,
    n_replicas: int,
    folder: Path,
    on_progress: OnProgress,
) -> list[Comparison]:
    """Train, evaluate and run each transform's flow; a training that was interrupted goes on.

    Args:
        frames: To train on.
        held_out: To evaluate on, and to start dynamics from.
        transforms: Names.
        settings: The training of each, apart from the transforms.
        reference: The force field of the frames.
        dynamics: The NVE runs.
        n_samples: Samples drawn from each flow.
        n_replicas: NVE runs of each flow.
        folder: Gets one run folder per transform.
        on_progress: Told how far things are.
    """
    found = []
    for name in transforms:
        own = settings_for(name, settings)
        target = reference.load()
        began = time.monotonic()
        kl_target = target if own.weights.reverse_kl > 0 else None
        model = train(frames, own, folder / name, kl_target, _stage(on_progress, f"train {name}"))
        seconds = time.monotonic() - began
        potential = load_model(model)
        evaluation = evaluate(
            potential,
            held_out,
            target,
            n_samples,
            torch.Generator().manual_seed(own.seed),
            _counter(on_progress, f"evaluate {name}"),
        )
        run = conservation_run(name, PotentialSource(model=model), "verlet", held_out, n_replicas, dynamics)
        trajectory, breakdown = None, ""
        try:
            trajectory = run_conservation([run], 1, _counter(on_progress, f"NVE {name}"))[name]
        except SimulationError as error:
            breakdown = str(error)
        n_parameters = sum(parameter.numel() for parameter in potential.flow.parameters())
        found.append(Comparison(name, model, n_parameters, seconds, evaluation, trajectory, breakdown))
    return found


def _stage(on_progress: OnProgress, stage: str) -> OnProgress:
    return lambda progress: on_progress(replace(progress, stage=stage))


def _counter(on_progress: OnProgress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: on_progress(Progress(stage, done, total))


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


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """The numbers side by side."""
    measures: list[tuple[str, Callable[[Comparison], str]]] = [
        ("parameters", lambda c: str(c.n_parameters)),
        ("training, s", lambda c: f"{c.training_seconds:.0f}"),
        ("NLL gap to the floor, kT", lambda c: str(c.evaluation.forward_kl)),
        ("force MSE on frames, (kT/nm)^2", lambda c: str(c.evaluation.force_mse_data)),
        ("Kish ESS, raw", lambda c: str(c.evaluation.ess)),
        ("samples above 100 kT", lambda c: str(c.evaluation.high_energy_fraction)),
        ("NVE std / (3n - 6), kJ/mol", lambda c: _conserved(c, "std_per_dof")),
        ("NVE |drift|, kJ/mol/ps", lambda c: _conserved(c, "abs_drift")),
    ]
    rows = [(label, *(measure(c) for c in comparisons)) for label, measure in measures]
    note = " ".join(f"{c.transform}: {c.breakdown}" for c in comparisons if c.breakdown)
    return Table("Comparison", ("", *(c.transform for c in comparisons)), rows, note)


def write_comparison(comparisons: Sequence[Comparison], topology: Topology, path: Path) -> None:
    """The report: the table, and each transform's figures."""
    domain = InternalCoordinates(topology).codomain
    pictures = [
        replace(picture, title=f"{c.transform}: {picture.title}")
        for c in comparisons
        for picture in evaluation_pictures(c.evaluation, domain)
    ]
    runs = {c.transform: c.trajectory for c in comparisons if c.trajectory is not None}
    if runs:
        pictures.append(conservation_picture(runs))
    report = Report("Comparison of transforms", tables=[comparison_table(comparisons)], pictures=pictures)
    write_report(report, path)


def comparison_dict(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """The numbers in plain JSON types."""
    return [
        {
            "transform": c.transform,
            "model": str(c.model),
            "n_parameters": c.n_parameters,
            "training_seconds": c.training_seconds,
            **c.evaluation.to_dict(),
            "nve_std_per_dof": None if c.trajectory is None else energy_conservation(c.trajectory).std_per_dof.value,
            "nve_abs_drift": None if c.trajectory is None else energy_conservation(c.trajectory).abs_drift.value,
            "nve_breakdown": c.breakdown,
        }
        for c in comparisons
    ]


def _conserved(comparison: Comparison, name: str) -> str:
    if comparison.trajectory is None:
        return "broke down"
    return str(getattr(energy_conservation(comparison.trajectory), name))
