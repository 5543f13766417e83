"""What commands share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from smoothflow.cli.options import provider_potential, tell_code
from smoothflow.core.plugins import registry
from smoothflow.potentials.compiled import CompiledPotential


def test_a_compiled_package_is_named_as_code_before_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    package = CompiledPotential({"shape": [3, 3], "functions": []}, b"")
    assert tell_code("x.pt2", package) is package
    assert '"x.pt2" is native code' in capsys.readouterr().err


def test_models_are_opened_without_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    potential = provider_potential("smoothflow:ala2-affine", None)
    assert capsys.readouterr().err == ""
    positions, _ = registry().load("ala2-affine").sample(1, torch.Generator().manual_seed(0))
    assert torch.isfinite(potential.energy(positions)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "old"), [(["sample", "ala2-affine", "-n", "2"], "--reweight"), (["train", "no.h5"], "--target")]
)
@pytest.mark.parametrize("joined", [True, False])
def test_old_names_of_options_warn_and_work(command: list[str], old: str, joined: bool, tmp_path: Path) -> None:
    force_field = "nothing:here"
    option = [f"{old}={force_field}"] if joined else [old, force_field]
    program = [sys.executable, "-m", "smoothflow", *command, "--out", str(tmp_path / "out"), *option]
    found = subprocess.run(program, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert f"warning: {old} is now called --reference." in found.stderr
    # it was understood: what is wrong is the provider, or that there are no frames
    assert "No such option" not in found.stderr
    assert ('"nothing"' in found.stderr) == (command[0] == "sample")
