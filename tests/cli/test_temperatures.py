"""Models of a range of temperatures from the shell: frames of all, one training, and every command at a temperature."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smoothflow.cli.app import main
from smoothflow.molecules.frames_file import read_frames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.model_file import read_model
from smoothflow.training.run_folder import RunFolder

Smoothflow = Callable[..., Any]
Chain = Any
AMBER = "openmm:amber99sbildn.xml,amber99_obc.xml"


@dataclass(frozen=True)
class Ladder:
    """Files of capped alanine at 300 to 500 K."""

    frames: Path
    hot: Path
    model: Path

    def read(self) -> FlowPotential:
        return read_model(self.model)


@pytest.fixture(scope="session")
def ladder(once: Callable[[str, Callable[[Path], object]], Path]) -> Ladder:
    """Frames of two temperatures, and a flow trained on them for five steps."""
    folder = once("ladder", make_ladder)
    return Ladder(folder / "frames.h5", folder / "frames-500K.h5", folder / "run" / "model.safetensors")


def make_ladder(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.yaml").write_text(
        "steps: 5\nvalidate_every: 5\nbatch_size: 32\nflow:\n  interval_pairs: 1\n  circle_pairs: 1\n  hidden: 8\n"
    )
    simulate = "simulate capped-alanine -n 300 --interval 0.2 --walkers 1 --ladder 500 --keep all --out frames.h5"
    train = "train frames-500K.h5 frames.h5 --config config.yaml --out run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in (simulate, train):
            patch.setattr(sys, "argv", ["smoothflow", *command.split()])
            with pytest.raises(SystemExit) as stopped:
                main()
            assert not stopped.value.code


def test_the_frames_of_all_temperatures_are_kept_and_trained_on(ladder: Ladder) -> None:
    cold, hot = read_frames(ladder.frames), read_frames(ladder.hot)
    assert (cold.temperature, hot.temperature, len(cold), len(hot)) == (300.0, 500.0, 300, 300)
    assert cold.energies is not None
    assert hot.energies is not None
    # 60 vibrations of kT / 2 each
    assert 20 < float(np.median(hot.energies) - np.median(cold.energies)) < 100
    assert str(ladder.read().temperature_range) == "300 to 500 K"
    source = json.loads(RunFolder(ladder.model.parent).source.read_text())
    assert [Path(path).name for path in source["frames"]] == ["frames-500K.h5", "frames.h5"]


def test_samples_are_of_the_temperature_that_is_asked_for(
    smoothflow: Smoothflow, ladder: Ladder, tmp_path: Path
) -> None:
    out = tmp_path / "samples.h5"
    command = ["sample", ladder.model, "--temperature", 450, "--out", out, "--reference", AMBER]
    assert smoothflow(*command, "-n", 30).code == 0
    found, potential = read_frames(out), ladder.read().at_temperature(450.0)
    assert found.temperature == 450.0
    assert found.energies is not None
    assert found.log_weights is not None
    again = potential.energy(found.positions.astype(np.float64)).numpy()
    # positions are stored in float32
    np.testing.assert_allclose(found.energies, again, rtol=1e-3, atol=5.0)
    refused = smoothflow("sample", ladder.model, "--out", out, "-n", 40, "--reference", AMBER)
    assert refused.code == 2
    assert "temperature is 450.0 there and 300.0 here" in " ".join(refused.err.split())
    assert smoothflow(*command, "-n", 40).code == 0


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("sample {ranged} --out {out} --temperature 600", "from 300 to 500 K, and 600 K is asked for"),
        ("sample ala2-smooth --out {out} --temperature 400", "of 300 K alone, and 400 K is asked for"),
        ("md {ranged} --steps 1 --temperature 299", "from 300 to 500 K, and 299 K is asked for"),
        ("compile {ranged} --out {out}.pt2 --temperature 1000", "from 300 to 500 K, and 1000 K is asked for"),
        ("evaluate {ranged} {hot} -n 10 --temperature 300", "made at 500 K and the model for 300 K"),
        ("check {ranged} --tests rigid --temperature 299", "from 300 to 500 K, and 299 K is asked for"),
        ("check {ranged} --frames {hot} --temperature 300", "is of 500 K, and 300 K is asked for"),
        ("check {reference} --temperature 300", "not a model that has a temperature"),
        ("simulate capped-alanine --ladder none --keep all --out {out}", "all.*with a ladder"),
    ],
)
def test_a_temperature_that_a_model_has_not_is_refused_in_a_line(
    smoothflow: Smoothflow, ladder: Ladder, tmp_path: Path, command: str, message: str
) -> None:
    words = command.format(ranged=ladder.model, hot=ladder.hot, out=tmp_path / "out.h5", reference=AMBER).split()
    found = smoothflow(*words)
    assert found.code == 2
    # whatever its width
    text = " ".join(found.err.split())
    assert re.search(message, text), text
    assert "Traceback" not in found.err
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_evaluated_at_the_temperature_of_the_frames(
    smoothflow: Smoothflow, ladder: Ladder, tmp_path: Path
) -> None:
    for frames, kelvin in ((ladder.frames, 300.0), (ladder.hot, 500.0)):
        found = smoothflow("evaluate", ladder.model, frames, "-n", 20, "--json")
        assert found.code == 0, found.err
        expected = (
            -ladder.read().at_temperature(kelvin).log_prob(read_frames(frames).positions.astype(np.float64)).mean()
        )
        numbers = json.loads(found.out)
        assert numbers["frames_are"] == "training frames"
        assert numbers["nll"]["value"] == pytest.approx(float(expected), rel=1e-9)


def test_dynamics_and_packages_are_of_the_temperature_that_is_asked_for(
    smoothflow: Smoothflow, ladder: Ladder, tmp_path: Path
) -> None:
    options = ["--start", ladder.hot, "--steps", 20, "--report-every", 10, "--energy-bound", 1000]
    out = tmp_path / "md.h5"
    found = smoothflow("md", ladder.model, *options, "--temperature", 500, "--out", out)
    assert found.code == 0, found.err
    frames = read_frames(out)
    assert frames.temperature == 500.0
    assert frames.provenance["temperature"] == 500.0
    energies = ladder.read().at_temperature(500.0).energy(frames.positions.astype(np.float64)).numpy()
    np.testing.assert_allclose(frames.energies, energies, rtol=1e-3, atol=5.0)  # of float32 positions


def test_what_a_model_is_of_is_told(smoothflow: Smoothflow, ladder: Ladder) -> None:
    table = " ".join(smoothflow("info", ladder.model).out.split())
    assert "300 to 500 K" in table
    assert json.loads(smoothflow("info", ladder.model, "--json").out)["temperature_range"] == [300.0, 500.0]


def test_a_training_on_several_files_is_made_again_from_its_folder(
    smoothflow: Smoothflow, ladder: Ladder, tmp_path: Path
) -> None:
    found = smoothflow("reproduce", ladder.model.parent, "--out", tmp_path / "again", "--json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["agrees"] is True
    one = smoothflow("reproduce", ladder.model.parent, "--frames", ladder.hot, "--out", tmp_path / "other")
    assert one.code == 2
    assert "trained on other frames" in " ".join(one.err.split())
