"""The scripts that measure state functions and trust compare with what they say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from smoothflow import load, write_frames
from smoothflow.molecules.frames import Frames


@pytest.mark.slow
def test_state_functions_of_water_are_those_of_the_grid(figures: Callable[..., dict[str, Any]]) -> None:
    # the script itself fails where they are three errors apart
    found = figures("thermo.py", "-n", "1500", "--points", "20")
    assert "errors from" in found["water on the grid: A, kJ/mol"]
    # a coarser grid says nearly the same
    assert abs(float(found["A of 20 points along each coordinate, less that of 14, kJ/mol"])) < 0.05


@pytest.mark.slow
def test_what_warns_is_compared_with_errors_of_forces(figures: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    model = load("ala2-smooth")
    with torch.no_grad():
        positions, _ = model.sample(200, seed=9)
    write_frames(tmp_path / "frames.h5", Frames(model.topology, 300.0, positions.float().numpy()))
    found = figures("trust.py", "--frames", str(tmp_path / "frames.h5"), "--walks", "20", "--temperatures")
    # the model's own samples are what percentiles are uniform for: 1.95 / sqrt(200)
    assert float(found["percentiles of held-out frames, largest distance from uniform (Kolmogorov, Smirnov)"]) < 0.14
    assert int(found["walks along one bond or angle: of 20, with errors that one held-out frame in a thousand has"]) > 5


@pytest.mark.slow
def test_a_potential_of_mean_force_is_compared_with_its_simulation(figures: Callable[..., dict[str, Any]]) -> None:
    found = figures("part.py", "--time", "0.3", "--every", "5", "--steps", "50", "-n", "500")
    assert float(found["dynamics in TIP3P water, ps"]) > 0
    assert int(found["frames"]) > 50
    assert {f"the same by dynamics, {name}, kT" for name in ("all frames", "the half not trained on")} < set(found)
