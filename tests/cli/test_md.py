"""``smoothflow md``: files, going on where it was, and input that cannot work."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
import torch
from smoothflow.molecules.frames_file import read_frames, write_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.model_file import read_model

Smoothflow = Callable[..., Any]
Chain = Any
PDB = molecule_path("capped-alanine")


@pytest.mark.slow
def test_a_stopped_run_goes_on_as_if_it_had_not_been(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    files = ["--out", tmp_path / "run.h5", "--log", tmp_path / "run.csv", "--trajectory", tmp_path / "run.xtc"]
    options = ["--start", chain.frames, "--replicas", 2, "--dtype", "float32", "--energy-bound", 1000]
    command = [sys.executable, "-m", "smoothflow", "md", chain.model, *options, *files, "--steps", 1_000_000]
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as process:
        while not (tmp_path / "run.csv").exists() or len((tmp_path / "run.csv").read_text().splitlines()) < 10:
            assert process.poll() is None, process.stderr
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    # nothing else: no live line in a pipe
    stopped = re.fullmatch(
        r"Stopped by SIGTERM after step (\d+) of 1000000\. The same command goes on from there\.\n", err
    )
    assert stopped is not None, err
    n_steps = int(stopped[1]) + 25
    with_files = smoothflow("md", chain.model, *options, *files, "--steps", n_steps, "--json")
    assert with_files.code == 0, with_files.err
    assert f"was there up to step {stopped[1]}." in with_files.err
    whole = [tmp_path / "whole.h5", tmp_path / "whole.csv"]
    uninterrupted = ["--out", whole[0], "--log", whole[1], "--steps", n_steps, "--json"]
    assert json.loads(smoothflow("md", chain.model, *options, *uninterrupted).out) == json.loads(with_files.out)
    assert read_frames(tmp_path / "run.h5").digest() == read_frames(whole[0]).digest()
    assert (tmp_path / "run.csv").read_text() == whole[1].read_text()
    again = smoothflow("md", chain.model, *options, *files, "--steps", n_steps, "--json")
    assert (again.code, again.out) == (0, with_files.out)
    assert f"was there up to step {n_steps}." in again.err
    other = smoothflow("md", chain.model, *options, *files, "--steps", n_steps, "--timestep", 0.5)
    assert other.code == 2
    assert "another run: timestep is 0.001 there and 0.0005 here" in other.err


@pytest.mark.parametrize("engine", ["native", "openmm", "ase"])
def test_files_of_every_engine_are_complete(smoothflow: Smoothflow, chain: Chain, tmp_path: Path, engine: str) -> None:
    files = ["--out", tmp_path / "run.h5", "--log", tmp_path / "run.csv", "--trajectory", tmp_path / "run.dcd"]
    options = ["--start", PDB, "--steps", 5, "--timestep", 0.1, "--report-every", 2, "--engine", engine]
    found = smoothflow("md", chain.model, *options, *files)
    assert found.code == 0, found.err
    frames = read_frames(tmp_path / "run.h5")
    np.testing.assert_allclose(frames.times, [0, 2e-4, 4e-4, 5e-4], atol=1e-15)
    np.testing.assert_array_equal(frames.replica, 0)
    np.testing.assert_allclose(frames.positions[0], topology_from_pdb(PDB)[1][0], atol=1e-7)
    assert frames.provenance["engine"] == engine
    energy, forces = read_model(chain.model).energy_and_forces(torch.from_numpy(frames.positions).double())
    assert frames.forces is not None
    # positions are rounded to float32: 3e-8 nm times the curvature of bonds of a hardly trained flow
    np.testing.assert_allclose(frames.energies, energy.numpy(), atol=0.05)
    np.testing.assert_allclose(frames.forces, forces.numpy(), rtol=1e-3, atol=5)
    with (tmp_path / "run.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == [0, 2, 4, 5]
    dcd = mdtraj.load_dcd(str(tmp_path / "run.dcd"), top=str(PDB))
    np.testing.assert_allclose(dcd.xyz, frames.positions, atol=1e-6)


def test_the_engine_by_its_old_name_runs_with_a_line_that_names_the_new_one(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path
) -> None:
    options = ["--start", PDB, "--steps", 2, "--timestep", 0.1, "--engine", "verlet", "--out", tmp_path / "run.h5"]
    found = smoothflow("md", chain.model, *options)
    assert found.code == 0, found.err
    assert 'The engine "verlet" is called "native" now' in " ".join(found.err.split())
    assert read_frames(tmp_path / "run.h5").provenance["engine"] == "native"


def test_an_integrator_by_name_is_that_of_the_ensemble(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    options = ["--start", PDB, "--steps", 4, "--timestep", 0.1]
    for name, more in (("a", []), ("b", ["--integrator", "langevin", "--threads", 2])):
        assert smoothflow("md", chain.model, *options, *more, "--out", tmp_path / f"{name}.h5").code == 0
        assert torch.get_num_threads() == (2 if more else 1)
    torch.set_num_threads(1)
    assert read_frames(tmp_path / "a.h5").digest() == read_frames(tmp_path / "b.h5").digest()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--start", "{order}"], r"atom 0 is \w in the first"),
        (["--start", "{names}"], r"Atom order differs .*ACE1-H1 .*ACE1-H2"),
        (["--start", "{nm}"], r"overlap|bond|covalent"),
        (["--start", "{angstrom}"], r"seem to be in Å where nm are expected"),
        (["--start", "{tmp}/none.pdb"], "There is no file"),
        (["--start", "{frames}", "--replicas", "501"], "500 configurations, too few to start 501 replicas"),
        (["--start", "{frames}", "--timestep", "20"], r"At .* ps the potential .*replica 0"),
        (["--start", "{frames}", "--ensemble", "nve", "--energy-bound", "1e-9"], "total energy .* more than 1e-09 kT"),
        (["--timestep", "0"], "timestep is 0.0 ps"),
        (["--energy-bound", "-1"], "must be positive"),
        (["--engine", "nativ"], 'Did you mean "native"'),
        (["--integrator", "langevim"], 'Did you mean "langevin"'),
        (["--integrator", "velocity_verlet"], "has no thermostat: it samples nve, not nvt"),
        (["--integrator", "langevin", "--engine", "ase"], "has its own integrators"),
        (["--out", "{frames}"], "exists already"),
        (["--out", "{frames}", "--engine", "ase"], "exists already"),
        (["--out", "{tmp}/none/run.h5"], "cannot be written"),
        (["--trajectory", "{tmp}/run.trr"], r"Known: \.xtc, \.dcd"),
    ],
)
def test_bad_input_gets_one_clear_line(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"tmp": tmp_path, "frames": chain.frames, **bad_starts(chain, tmp_path / "starts")}
    before = sorted(path.name for path in tmp_path.iterdir())
    found = smoothflow("md", chain.model, *(argument.format(**names) for argument in arguments))
    assert found.code == 2
    assert re.search(message, found.err), found.err
    assert len(found.err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def bad_starts(chain: Chain, folder: Path) -> dict[str, Path]:
    """Starts that are not the model's molecule in nm."""
    folder.mkdir()
    files = {name: folder / f"{name}.pdb" for name in ("order", "names", "nm")}
    lines = PDB.read_text().splitlines()
    atoms = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]

    def swapped(first: int, second: int) -> str:
        copy = list(lines)
        copy[atoms[first]], copy[atoms[second]] = copy[atoms[second]], copy[atoms[first]]
        return "\n".join(copy) + "\n"

    by_name = {lines[i][12:16].strip(): k for k, i in reversed(list(enumerate(atoms)))}
    files["order"].write_text(swapped(0, 1))
    files["names"].write_text(swapped(by_name["H1"], by_name["H2"]))
    in_nm = [
        line[:30] + "".join(f"{float(line[k : k + 8]) / 10:8.3f}" for k in (30, 38, 46)) + line[54:]
        if line.startswith(("ATOM", "HETATM"))
        else line
        for line in lines
    ]
    files["nm"].write_text("\n".join(in_nm) + "\n")
    frames = read_frames(chain.frames)[:2]
    write_frames(folder / "angstrom.h5", replace(frames, positions=10 * frames.positions))
    return {**files, "angstrom": folder / "angstrom.h5"}


def test_a_committee_runs_and_tells_its_spread_and_percentiles(smoothflow: Smoothflow, tmp_path: Path) -> None:
    options = ["--steps", 4, "--timestep", 0.1, "--report-every", 2, "--log", tmp_path / "run.csv", "--json"]
    found = smoothflow("md", "ala2-affine", "ala2-spline", *options, "--percentiles")
    assert found.code == 0, found.err
    content = json.loads(found.out)
    assert re.fullmatch(r"[\d.]+ on average, up to [\d.]+ kJ/mol/nm", content["spread of the most disputed force"])
    assert content["frames above the 99th percentile"].endswith("(1 % is due)")
    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert all(0 <= float(row["percentile"]) <= 100 for row in rows)
    assert all(float(row["force_spread_kJ_per_mol_per_nm"]) > 0 for row in rows)
    # another committee is another run
    other = smoothflow("md", "ala2-affine", "ala2-smooth", *options, "--percentiles")
    assert other.code == 2
    assert "another run: committee" in other.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ala2-affine", "ala2-affine"], "One model is given twice"),
        (["ala2-affine", "ala2-spline", "--compiled", "x.pt2"], "A package holds one model"),
        (["ala2-affine", "--stop-above", "100"], "between 0 and 100"),
        (["ala2-affine", "--stop-above", "1e-3"], "left what the model knows"),
    ],
)
def test_committees_and_bounds_that_cannot_be_are_one_line(
    smoothflow: Smoothflow, arguments: list[str], message: str
) -> None:
    found = smoothflow("md", *arguments, "--steps", 2)
    assert found.code == 2
    assert message in " ".join(found.err.split())
    assert "Traceback" not in found.err
