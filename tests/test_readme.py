"""The README's blocks do what they say; that its commands exist is tested with those of all documents."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smoothflow
import torch
from smoothflow.core.units import ELECTRONVOLT
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.testing import check_transform
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential

README = (Path(smoothflow.__file__).parent / "README.md").read_text(encoding="utf-8")


def python_block(first_line: str) -> str:
    """The code block that begins with a line."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    return next(block for block in blocks if block.startswith(first_line))


def test_the_transform_of_the_readme_keeps_the_contract() -> None:
    names: dict[str, Any] = {"__name__": "readme"}
    exec(python_block("import math"), names)
    # a class that exists only in a string cannot be pickled
    clauses = ("monotonicity", "log-derivative", "round-trip", "gradients", "smoothness")
    check_transform(names["CubicTransform"], clauses=clauses)
    assert names["smoothflow_transforms"]() == {"cubic": names["CubicTransform"]}


def test_the_lines_for_a_simulator_put_the_model_into_ase_and_openmm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ase.io
    import openmm

    structure = molecule_path("capped-alanine")
    topology, x = topology_from_pdb(structure)
    noise = 0.003 * torch.randn(100, *x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    settings = TrainSettings(flow=smoothflow.FlowSettings(hidden=8, interval_pairs=1, circle_pairs=1))
    untrained = initial_potential(Frames(topology, 300.0, (x + noise).numpy().astype(np.float32)), settings)
    (tmp_path / "smoothflow-demo" / "smooth").mkdir(parents=True)
    smoothflow.save_model(untrained, tmp_path / "smoothflow-demo" / "smooth" / "model.safetensors", {})
    monkeypatch.chdir(tmp_path)

    atoms, system = ase.io.read(structure), openmm.System()
    atoms.pbc = False
    for mass in atoms.get_masses():
        system.addParticle(mass)
    exec(python_block("import smoothflow\n"), {"atoms": atoms, "system": system})
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(atoms.positions / 10)
    in_openmm = context.getState(energy=True).getPotentialEnergy().value_in_unit(openmm.unit.kilojoule_per_mole)
    # the same float64 model; the conversion from eV has twelve digits
    assert atoms.get_potential_energy() * ELECTRONVOLT == pytest.approx(in_openmm, rel=1e-9)


@pytest.mark.parametrize("file", ["CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt"])
def test_files_that_the_readme_names_exist(file: str) -> None:
    assert file in README
    assert (Path(smoothflow.__file__).parent / file).is_file()
