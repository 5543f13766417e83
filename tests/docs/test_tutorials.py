"""The tutorials run as they are read, top to bottom, and give what they say."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import smoothflow
import torch
from smoothflow.analysis.reweighting import log_z
from smoothflow.molecules.frames_file import read_frames
from smoothflow.testing import TRANSFORM_CLAUSES

TUTORIALS = Path(smoothflow.__file__).parent / "docs" / "tutorials"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Tutorial:
    """What a tutorial left behind: its Python session, what its blocks printed, and its folder."""

    names: dict[str, Any]
    printed: str
    folder: Path


def blocks(text: str) -> Iterator[tuple[str, str, int]]:
    """Language, code and first line of each block."""
    for match in FENCE.finditer(text):
        yield match[1], match[2], text.count("\n", 0, match.start(2)) + 1


@pytest.fixture
def tutorial(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Tutorial]:
    """A tutorial that was followed in an empty folder, as a reader in an activated environment would."""
    path = TUTORIALS / request.param
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    text = path.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    threads, printed = torch.get_num_threads(), ""
    for language, code, line in blocks(text):
        if language == "python":
            exec(compile("\n" * (line - 1) + code, str(path), "exec"), names)
            printed += capsys.readouterr().out
        elif language == "bash":
            done = subprocess.run(["bash", "-euo", "pipefail"], input=code, capture_output=True, text=True)
            assert done.returncode == 0, f"{path.name}, line {line}: {done.stderr}"
            printed += done.stdout
    yield Tutorial(names, printed, tmp_path)
    torch.set_num_threads(threads)


def follow(name: str) -> pytest.MarkDecorator:
    """A test of what a tutorial gives."""
    return pytest.mark.parametrize("tutorial", [name], indirect=True)


def test_every_block_is_one_that_runs_or_is_only_read() -> None:
    for path in TUTORIALS.glob("*.md"):
        text = path.read_text(encoding="utf-8")
        languages = {language for language, _, _ in blocks(text)}
        assert languages <= {"python", "bash", "text"}, path.name
        assert text.count("```") == 2 * len(list(blocks(text))), path.name


@follow("ase.md")
def test_a_potential_in_ase(tutorial: Tutorial) -> None:
    names = tutorial.names
    assert names["converged"]
    # a stretch of an N-H bond, cm^-1
    assert 3000 < names["wavenumbers"].max() < 4000
    # 60 vibrations share some 30 kT = 0.8 eV; Amber itself fluctuates by 3 to 6 meV at this step
    assert len(names["total_energies"]) == 101
    assert names["fluctuation"] < 0.03
    assert names["deviation"] < 2.0
    assert (tutorial.folder / "samples.xyz").read_text().count("Lattice") == 0
    assert len(names["samples"]) == 8


@follow("openmm.md")
def test_a_potential_in_openmm(tutorial: Tutorial) -> None:
    names = tutorial.names
    log = (tutorial.folder / "log.csv").read_text().splitlines()
    assert len(log) == 1 + 10 + 10
    assert (tutorial.folder / "trajectory.dcd").stat().st_size > 20 * 22 * 12
    # kJ/mol; half a kT
    assert names["spread"] < 1.2
    assert 0.4 < names["distance"] < 0.9


@pytest.mark.slow
@follow("transform.md")
def test_a_transform_of_ones_own(tutorial: Tutorial) -> None:
    names = tutorial.names
    assert names["report"].passed
    error = names["mistakes"].results[0].error
    assert error is not None
    assert "log" in str(error)
    # the table of the whole contract, on the one manifold
    assert tutorial.printed.count(" ok ") == len(TRANSFORM_CLAUSES)
    assert [row["transform"] for row in names["comparison"]] == ["fourier", "smooth"]
    # kT; sixty steps from the uniform distribution, which is more than a kT away
    assert all(0 < row["forward_kl"] < 0.5 for row in names["comparison"])
    assert (tutorial.folder / "comparison" / "report.html").stat().st_size > 10_000


@pytest.mark.slow
@follow("molecule.md")
def test_from_a_pdb_to_a_report(tutorial: Tutorial) -> None:
    folder = tutorial.folder
    assert (folder / "report.html").read_text(encoding="utf-8").count("data:image/png") >= 3
    assert json.loads((folder / "evaluation.json").read_text())
    frames, samples, dynamics = (read_frames(folder / name) for name in ("frames.h5", "samples.h5", "md.h5"))
    assert len(frames) == 500
    assert len(samples) == 200
    assert samples.log_weights is not None
    assert len(dynamics) == 6
    assert (folder / "md.xtc").stat().st_size > 0
    # the model has learned something of the molecule since its first validation
    metrics = csv.DictReader((folder / "run" / "metrics.csv").read_text().splitlines())
    losses = [float(row["val_nll"]) for row in metrics]
    assert losses[-1] < losses[0]


@follow("free-energy.md")
def test_reweighting_and_free_energies(tutorial: Tutorial) -> None:
    names = tutorial.names
    assert 0.05 < names["ess"].value <= 1
    # long simulations of this force field give 1.2 to 2 %; a few dozen of the samples are there
    assert 0.003 < names["population"].value < 0.05
    assert 3 < names["basin"].value < 6
    # the same free energy from the two partition functions, in kT; nothing but rounding between them
    solvent, vacuum = names["log_weights"], -names["u_vacuum"] - names["log_q"]
    assert names["solvation"] == pytest.approx(log_z(vacuum).value - log_z(solvent).value, abs=1e-8)


@pytest.mark.slow
@follow("bias.md")
def test_a_bias_on_torsions(tutorial: Tutorial) -> None:
    names = tutorial.names
    # the definitions of phi and psi agree with the internal coordinates' own
    flow, samples = names["flow"], names["samples"]
    q, _ = flow.coordinates.encode(samples)
    columns = flow.coordinates.codomain.names
    for name in ("phi", "psi"):
        turned = names[name] - q[:, columns.index(name)]
        torch.testing.assert_close(turned.cos(), torch.ones_like(turned), rtol=0, atol=1e-10)
    # the bias is 60 kJ/mol high, and at 300 K phi stays within some 0.3 of its minimum at 1, less what Amber wants
    assert abs(names["pulled"][-20:].mean() - 1.0) < 0.3
    # kT; the two torsions carry some 2 kT of information, and the network cannot know more than there is
    assert 1.0 < names["loss"] < 2.7
    assert names["cells_visited"](names["flattened"]) > names["cells_visited"](names["plain"])


@pytest.mark.slow
@follow("machines.md")
def test_more_than_one_machine(tutorial: Tutorial) -> None:
    folder = tutorial.folder
    frames = read_frames(folder / "frames.h5")
    energies, by_cluster = torch.load(folder / "energies.pt"), torch.load(folder / "cluster.pt")
    # positions are stored in float32: 1e-8 nm times forces of up to 1e4 kJ/mol/nm on 66 coordinates
    torch.testing.assert_close(energies, torch.from_numpy(frames.energies), rtol=0, atol=0.05)
    torch.testing.assert_close(by_cluster, energies, rtol=0, atol=1e-6)
    for run in ("run-two", "run-1", "run-2", "run-kl"):
        assert (folder / run / "model.safetensors").is_file()
    assert "run-kl" in tutorial.printed


@pytest.mark.slow
@follow("../how-to/jumps.md")
def test_jumps_within_dynamics(tutorial: Tutorial) -> None:
    names = tutorial.names
    assert "jumps accepted" in tutorial.printed
    # the dynamics in ASE is that of the flow itself, to which every proposal is its own
    assert names["jumps"].accepted == names["jumps"].attempted == 3
    assert len(read_frames(tutorial.folder / "frames.h5")) == 400


@pytest.mark.slow
@follow("../how-to/collective-variables.md")
def test_collective_variables_for_plumed(tutorial: Tutorial) -> None:
    assert "('cos phi', 'sin phi', 'cos psi', 'sin psi', 'log_prob')" in tutorial.printed
    assert "SPECIES22=22" in tutorial.printed
    names = tutorial.names
    found = names["features"](names["positions"])
    assert found.shape == (10, 5)
    assert (tutorial.folder / "capped-alanine.pt").stat().st_size > 1e6


@pytest.mark.slow
@follow("../how-to/temperatures.md")
def test_models_of_a_range_of_temperatures(tutorial: Tutorial) -> None:
    names, folder = tutorial.names, tutorial.folder
    for file, temperature in (("frames-600K.h5", 600), ("samples-500K.h5", 500), ("md-500K.h5", 500)):
        assert read_frames(folder / file).temperature == temperature
    assert (names["hot"].temperature, names["model"].temperature) == (500.0, 300.0)
    assert 0 < float(names["disagreement"]) < 100
    # the partition function is a square of Bessel functions; 5000 weights have an error of 0.005
    expected = 2 * float(torch.special.i0(torch.tensor(1.4)).log())
    assert float(names["log_z"]) == pytest.approx(expected, abs=0.03)
    # the divergence, kT; from 0.9 untrained
    assert 0 < expected - float(names["log_weights"].mean()) < 0.15


@pytest.mark.slow
@follow("../how-to/thermo.md")
def test_state_functions_of_a_molecule(tutorial: Tutorial) -> None:
    assert "C_V, J/mol/K" in tutorial.printed
    found = tutorial.names["found"]
    # 22 atoms: three halves of k for each, and half of k for each of 60 vibrations
    assert found.harmonic.heat_capacity.value == pytest.approx(63 * 8.314462618)
    assert found.anharmonic.helmholtz_energy.error == 0


@pytest.mark.slow
@follow("../how-to/trust.md")
def test_how_far_to_trust_a_model(tutorial: Tutorial) -> None:
    assert "frames above the 99th percentile" in tutorial.printed
    assert "spread of the most disputed force" in tutorial.printed
    names = tutorial.names
    assert names["force_spread"].shape == (3, 22)
    assert 0 <= names["atoms"].calc.results["energy_percentile"] <= 100
    with (tutorial.folder / "committee.csv").open(newline="") as file:
        assert all(float(row["force_spread_kJ_per_mol_per_nm"]) > 0 for row in csv.DictReader(file))


@pytest.mark.slow
@follow("../how-to/part-of-a-system.md")
def test_a_model_of_part_of_a_system(tutorial: Tutorial) -> None:
    names, folder = tutorial.names, tutorial.folder
    for file, n_frames in (("frames.h5", 300), ("samples.h5", 200), ("md.h5", 11)):
        frames = read_frames(folder / file)
        assert (len(frames), len(frames.topology)) == (n_frames, 22), file
    assert read_frames(folder / "frames.h5").provenance["part of"]["atoms of the system"] > 600
    # 1.5 ps from the shipped structure, which is in the basin of the strand
    assert float((names["phi"]["frames.h5"] < 0).double().mean()) == 1
    # the solute straddles no boundary of the box after steps within it
    state = names["simulation"].context.getState(positions=True, enforcePeriodicBox=True)
    x = torch.tensor(state.getPositions(asNumpy=True)._value[names["solute"]])
    assert all(float((x[i] - x[j]).norm()) < 0.2 for i, j in names["model"].topology.bonds)
