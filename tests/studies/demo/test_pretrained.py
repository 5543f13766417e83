"""The demonstration of a model that is trained already, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from smoothflow.core.plugins import registry
from smoothflow.studies.demo.pretrained import PretrainedSettings, demonstrate_pretrained
from smoothflow.studies.demo.showcase import PUBLISHED

SMALL = PretrainedSettings(n_walkers=2, n_frames=40, n_samples=40, nve_duration=0.01, n_replicas=2)


@pytest.mark.slow
def test_a_model_that_ships_is_shown_beside_its_header(tmp_path: Path) -> None:
    stages: list[str] = []
    result = demonstrate_pretrained("ala2-affine", tmp_path, SMALL, lambda progress: stages.append(progress.stage))
    assert result.model == registry().model_path("ala2-affine")
    assert list(result.seconds) == ["simulate", "evaluate and sample", "NVE dynamics"]
    assert {"Simulation", "Evaluating", "NVE dynamics"} <= set(stages)
    flow, amber = result.trajectories.values()
    assert flow.positions.shape[1] == amber.positions.shape[1] == 2
    assert [table.title.partition(",")[0] for table in result.tables()][1] == "What the model's header says"
    assert [row[0] for row in result.tables()[1].rows] == list(PUBLISHED.values())
    assert json.loads((tmp_path / "metrics.json").read_text())["evaluation"]["ess"]["n"] == 40
    assert "The model ala2-affine as sampler and potential" in result.report.read_text()
