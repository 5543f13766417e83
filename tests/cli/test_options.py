"""What commands share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from smoothflow.cli.options import provider_potential, tell_code
from smoothflow.core.committee import CommitteePotential
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.plugins import registry
from smoothflow.potentials.compiled import CompiledPotential

Smoothflow = Callable[..., Any]


def test_a_compiled_package_is_named_as_code_before_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    package = CompiledPotential({"shape": [3, 3], "functions": []}, b"")
    assert tell_code("x.pt2", package) is package
    assert '"x.pt2" is native code' in capsys.readouterr().err


def test_code_in_a_committee_is_named_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    members = [CompiledPotential({"shape": [3, 3], "functions": []}, b"") for _ in range(2)]
    tell_code("committee:x.pt2,y.pt2", CommitteePotential(members))
    assert '"committee:x.pt2,y.pt2" is native code' in capsys.readouterr().err


def test_models_are_opened_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    potential = provider_potential("smoothflow:ala2-affine", None)
    assert capsys.readouterr().err == ""
    positions, _ = registry().load("ala2-affine").sample(1, torch.Generator().manual_seed(0))
    assert torch.isfinite(potential.energy(positions)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "old", "option"),
    [
        (["sample", "ala2-affine", "-n", "2"], "--reweight", ["--reweight", "nothing:here"]),
        (["train", "no.h5"], "--target", ["--target=nothing:here"]),
    ],
)
def test_old_names_of_options_warn_and_work(command: list[str], old: str, option: list[str], tmp_path: Path) -> None:
    program = [sys.executable, "-m", "smoothflow", *command, "--out", str(tmp_path / "out"), *option]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert f"warning: {old} is now called --reference." in found.stderr
    # it was understood: what is wrong is the provider, or that there are no frames
    assert "No such option" not in found.stderr
    assert ('"nothing"' in found.stderr) == (command[0] == "sample")


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["compare", "--target", "torus-multimodal", "--structure", "water"], "--structure"),
        (["compare", "--target", "torus-multimodal", "--n-samples", 100], "--n-samples"),
        (["compare", "--target", "torus-multimodal", "--config", "settings.yaml"], "--config"),
        (["check", "affine", "--frames", "frames.h5"], "--frames"),
        (["check", "langevin", "--nvt-steps", 100000], "--nvt-steps"),
        (["check", "ala2-affine", "--structure", "water"], "--structure"),
        (["sample", "ala2-affine", "--out", "samples.h5", "--charge", 0], "charge"),
        (["md", "ala2-affine", "--ensemble", "nve", "--friction", 1], "--friction"),
        (["train", "frames.h5", "--out", "run", "--from", "ala2-affine", "--transform", "smooth"], "--transform"),
    ],
)
def test_options_that_would_be_dropped_are_refused(
    smoothflow: Smoothflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[object], option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = smoothflow(*command)
    assert outcome.code == 2
    assert option in outcome.err
    assert "eave" in outcome.err or "Name it with --reference" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [-1, 2**64])
@pytest.mark.parametrize(
    "command",
    [
        ["sample", "ala2-affine", "--out", "a.h5"],
        ["md", "ala2-affine", "--out", "a.h5"],
        ["compile", "ala2-affine", "--out", "a.pt2"],
        ["train", "frames.h5", "--out", "a"],
        ["compare", "--target", "torus-multimodal", "--out", "a"],
        ["check", "affine"],
    ],
    ids=lambda command: command[0],
)
def test_seeds_that_no_generator_takes_are_usage_errors(
    smoothflow: Smoothflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], seed: int
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = smoothflow(*command, "--seed", seed)
    assert outcome.code == 2
    assert "--seed" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_device_without_numbers_is_refused(smoothflow: Smoothflow) -> None:
    outcome = smoothflow("md", "ala2-affine", "--steps", 1, "--device", "meta")
    assert outcome.code == 2
    assert 'device "meta" cannot be used' in outcome.err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp] can't allocate memory: you tried 480 GB")]
)
def test_memory_that_does_not_suffice_is_one_line(
    smoothflow: Smoothflow, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("smoothflow.sampling.md.run_dynamics", fail)
    outcome = smoothflow("md", "ala2-affine", "--steps", 1)
    assert outcome.code == 2
    assert "There is not enough memory" in outcome.err


@pytest.mark.parametrize("name", ["a.xyz", "a.npz", "a.PDB", "a.safetensors"])
@pytest.mark.parametrize("command", [["sample", "ala2-affine", "-n", 2], ["md", "ala2-affine", "--steps", 1]])
def test_frames_do_not_bear_the_suffix_of_another_format(
    smoothflow: Smoothflow, tmp_path: Path, command: list[object], name: str
) -> None:
    outcome = smoothflow(*command, "--out", tmp_path / name)
    assert outcome.code == 2
    assert 'Call it "a.h5"' in outcome.err
    assert not (tmp_path / name).exists()


def test_a_reference_of_minima_is_of_the_models_molecule(
    smoothflow: Smoothflow, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def remember(name: str, structure: object, where: object) -> None:
        asked.append(Path(str(structure)).name)
        raise ConfigurationError("far enough")

    monkeypatch.setattr("smoothflow.cli.check.provider_potential", remember)
    monkeypatch.setattr("smoothflow.cli.options.shipped_structure", lambda _: None)
    smoothflow("check", "ala2-affine", "--tests", "minima", "--reference", "openmm:a.xml")
    # a sample of the model itself, where its molecule is none that comes with the package
    assert asked == ["model.pdb"]


def test_an_empty_list_of_transforms_is_not_the_default(smoothflow: Smoothflow, tmp_path: Path) -> None:
    outcome = smoothflow("compare", "--target", "torus-multimodal", "--transforms", "", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert 'No transform is called ""' in outcome.err


def test_suffixes_are_those_of_a_format_in_any_case(smoothflow: Smoothflow, tmp_path: Path) -> None:
    smoothflow("sample", "ala2-affine", "-n", 2, "--out", tmp_path / "a.H5")
    assert smoothflow("convert", tmp_path / "a.H5", tmp_path / "b.HDF5").code == 0
    assert smoothflow("convert", tmp_path / "b.HDF5", tmp_path / "c.NPZ").code == 0
