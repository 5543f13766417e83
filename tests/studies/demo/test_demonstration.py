"""The whole chain, small: every stage runs for real and says what it measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from smoothflow.runs.progress import Progress
from smoothflow.studies.demo.demonstration import DemoSettings, demonstrate
from smoothflow.studies.demo.showcase import Demonstration

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
