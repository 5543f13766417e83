"""What commands share."""

from __future__ import annotations

import pytest
import torch
from smoothflow.cli.options import provider_potential, tell_code
from smoothflow.core.plugins import registry
from smoothflow.potentials.compiled import CompiledPotential


def test_a_compiled_package_is_named_as_code_before_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    package = CompiledPotential({"shape": [3, 3], "functions": []}, b"")
    assert tell_code("x.pt2", package) is package
    assert '"x.pt2" is native code' in capsys.readouterr().err


def test_models_are_not(capsys: pytest.CaptureFixture[str]) -> None:
    potential = provider_potential("smoothflow:ala2-affine", None)
    assert capsys.readouterr().err == ""
    positions, _ = registry().load("ala2-affine").sample(1, torch.Generator().manual_seed(0))
    assert torch.isfinite(potential.energy(positions)).all()
