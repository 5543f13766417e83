"""Hostile files on the command line: one line and exit code 2, and nothing that controls the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load, save
from smoothflow.core.plugins import registry
from smoothflow.potentials.model_file import read_header

CONTROL = "\x1b[2J\x07"


@pytest.mark.parametrize("command", ["info", "evaluate", "sample", "md", "compile"])
@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"\x10\0\0\0\0\0\0\0" + b"{" * 16])
def test_damaged_models_are_refused(smoothflow: Any, tmp_path: Path, command: str, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    others = {"evaluate": [path], "sample": ["--out", tmp_path / "o.h5"], "compile": ["--out", tmp_path / "o.pt2"]}
    done = smoothflow(command, path, *others.get(command, []))
    assert done.code == 2
    assert len(done.err.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("frames", ["frames.h5", "frames.npz", "frames.xyz", "frames.dcd"])
def test_damaged_frames_are_refused(smoothflow: Any, tmp_path: Path, frames: str) -> None:
    path = tmp_path / frames
    path.write_bytes(b"\xff" * 1000)
    commands = [["convert", path, tmp_path / "new.h5", "--structure", "water", "--temperature", "300"]]
    commands += [["info", path], ["train", path, "--out", tmp_path / "run"]] if frames == "frames.h5" else []
    for command in commands:
        done = smoothflow(*command)
        assert done.code == 2, done.err
        # readers of other programs may print before
        assert "error:" in done.err.strip().splitlines()[-1]
        assert [p.name for p in tmp_path.iterdir()] == [frames]


@pytest.mark.parametrize(
    "provenance",
    [
        {"evaluation": "good"},
        {"evaluation": {"ess": {"value": "x", "error": None, "n": 3}}},
        {"evaluation": {"ess": [{"names": [1, 2]}, {"name": {"a": 1}}]}},
        {"[bold]": "[/bold][red]", CONTROL: CONTROL},
        {"a": {"b": [[{"c": []}]]}, "": None},
    ],
)
def test_any_text_in_a_model_is_shown_harmlessly(smoothflow: Any, tmp_path: Path, provenance: dict[str, Any]) -> None:
    shipped = registry().model_path("ala2-affine")
    header = {**read_header(shipped), "provenance": provenance}
    path = tmp_path / "model.safetensors"
    path.write_bytes(save(load(shipped.read_bytes()), metadata={"smoothflow": json.dumps(header)}))
    done = smoothflow("info", path)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out
    assert "\x07" not in done.out


def test_messages_do_not_control_the_terminal(smoothflow: Any, tmp_path: Path) -> None:
    done = smoothflow("info", tmp_path / f"a{CONTROL}.safetensors")
    assert done.code == 2
    assert "\x1b" not in done.err
    assert "\x07" not in done.err
