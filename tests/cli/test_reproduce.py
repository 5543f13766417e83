"""``smoothflow reproduce``: the table, the exit code, and frames that are not where they were."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smoothflow.cli import reproduce
from smoothflow.core.errors import ConfigurationError
from smoothflow.molecules.frames_file import read_frames, write_frames
from smoothflow.studies.comparison.comparison import split_frames

Smoothflow = Callable[..., Any]
Chain = Any


def test_a_run_is_made_again_from_its_folder_alone(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    run = chain.model.parent
    source = json.loads((run / "source.json").read_text())
    assert source["command"].startswith("smoothflow train ")
    assert source["frames"] == str(chain.frames)
    found = smoothflow("reproduce", run, "--out", tmp_path / "again", "--json")
    assert (found.code, found.err) == (0, "")
    printed = json.loads(found.out)
    assert printed["agrees"]
    assert printed["n_held_out"] == 50
    numbers = {each["name"]: each for each in printed["numbers"]}
    assert numbers["val_nll"]["recorded"] == numbers["val_nll"]["reproduced"]
    # finished, it is compared once more
    table = smoothflow("reproduce", run, "--out", tmp_path / "again").out
    assert "best of 1 validations, each over 50 frames" in " ".join(table.split())
    assert table.count("equal") == len(numbers)


def test_numbers_that_differ_are_exit_code_1(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(chain.model.parent, run)
    lines = (run / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("val_nll")
    cells = lines[1].split(",")
    cells[place] = str(float(cells[place]) * (1 + 1e-9))
    (run / "metrics.csv").write_text(f"{lines[0]}\n{','.join(cells)}\n")
    source = json.loads((run / "source.json").read_text())
    (run / "source.json").write_text(json.dumps({**source, "machine": "an abacus"}))
    found = smoothflow("reproduce", run, "--out", tmp_path / "again")
    assert found.code == 1
    assert "1e-09" in found.out
    assert "machine is another one: an abacus then" in found.err
    assert smoothflow("reproduce", run, "--out", tmp_path / "again", "--tolerance", 1e-8).code == 0


def test_frames_that_moved_and_frames_of_a_comparison_are_accepted(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path
) -> None:
    frames = read_frames(chain.frames)
    write_frames(tmp_path / "part.h5", split_frames(frames)[0])
    (tmp_path / "run.yaml").write_text("{steps: 2, batch_size: 16, flow: {hidden: 4, interval_pairs: 1}}")
    command = ["train", tmp_path / "part.h5", "--config", tmp_path / "run.yaml", "--out", tmp_path / "run"]
    assert smoothflow(*command).code == 0
    (tmp_path / "part.h5").unlink()
    missing = smoothflow("reproduce", tmp_path / "run", "--out", tmp_path / "again")
    assert missing.code == 2
    assert "part.h5" in missing.err
    # a comparison trains on four fifths of a file
    assert smoothflow("reproduce", tmp_path / "run", "--out", tmp_path / "again", "--frames", chain.frames).code == 0
    write_frames(tmp_path / "other.h5", frames[np.arange(100)])
    other = smoothflow("reproduce", tmp_path / "run", "--out", tmp_path / "third", "--frames", tmp_path / "other.h5")
    assert other.code == 2
    assert "trained on other frames (400 of them; here are 100)" in other.err
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("nothing", "not a folder of a training run"), ("bare", "Give them with")]
)
def test_folders_that_lack_facts_of_the_run_are_refused(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, name: str, message: str
) -> None:
    if name == "bare":
        shutil.copytree(chain.model.parent, tmp_path / name)
        (tmp_path / name / "source.json").unlink()
    found = smoothflow("reproduce", tmp_path / name, "--out", tmp_path / "again")
    assert found.code == 2
    assert message in found.err
    assert len(found.err.strip().splitlines()) == 1


def test_the_force_field_is_computed_where_the_run_computed(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(chain.model.parent, run)
    config = (run / "config.yaml").read_text()
    assert "device: cpu" in config
    (run / "config.yaml").write_text(config.replace("device: cpu", "device: cuda:1"))
    source = json.loads((run / "source.json").read_text())
    source |= {"target": "torch:amber99sbildn.xml,amber99_obc.xml", "structure": "capped-alanine"}
    (run / "source.json").write_text(json.dumps(source))
    asked = []

    def provide(name: str, structure: str, device: object) -> None:
        asked.append(device)
        raise ConfigurationError("enough")

    # whether there is such a device or not
    monkeypatch.setattr(reproduce, "require_device", lambda name: name)
    monkeypatch.setattr(reproduce, "provider_potential", provide)
    assert "enough" in smoothflow("reproduce", run, "--out", tmp_path / "again").err
    assert asked == ["cuda:1"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module beside the run that writes a file when it is imported, and its mark."""
    mark = tmp_path / "imported"
    (tmp_path / "strangers_module.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "strangers_module", raising=False)
    return mark


@pytest.mark.parametrize("target", ["ase:strangers_module:Calculator", "smoothflow:x.pt2", "strange:x", 3, None])
def test_a_run_folder_names_no_code(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, module: Path, target: Any
) -> None:
    run = tmp_path / "run"
    shutil.copytree(chain.model.parent, run)
    source = json.loads((run / "source.json").read_text())
    (run / "source.json").write_text(json.dumps({**source, "target": target, "structure": "capped-alanine"}))
    found = smoothflow("reproduce", run, "--out", tmp_path / "again")
    assert found.code == 2
    assert "may name code" in found.err
    assert "--reference" in found.err
    assert not module.exists()
    # asked for on the command line, it is looked for
    smoothflow("reproduce", run, "--out", tmp_path / "again", "--reference", "ase:strangers_module:Calculator")
    assert module.exists()


def test_a_comparison_names_no_code(smoothflow: Smoothflow, chain: Chain, tmp_path: Path, module: Path) -> None:
    grid = 'transforms: {smooth: {}}\nobjectives: {nll: {}}\nreference: "ase:strangers_module:Calculator"\n'
    (tmp_path / "grid.yaml").write_text(grid)
    command = ["compare", chain.frames, "--preset", tmp_path / "grid.yaml", "--out", tmp_path / "out"]
    found = smoothflow(*command)
    assert found.code == 2
    assert "may name code" in found.err
    assert not module.exists()


@pytest.mark.parametrize("name", ["source.json", "frames.json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"3", b'{"a": 1, "a": 2}', b"\xff", b"9" * 5000])
def test_files_of_a_run_that_somebody_made_to_do_harm(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, name: str, content: bytes
) -> None:
    run = tmp_path / "run"
    shutil.copytree(chain.model.parent, run)
    (run / name).write_bytes(content)
    found = smoothflow("reproduce", run, "--out", tmp_path / "again")
    assert found.code == 2, found.err
    assert f'{name}" is damaged' in found.err
