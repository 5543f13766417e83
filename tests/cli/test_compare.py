"""``smoothflow compare`` on frames: presets and transforms by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Smoothflow = Callable[..., Any]
Chain = Any

PRESET = """\
training: {steps: 2, batch_size: 16, flow: {hidden: 4, line_pairs: 1, interval_pairs: 1, circle_pairs: 1}}
transforms:
  affine: {transforms: {line: affine}}
objectives:
  nll: {force: 0}
  nll+fm:
n_samples: 20
n_gradients: 2
dynamics: {replicas: 1, timestep: 1.0e-4, duration: 1.0e-3, equilibration: 0, timesteps: []}
"""


@pytest.mark.slow
def test_one_cell_of_a_custom_preset_is_trained(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(PRESET)
    folder = tmp_path / "grid"
    command = ["compare", chain.frames, "--preset", tmp_path / "grid.yaml", "--out", folder, "--json"]
    others = tmp_path / "others.h5"
    found = smoothflow("simulate", "capped-alanine", "--out", others, "-n", 50, "--interval", 0.02, "--seed", 7)
    assert found.code == 0, found.err
    first = smoothflow(*command, "--held-out", others, "--cells", "affine/nll+fm")
    assert first.code == 0, first.err
    assert [cell["title"] for cell in json.loads(first.out)["cells"]] == ["affine/nll+fm"]
    assert (folder / "affine" / "nll+fm" / "evaluation.json").is_file()
    assert not (folder / "affine" / "nll").exists()


@pytest.mark.slow
def test_transforms_are_compared_by_name(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("flow: {hidden: 4, line_pairs: 1, interval_pairs: 1, circle_pairs: 1}\n")
    command = ["compare", chain.frames, "--transforms", "affine", "--config", tmp_path / "run.yaml", "--steps", 2]
    found = smoothflow(*command, "--out", tmp_path / "out", "-n", 20, "--replicas", 1, "--md-steps", 10)
    assert found.code == 0, found.err
    assert "Kish ESS" in found.out
    assert "affine" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "alanine"], "alanine-dipeptide"),
        (["--preset", "alanine-dipeptide", "--steps", "3"], "A preset sets what --steps would"),
        (["--preset", "alanine-dipeptide", "--target", "rings"], "A preset sets what --target would"),
        (["--preset", "alanine-dipeptide", "--held-out", "x.h5"], "give both, or none"),
        (["--target", "rings", "--preset", "no.yaml"], "--target"),
        (["x.h5", "--target", "rings"], "Give either a frames file"),
        (["--target", "rings", "--models", "ala2-smooth"], "leave out --models"),
        (["x.h5", "--models", "ala2-smoth"], "ala2-smooth"),
    ],
)
def test_impossible_comparisons_are_refused_in_one_line(
    smoothflow: Smoothflow, tmp_path: Path, arguments: list[str], message: str
) -> None:
    found = smoothflow("compare", *arguments, "--out", tmp_path / "out")
    assert found.code == 2
    assert message in found.err
    assert not (tmp_path / "out").exists()
