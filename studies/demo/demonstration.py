"""The whole workflow on one molecule: simulate, train, evaluate, sample, and run the flow in three engines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...core.architecture import FlowSettings
from ...runs.progress import OnProgress
from ...training.config import TrainSettings
from ...training.run import train
from ...training.run_folder import RunFolder
from ..gallery import training_picture
from .showcase import AMBER_RUN, Clock, Demonstration, ShowSettings, begin, show, write_demonstration


@dataclass(frozen=True)
class DemoSettings(ShowSettings):
    """Sizes of all stages; the defaults take less than five minutes on two cores.

    Attributes:
        n_walkers: Independent short simulations, each heated first, so that all slowly exchanging rotamers are visited.
            The last eighth is held out of training.
        n_frames: Frames of all walkers, 0.05 ps apart.
        likelihood_steps: Training steps on the likelihood alone.
        steps: All training steps; those after the likelihood steps train on likelihood and forces.
    """

    n_walkers: int = 64
    n_frames: int = 25_600
    likelihood_steps: int = 150
    steps: int = 1200

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


def demonstrate(folder: Path, settings: DemoSettings, on_progress: OnProgress) -> Demonstration:
    """Run the whole workflow in a folder; simulation and training resume where an earlier call was interrupted.

    Args:
        folder: Receives frames.h5, the run folder ``smooth``, metrics.json and report.html.
        settings: Sizes of the stages.
        on_progress: Told of each stage.

    Raises:
        SmoothflowError: As the steps do.
    """
    clock = Clock()
    simulation = replace(
        AMBER_RUN,
        n_frames=settings.n_frames,
        frame_interval=0.05,
        walkers=settings.n_walkers,
        start_time=5.0,
        equilibration=4.0,
        seed=settings.seed,
    )
    frames = begin(folder, simulation, clock, on_progress)

    walker = np.zeros(len(frames)) if frames.replica is None else frames.replica
    held_out = walker >= settings.n_walkers * 7 // 8
    training, test = frames[np.flatnonzero(~held_out)], frames[np.flatnonzero(held_out)]
    run = RunFolder(folder / "smooth")
    model = train(training, settings.training(), run.path, on_progress=on_progress)
    clock.stop("train")

    evaluation, trajectories = show(model, test, settings, clock, on_progress)
    result = Demonstration(evaluation, trajectories, clock.seconds, model, folder / "report.html")
    write_demonstration(
        result,
        "A flow of capped alanine as sampler and potential",
        [
            f"Capped alanine in Amber ff99SB-ILDN with OBC implicit solvent at {frames.temperature:g} K: "
            f"{len(training)} frames of molecular dynamics to train on, {len(test)} of other walkers to evaluate on, "
            f"{settings.steps} steps of training, {clock.seconds['train']:.0f} s.",
            "Every number was measured in this run. A model trained for minutes is modest: more frames, more steps and "
            "a larger network give a better one.",
        ],
        [training_picture(run.metrics)],
        test,
        {"seed": settings.seed},
    )
    return result
