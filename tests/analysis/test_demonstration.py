"""The whole chain, small: every stage runs for real and says what it measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from smoothflow.analysis.comparison import compare_transforms, comparison_dict, comparison_table, write_comparison
from smoothflow.analysis.conservation import PotentialSource
from smoothflow.analysis.demonstration import DemoSettings, demonstrate
from smoothflow.analysis.showcase import AMBER, Demonstration
from smoothflow.coordinates.molecules import molecule_path
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.engine import DynamicsSettings
from smoothflow.training.config import TrainSettings
from smoothflow.training.frames_file import read_frames
from smoothflow.training.progress import Progress

SMALL = DemoSettings(
    n_walkers=8, n_frames=800, likelihood_steps=2, steps=4, n_samples=20, nve_duration=0.02, n_replicas=2
)


@dataclass(frozen=True)
class Run:
    """A small demonstration, where it is, and the stages that it told of."""

    result: Demonstration
    folder: Path
    stages: list[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("demonstration")
    stages: list[str] = []

    def on_progress(progress: Progress) -> None:
        stages.append(progress.stage)

    return Run(demonstrate(folder, SMALL, on_progress), folder, stages)


@pytest.mark.slow
def test_demonstration_runs_the_whole_chain(run: Run) -> None:
    result = run.result
    assert list(result.seconds) == ["simulate", "train", "evaluate and sample", "NVE dynamics"]
    assert {"Simulation", "Training", "Evaluating", "NVE dynamics"} <= set(run.stages)
    verlet, ase, openmm, _ = result.trajectories.values()
    # replica 0 starts from the same frame with the same velocities everywhere; 20 steps of 1 fs, where the flow, stiff
    # after four steps of training, makes ASE's rounding of units grow to 1e-5 kJ/mol
    for other in (ase, openmm):
        assert (other.positions[-1, 0] - verlet.positions[-1, 0]).abs().max() < 1e-6
        assert (other.total_energy[:, 0] - verlet.total_energy[:, 0]).abs().max() < 1e-3
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["evaluation"]["ess"]["n"] == 20
    page = result.report.read_text()
    assert "Energy conservation" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    titles = [table.title for table in result.tables()]
    assert titles[0] == "The flow against Amber"


@pytest.mark.slow
def test_comparison_trains_and_measures_each_transform(run: Run, tmp_path: Path) -> None:
    frames = read_frames(run.folder / "frames.h5")
    settings = TrainSettings(
        flow=FlowSettings(interval_pairs=1, circle_pairs=1, hidden=8, options={"smooth": {"n_components": 2}}),
        steps=3,
        validate_every=3,
    )
    found = compare_transforms(
        frames[:600],
        frames[600:],
        ["smooth", "affine"],
        settings,
        PotentialSource(reference=AMBER, structure=molecule_path("capped-alanine")),
        DynamicsSettings(n_steps=10, timestep=0.0001, report_every=2),
        20,
        2,
        tmp_path,
        lambda progress: None,
    )
    assert [c.transform for c in found] == ["smooth", "affine"]
    assert all(c.model.is_file() and c.trajectory is not None for c in found)
    table = comparison_table(found)
    assert table.columns == ("", "smooth", "affine")
    rows = comparison_dict(found)
    assert rows[0]["n_parameters"] > rows[1]["n_parameters"] > 0
    write_comparison(found, frames.topology, tmp_path / "report.html")
    assert "affine: Forces" in (tmp_path / "report.html").read_text()
