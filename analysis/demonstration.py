"""The main job on one molecule: simulate, train, evaluate, sample, and run the flow in three engines."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..coordinates.internal import InternalCoordinates
from ..coordinates.molecules import molecule_path
from ..core.architecture import FlowSettings
from ..core.engine import DynamicsSettings, Trajectory
from ..core.files import write_atomically
from ..core.plugins import registry
from ..potentials.model_file import load_model
from ..training.config import TrainSettings
from ..training.frames_file import read_frames
from ..training.progress import OnProgress, Progress
from ..training.run import train
from ..training.run_folder import RunFolder
from ..training.simulate import SimulateSettings, simulate
from .conservation import PotentialSource, conservation_run, run_conservation
from .dynamics import energy_conservation
from .evaluation import Evaluation, evaluate
from .gallery import conservation_picture, evaluation_pictures, training_picture
from .report import Report, Table, write_report

AMBER = "openmm:amber99sbildn.xml,amber99_obc.xml"
"""Amber ff99SB-ILDN with OBC implicit solvent, no cutoff, no constraints."""

MOLECULE = "capped-alanine"


@dataclass(frozen=True)
class DemoSettings:
    """How much of everything; the defaults take less than five minutes on two cores.

    Attributes:
        n_walkers: Independent short simulations, each heated first: rotamers that cross slowly are then all there. The
            last eighth is held out of training.
        n_frames: Frames of all walkers, 0.05 ps apart.
        likelihood_steps: Training steps on the likelihood alone.
        steps: All training steps; after the first ones on likelihood and forces.
        n_samples: Samples drawn from the flow.
        nve_duration: ps.
        n_replicas: NVE runs in our own integrator, which takes them at once.
        seed: Of everything.
    """

    n_walkers: int = 64
    n_frames: int = 25_600
    likelihood_steps: int = 150
    steps: int = 1200
    n_samples: int = 10_000
    nve_duration: float = 5.0
    n_replicas: int = 10
    seed: int = 0

    def training(self) -> TrainSettings:
        """The settings of the training: a small flow, and a short schedule."""
        flow = FlowSettings(
            interval_pairs=2,
            circle_pairs=2,
            hidden=64,
            options={"smooth": {"n_components": 4}},
            seed=self.seed,
        )
        return TrainSettings(
            flow=flow,
            steps=self.steps,
            likelihood_steps=self.likelihood_steps,
            batch_size=128,
            learning_rate=4e-3,
            averaging=0.99,
            validate_every=max(1, self.steps // 4),
            seed=self.seed,
        )


@dataclass(frozen=True)
class Demonstration:
    """What came out.

    Attributes:
        evaluation: The flow's quality.
        trajectories: NVE runs by title.
        seconds: Wall-clock time of each stage.
        model: The model file.
        report: The report.
    """

    evaluation: Evaluation
    trajectories: Mapping[str, Trajectory]
    seconds: Mapping[str, float]
    model: Path
    report: Path

    def tables(self) -> list[Table]:
        """The results as tables."""
        conserved = [(title, energy_conservation(run)) for title, run in self.trajectories.items()]
        rows = [
            (title, str(run.positions.shape[1]), str(item.std_per_dof), str(item.abs_drift))
            for (title, item), run in zip(conserved, self.trajectories.values(), strict=True)
        ]
        duration = conserved[0][1].duration
        return [
            Table("The flow against Amber", ("quantity", "value", "unit, remark"), self.evaluation.rows()),
            Table(
                f"Energy conservation in {duration:g} ps of NVE, velocity Verlet, 1 fs",
                ("potential, engine", "replicas", "std / (3n - 6), kJ/mol", "|drift|, kJ/mol/ps"),
                rows,
            ),
            Table("Time", ("stage", "seconds"), [(stage, f"{value:.0f}") for stage, value in self.seconds.items()]),
        ]


def demonstrate(folder: Path, settings: DemoSettings, on_progress: OnProgress) -> Demonstration:
    """Run the whole chain in a folder; simulation and training go on where an earlier call in it was interrupted.

    Args:
        folder: Gets frames.h5, the run folder ``smooth``, metrics.json and report.html.
        settings: How much of everything.
        on_progress: Told of each stage.

    Raises:
        SmoothflowError: As the steps do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    structure = molecule_path(MOLECULE)
    clock = _Clock()
    simulation = SimulateSettings(
        structure=structure,
        potential=AMBER,
        n_frames=settings.n_frames,
        frame_interval=0.05,
        walkers=settings.n_walkers,
        start_temperature=600.0,
        start_time=5.0,
        equilibration=4.0,
        seed=settings.seed,
    )
    simulate(simulation, folder / "frames.h5", on_progress)
    frames = read_frames(folder / "frames.h5")
    clock.stop("simulate")

    walker = np.zeros(len(frames)) if frames.replica is None else frames.replica
    held_out = walker >= settings.n_walkers * 7 // 8
    training, test = frames[np.flatnonzero(~held_out)], frames[np.flatnonzero(held_out)]
    run = RunFolder(folder / "smooth")
    model = train(training, settings.training(), run.path, on_progress=on_progress)
    clock.stop("train")

    reference = PotentialSource(reference=AMBER, structure=structure)
    evaluation = evaluate(
        load_model(model),
        test,
        reference.load(),
        settings.n_samples,
        torch.Generator().manual_seed(settings.seed),
        lambda done, total: on_progress(Progress("Evaluating", done, total)),
    )
    clock.stop("evaluate and sample")

    flow = PotentialSource(model=model)
    dynamics = DynamicsSettings(n_steps=round(settings.nve_duration / 0.001), report_every=5, seed=settings.seed)
    plan = [
        ("flow in our velocity Verlet", flow, "verlet", settings.n_replicas),
        ("flow in ASE", flow, "ase", 1),
        ("flow in OpenMM", flow, "openmm", 1),
        ("Amber in OpenMM", reference, "openmm", settings.n_replicas),
    ]
    runs = [conservation_run(title, source, engine, test, n, dynamics) for title, source, engine, n in plan]
    trajectories = run_conservation(
        runs, os.cpu_count() or 1, lambda done, total: on_progress(Progress("NVE dynamics", done, total))
    )
    clock.stop("NVE dynamics")

    result = Demonstration(evaluation, trajectories, clock.seconds, model, folder / "report.html")
    metrics = {"seconds": clock.seconds, "evaluation": evaluation.to_dict()}
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=1).encode())
    report = Report(
        title="A flow of capped alanine as sampler and potential",
        paragraphs=[
            f"Capped alanine in Amber ff99SB-ILDN with OBC implicit solvent at {frames.temperature:g} K: "
            f"{len(training)} frames of molecular dynamics to train on, {len(test)} of other walkers to evaluate on, "
            f"{settings.steps} steps of training, {clock.seconds['train']:.0f} s.",
            "Every number was measured in this run. A model trained for minutes is modest: more frames, more steps and "
            "a larger network give a better one.",
        ],
        tables=result.tables(),
        pictures=[
            *evaluation_pictures(evaluation, InternalCoordinates(frames.topology).codomain),
            conservation_picture(trajectories),
            training_picture(run.metrics),
        ],
        provenance={**frames.provenance, "seed": settings.seed, "plug-ins": ", ".join(registry().names("transform"))},
    )
    write_report(report, result.report)
    return result


class _Clock:
    """Wall-clock time, stage by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def stop(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage] = now - self._began
        self._began = now
