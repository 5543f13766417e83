"""A flow of the demonstrations' molecule, measured against Amber, run in engines, and written up in a report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...analysis.dynamics import energy_conservation
from ...analysis.estimates import read_estimate
from ...analysis.evaluation import Evaluation, evaluate
from ...coordinates.internal import InternalCoordinates
from ...core.engine import DynamicsSettings, Trajectory
from ...core.files import make_folder, require_own_folder, write_json
from ...core.plugins import registry
from ...molecules.frames import Frames
from ...molecules.frames_file import read_frames
from ...molecules.shipped import AMBER, molecule_path
from ...potentials.shipped import load_flow, provenance_of
from ...runs.progress import OnProgress, within
from ...runs.workers import n_cores
from ...sampling.simulate import SimulateSettings, simulate
from ..conservation import PotentialSource, conservation_run, run_conservation
from ..gallery import conservation_picture, evaluation_pictures
from ..report import Picture, Report, Table, write_report

MOLECULE = "capped-alanine"

PUBLISHED = {
    "forward_kl": "NLL gap (forward KL), kT",
    "force_mse_data": "force MSE on frames, (kT/nm)^2",
    "force_mse_samples": "force MSE on samples, (kT/nm)^2",
    "ess": "Kish ESS, raw",
    "log_z": "log Z (BAR)",
    "log_z_importance": "log Z (importance weights)",
}
"""Measures of an `Evaluation` that are compared with those in a model's header, and their names."""


@dataclass(frozen=True)
class ShowSettings:
    """Extent of the measurements on a flow.

    Attributes:
        n_samples: Samples drawn from it.
        nve_duration: ps.
        n_replicas: NVE runs of the flow in our own integrator, all at once, and of Amber.
        engines: Other engines that run one replica of the flow.
        seed: Seed of the random numbers.
    """

    n_samples: int = 10_000
    nve_duration: float = 5.0
    n_replicas: int = 10
    engines: tuple[str, ...] = ("ase", "openmm")
    seed: int = 0


@dataclass(frozen=True)
class Demonstration:
    """The results of a demonstration.

    Attributes:
        evaluation: The flow's quality.
        trajectories: NVE runs by title.
        seconds: Wall-clock time of each stage.
        model: The model file.
        report: The report.
        published: The evaluation in the model's header, as `Evaluation.to_dict` writes it; empty if there is none.
    """

    evaluation: Evaluation
    trajectories: Mapping[str, Trajectory]
    seconds: Mapping[str, float]
    model: Path
    report: Path
    published: Mapping[str, Any] = field(default_factory=dict)

    def tables(self) -> list[Table]:
        """The results as tables."""
        conserved = [(title, energy_conservation(run)) for title, run in self.trajectories.items()]
        rows = [
            (title, str(run.positions.shape[1]), str(item.std_per_dof), str(item.abs_drift))
            for (title, item), run in zip(conserved, self.trajectories.values(), strict=True)
        ]
        duration = conserved[0][1].duration
        tables = [
            Table("The flow against Amber", ("quantity", "value", "unit, remark"), self.evaluation.rows()),
            Table(
                f"Energy conservation in {duration:g} ps of NVE, velocity Verlet, 1 fs",
                ("potential, engine", "replicas", "std / (3n - 6), kJ/mol", "|drift|, kJ/mol/ps"),
                rows,
            ),
            Table("Time", ("stage", "seconds"), [(stage, f"{value:.0f}") for stage, value in self.seconds.items()]),
        ]
        if self.published:
            tables.insert(1, self._published())
        return tables

    def _published(self) -> Table:
        rows = [
            (label, str(read_estimate(self.published[name])), str(getattr(self.evaluation, name)))
            for name, label in PUBLISHED.items()
            if name in self.published
        ]
        return Table("What the model's header says, and what was measured now", ("quantity", "header", "now"), rows)


class Clock:
    """Wall-clock time, stage by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def stop(self, stage: str) -> None:
        """Record the time since the previous stage as that of a stage."""
        now = time.monotonic()
        self.seconds[stage] = now - self._began
        self._began = now


AMBER_RUN = SimulateSettings(structure=molecule_path(MOLECULE), potential=AMBER, start_temperature=600.0)
"""The common settings of simulations of the molecule, whose walkers are heated first."""


def begin(folder: Path, simulation: SimulateSettings, clock: Clock, on_progress: OnProgress) -> Frames:
    """Make the folder of a demonstration and simulate into it, or resume an earlier call.

    Args:
        folder: Receives ``frames.h5``.
        simulation: How Amber makes the frames.
        clock: Records the time of the stage.
        on_progress: Told of frames.

    Raises:
        ConfigurationError: If the folder is not a demonstration's and has files that one would replace.
        SmoothflowError: As `simulate` does.
    """
    require_own_folder(folder, ("metrics.json", "report.html"), {"metrics.json": b'"seconds": {'}, "a demonstration")
    make_folder(folder)
    simulate(simulation, folder / "frames.h5", on_progress)
    clock.stop("simulate")
    return read_frames(folder / "frames.h5")


def show(
    model: Path, test: Frames, settings: ShowSettings, clock: Clock, on_progress: OnProgress
) -> tuple[Evaluation, dict[str, Trajectory]]:
    """Evaluate a flow of the molecule, and run it beside Amber.

    Args:
        model: A model file.
        test: Frames of Amber that the flow was not trained on.
        settings: Extent of the measurements.
        clock: Records the times of both stages.
        on_progress: Told of each stage.

    Returns:
        The evaluation, and NVE trajectories by title.

    Raises:
        SmoothflowError: As the steps do.
    """
    reference = PotentialSource(reference=AMBER, structure=molecule_path(MOLECULE))
    evaluation = evaluate(
        load_flow(model),
        test,
        reference.load(),
        settings.n_samples,
        torch.Generator().manual_seed(settings.seed),
        within("Evaluating", on_progress),
        provenance_of(model),
    )
    clock.stop("evaluate and sample")

    flow = PotentialSource(model=model)
    dynamics = DynamicsSettings(n_steps=round(settings.nve_duration / 0.001), report_every=5, seed=settings.seed)
    plan = [
        ("flow in our velocity Verlet", flow, "native", settings.n_replicas),
        *((f"flow in {TITLES[engine]}", flow, engine, 1) for engine in settings.engines),
        ("Amber in OpenMM", reference, "openmm", settings.n_replicas),
    ]
    runs = [conservation_run(title, source, engine, test, n, dynamics) for title, source, engine, n in plan]
    trajectories = run_conservation(runs, n_cores(), on_progress)
    clock.stop("NVE dynamics")
    return evaluation, trajectories


TITLES = {"ase": "ASE", "openmm": "OpenMM"}
"""Names of the engines in tables and figures."""


def write_demonstration(
    result: Demonstration,
    title: str,
    paragraphs: Sequence[str],
    pictures: Sequence[Picture],
    test: Frames,
    provenance: Mapping[str, Any],
) -> None:
    """Write the report, and the numbers as JSON in ``metrics.json`` beside it.

    Args:
        result: Results of the demonstration.
        title: Title of the report.
        paragraphs: Its text.
        pictures: Pictures besides those of the evaluation and the NVE runs.
        test: The frames of the evaluation.
        provenance: Provenance beyond that of the frames.
    """
    metrics = {"seconds": result.seconds, "evaluation": result.evaluation.to_dict()}
    write_json(result.report.with_name("metrics.json"), metrics)
    report = Report(
        title=title,
        paragraphs=[f"Verdict on the errors below: {result.evaluation.verdict}.", *paragraphs],
        tables=result.tables(),
        pictures=[
            *evaluation_pictures(result.evaluation, InternalCoordinates(test.topology).codomain),
            conservation_picture(result.trajectories),
            *pictures,
        ],
        provenance={**test.provenance, **provenance, "plug-ins": ", ".join(registry().names("transform"))},
    )
    write_report(report, result.report)
