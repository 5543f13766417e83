"""The commands: they do what the library does, and bad input gets one clear line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from smoothflow import load, registry
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames, write_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb

Smoothflow = Callable[..., Any]
Chain = Any


WEIGHTED = ["sample", "{model}", "--out", "{tmp}/x.h5", "--reference", "openmm:amber99sbildn.xml,amber99_obc.xml"]


def test_samples_carry_the_models_energies(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "samples.h5"
    found = smoothflow("sample", chain.model, "-n", 20, "--out", out, "--seed", 3, "--json")
    assert found.code == 0
    assert json.loads(found.out)["n_samples"] == 20
    samples = read_frames(out)
    model = load(chain.model)
    energies = model.energy(torch.from_numpy(samples.positions).double())
    # positions are stored in float32: 1e-8 nm times forces of up to 1e4 kJ/mol/nm on 66 coordinates
    np.testing.assert_allclose(samples.energies, energies.numpy(), atol=0.05)


def test_weights_of_samples_are_those_of_the_force_field(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "samples.h5"
    reference = "openmm:amber99sbildn.xml,amber99_obc.xml"
    assert smoothflow("sample", chain.model, "-n", 10, "--reference", reference, "--out", out).code == 0
    samples = read_frames(out)
    amber = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", molecule_path("capped-alanine"))
    u = amber.energy(torch.from_numpy(samples.positions).double()).numpy() / (8.31446261815324e-3 * 300)
    expected = -u + samples.energies / (8.31446261815324e-3 * 300)
    # clashing samples have steep energies, and positions are stored in float32
    np.testing.assert_allclose(samples.log_weights, expected, rtol=1e-3, atol=0.05)


@pytest.mark.parametrize("engine", ["native", "openmm", "ase"])
def test_dynamics_in_every_engine_gives_one_trajectory(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, engine: str
) -> None:
    ours, theirs = tmp_path / "ours.h5", tmp_path / "theirs.h5"
    options = ["--start", chain.frames, "--ensemble", "nve", "--steps", 10, "--timestep", 0.1, "--report-every", 5]
    assert smoothflow("md", chain.model, *options, "--engine", "native", "--out", ours).code == 0
    assert smoothflow("md", chain.model, *options, "--engine", engine, "--out", theirs).code == 0
    # one ulp of float32 at 1 nm
    np.testing.assert_allclose(read_frames(theirs).positions, read_frames(ours).positions, atol=1.3e-7)


def test_evaluation_prints_every_number_as_json(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    found = smoothflow("evaluate", chain.model, chain.frames, "-n", 50, "--report", report, "--json")
    assert found.code == 0
    numbers = json.loads(found.out)
    assert {"value", "error", "n"} <= set(numbers["forward_kl"])
    assert numbers["ess"]["n"] == 50
    distances = {item["name"]: item for item in numbers["distances"]}
    assert list(distances) == ["energy_w2", "total_variation phi and psi", "torsion_w2", "tica_w2"]
    assert all({"samples", "reweighted", "floor", "points"} <= set(item) for item in distances.values())
    # the fewer of frames and samples are cut into four parts
    assert distances["energy_w2"]["points"] == min(50, numbers["nll"]["n"]) // 4
    assert sum(basin["n_samples"] for basin in numbers["basins"] if basin["torsions"] == ["phi", "psi"]) in (0, 50)
    page = report.read_text()
    assert page.lstrip().startswith("<!")
    # the model was trained on them: nothing calls them held out
    assert numbers["frames_are"] == "training frames"
    assert "the model was trained on 100 % of these frames" in numbers["verdict"]["reasons"]
    assert "Verdict on the errors below: not reliable" in page
    assert "NLL of training frames" in page
    assert "held-out frames" not in page
    assert "sketch" not in page


def test_check_examines_a_model_and_a_force_field(smoothflow: Smoothflow, chain: Chain) -> None:
    found = smoothflow("check", chain.model, "--tests", "forces,net force", "--frames", chain.frames, "--json")
    report = json.loads(found.out)
    assert (found.code, report["passed"]) == (0, True)
    assert [row["test"] for row in report["findings"]] == ["forces", "net force", "net force"]
    amber = ["check", "openmm:amber99sbildn.xml,amber99_obc.xml", "--replicas", 2, "--tests"]
    assert "relative asymmetry" in smoothflow(*amber, "hessian").out
    # two replicas for 2 fs have no temperature that is known
    found = smoothflow(*amber, "thermostat", "--nvt-steps", 2)
    assert found.code == 2
    assert "FAILS" in found.out
    assert 'breaks the clause "temperature"' in found.err


def test_frames_convert_to_xyz_and_back(smoothflow: Smoothflow, chain: Chain, tmp_path: Path) -> None:
    xyz, back = tmp_path / "frames.xyz", tmp_path / "back.h5"
    assert smoothflow("convert", chain.frames, xyz).code == 0
    assert smoothflow("convert", xyz, back, "--structure", "capped-alanine").code == 0
    np.testing.assert_allclose(read_frames(back).positions, read_frames(chain.frames).positions, atol=1e-6)


def test_info_shows_charts_and_provenance(smoothflow: Smoothflow, chain: Chain) -> None:
    header = json.loads(smoothflow("info", chain.model, "--json").out)
    assert header["temperature"] == 300.0
    assert len(header["charts"]) == 60
    assert header["provenance"]["training"]["steps"] == 5
    described = json.loads(smoothflow("info", chain.frames, "--json").out)
    assert (described["frames"], described["atoms"]) == (500, 22)


def test_models_that_ship_are_listed_and_taken_by_name(smoothflow: Smoothflow, tmp_path: Path) -> None:
    listed = json.loads(smoothflow("info", "--json").out)
    assert listed["ala2-smooth"]["licence"] == "MIT"
    assert "ala2-smooth" in smoothflow("info").out
    described = smoothflow("info", "ala2-affine").out
    assert "evaluation:" not in described
    assert re.search(r"forward_kl .* ± ", described)
    out = tmp_path / "samples.h5"
    assert smoothflow("sample", "ala2-affine", "-n", 3, "--out", out).code == 0
    assert read_frames(out).provenance["model"] == "ala2-affine.safetensors"
    md = smoothflow("md", "ala2-affine", "--steps", 2, "--out", tmp_path / "md.h5")
    assert md.code == 0, md.err
    assert read_frames(tmp_path / "md.h5").provenance["model"] == "ala2-affine.safetensors"
    found = smoothflow("check", "ala2-affine", "--tests", "net force", "--replicas", 2, "--json")
    assert json.loads(found.out)["passed"]


@pytest.mark.filterwarnings("default::smoothflow.molecules.formats.ExchangeWarning")
def test_warnings_take_one_line(smoothflow: Smoothflow, tmp_path: Path) -> None:
    xyz = tmp_path / "water.xyz"
    xyz.write_text("3\ntemperature=300\nO 0.0 0.0 0.0\nH 0.96 0.0 0.0\nH -0.24 0.93 0.0\n")
    found = smoothflow("convert", xyz, tmp_path / "x.h5", "--temperature", 350)
    assert found.code == 0
    assert len(found.err.splitlines()) == 1
    assert found.err.startswith("warning: ")
    assert "says 300 K; 350 K is taken" in found.err


def test_plugins_lists_smoothness(smoothflow: Smoothflow) -> None:
    listing = json.loads(smoothflow("plugins", "--json").out)
    smooth = next(row for row in listing["plugins"] if row["name"] == "smooth")
    assert (smooth["smoothness"], smooth["manifolds"]) == ("C-infinity", "circle, interval")
    assert listing["broken"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "{tmp}/none.safetensors", "{frames}"], "There is no file"),
        (["evaluate", "ala2-smoth", "{frames}"], 'Did you mean "ala2-smooth"'),
        (["sample", "ala2-smoth", "--out", "{tmp}/x.h5"], 'Did you mean "ala2-smooth"'),
        (["md", "ala2-smoth"], 'Did you mean "ala2-smooth"'),
        (["compile", "ala2-smoth", "--out", "{tmp}/x.pt2"], 'Did you mean "ala2-smooth"'),
        (["check", "ala2-smoth"], 'Did you mean "ala2-smooth"'),
        (["info", "ala2-smoth"], 'Did you mean "ala2-smooth"'),
        (["bench", "--out", "{tmp}/x.json", "--model", "ala2-smoth"], 'Did you mean "ala2-smooth"'),
        (["demo", "--pretrained", "ala2-smoth", "--out", "{tmp}/demo"], 'Did you mean "ala2-smooth"'),
        (["demo", "ala2-smooth", "--out", "{tmp}/demo"], "smoothflow demo --pretrained ala2-smooth"),
        (["evaluate", "{frames}", "{frames}"], "not a smoothflow model"),
        (["evaluate", "{model}", "{model}"], "no HDF5 file|is no|not"),
        (["info", "{tmp}/none.h5"], "There is no file"),
        (["train", "{tmp}/none.h5", "--out", "{tmp}/run"], "There is no file"),
        (["train", "{frames}", "--out", "{tmp}/run", "--transform", "smoth"], 'Did you mean "smooth"'),
        (["train", "{frames}", "--out", "{tmp}/run", "--device", "cuda:77"], "cannot be used here.*--device cpu"),
        (["train", "{frames}", "--out", "{tmp}/run", "--compile", "--device", "cuda:77"], "cannot be used here"),
        (["sample", "{model}", "--out", "{tmp}/x.h5", "--device", "cuda:77"], "cannot be used here.*--device cpu"),
        (["evaluate", "{model}", "{frames}", "--device", "cuda:77"], "cannot be used here.*--device cpu"),
        (["md", "{model}", "--device", "cuda:77"], "cannot be used here.*--device cpu"),
        (["md", "{model}", "--compile", "--device", "cuda:77"], "cannot be used here.*--device cpu"),
        (["check", "{model}", "--device", "cuda:77"], "cannot be used here.*--device cpu"),
        (["compile", "{model}", "--out", "{tmp}/x.pt2", "--device", "cuda:77"], "cannot be used here.*--device cpu"),
        (["md", "{model}", "--device", "gpu"], "cannot be used here"),
        (["sample", "{model}", "--out", "{tmp}/x.h5", "--compile"], "nothing to compile: leave out --compile"),
        (["evaluate", "{model}", "{frames}", "--compile"], "nothing to compile: leave out --compile"),
        (["check", "smooth", "--compile"], "is checked against its contract: leave out --compile"),
        (["check", "openmm:amber99sbildn.xml,amber99_obc.xml", "--compile"], "is not a model that could be compiled"),
        (["train", "{frames}", "--out", "{tmp}/run", "--config", "{tmp}/none.yaml"], "There is no file"),
        (["md", "{model}", "--engine", "gromacs"], "Known: ase, ipi, lammps, native, openmm, torchsim"),
        (["md", "{model}", "--start", "{water}"], "22 atoms"),
        (["simulate", "no-such-molecule", "--out", "{tmp}/x.h5"], "Known: .*capped-alanine"),
        (["simulate", "{tmp}/none.pdb", "--out", "{tmp}/x.h5"], "There is no file"),
        (["simulate", "capped-alanine", "--out", "{tmp}/x.h5", "--reference", "openmm:nothing.xml"], "nothing.xml"),
        (["simulate", "capped-alanine", "--out", "{tmp}/x.h5", "--reference", "gromacs:x"], "No provider is called"),
        (["simulate", "capped-alanine", "--out", "{tmp}/x.h5", "--ladder", "warm"], "A ladder is written like"),
        (["simulate", "{nan}", "--out", "{tmp}/x.h5"], "finite|coordinate|number"),
        (["simulate", "{overlap}", "--out", "{tmp}/x.h5"], "overlap"),
        (["simulate", "{two}", "--out", "{tmp}/x.h5"], "more than one molecule"),
        (["simulate", "{ion}", "--out", "{tmp}/x.h5"], r"\(NA4-NA\) has no bond. If it is an ion"),
        (["simulate", "{twice}", "--out", "{tmp}/x.h5"], "an atom twice: 6 O ACE A 1"),
        (["simulate", "{hydrogen}", "--out", "{tmp}/x.h5"], r"\(ALA2-CA\) .* a hydrogen is missing"),
        (["simulate", "{residue}", "--out", "{tmp}/x.h5"], '"XYZ" is not a standard one'),
        (["simulate", "{nanometres}", "--out", "{tmp}/x.h5"], "in nm where Å are expected"),
        (["simulate", "water", "--calculator", "nothing", "--out", "{tmp}/x.h5"], 'no ASE calculator "nothing"'),
        (["train", "{water}", "--out", "{tmp}/run"], "hold no forces.*smoothflow convert"),
        (["train", "{angstrom}", "--out", "{tmp}/run"], "in Å where nm are expected"),
        (["train", "{newer}", "--out", "{tmp}/run"], "schema 99.*Update smoothflow"),
        (["convert", "{swapped}", "{tmp}/x.h5", "--structure", "capped-alanine"], "order differs .* atom 6 is N"),
        (["convert", "{frames}", "{tmp}/x.h5", "--reference", "ase:emt", "--structure", "water"], "3 atoms"),
        (["sample", "{model}", "--out", "{frames}"], "is of another run"),
        (["sample", "{model}", "--out", "{tmp}/x.h5", "--basin", "alpha"], "Name it with --reference"),
        (["sample", "{model}", "--out", "{tmp}/x.h5", "--seed", "-1"], "greater than or equal to 0"),
        ([*WEIGHTED, "--basin", "alfa"], 'No basin is called "alfa". Known: alpha, beta, ppii'),
        ([*WEIGHTED, "--basin", "a:phi=0-60"], "is not a basin. Write NAME:TORSION=FROM..TO"),
        ([*WEIGHTED, "--basin", "a:phi=60..60"], "is not a range"),
        ([*WEIGHTED, "--basin", "a:chi9=0..60"], 'No torsion is called "chi9"'),
        ([*WEIGHTED, "--basin", "a:phi=0..60", "--basin", "a:psi=0..60"], 'Two basins are called "a"'),
        ([*WEIGHTED, "--frames", "{water}"], "22 atoms"),
        ([*WEIGHTED, "--structure", "water"], "does not fit .*water.pdb"),
        ([*WEIGHTED, "--metropolis", "{frames}"], "exists already"),
        (["compare", "--transforms", "smooth"], "Give either a frames file or --target"),
        (["check", "smoth"], 'Did you mean "smooth"'),
        (["bench", "--suite", "force", "--out", "{tmp}/x.json"], 'Did you mean "forces"'),
        (["bench", "--out", "{frames}"], "exists already"),
        (["bench", "--out", "{tmp}/x.json", "--compare", "{model}"], "not a file of smoothflow bench"),
        (["bench", "--out", "{tmp}/x.json", "--model", "{tmp}/none.safetensors"], "There is no file"),
        (["check", "{tmp}/none.safetensors"], "There is no file"),
        (["check", "{model}", "--tests", "color"], 'No physics test is called "color"'),
        (["check", "{model}", "--frames", "{water}"], "22 atoms"),
    ],
)
def test_bad_input_gets_one_clear_line(
    smoothflow: Smoothflow, chain: Chain, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"tmp": tmp_path, "frames": chain.frames, "model": chain.model, **bad_structures(tmp_path / "structures")}
    before = sorted(path.name for path in tmp_path.iterdir())
    found = smoothflow(*(argument.format(**names) for argument in arguments))
    assert found.code == 2
    assert re.search(message, found.err), found.err
    assert "Traceback" not in found.err
    assert len(found.err.strip().splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def bad_structures(folder: Path) -> dict[str, Path]:
    """PDB files that cannot be simulated, and frames of another molecule."""
    folder.mkdir()
    lines = molecule_path("capped-alanine").read_text().splitlines()
    atoms = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    kinds = ("nan", "overlap", "two", "ion", "twice", "hydrogen", "residue", "nanometres")
    files = {name: folder / f"{name}.pdb" for name in kinds}

    def changed(row: int, coordinates: str) -> str:
        copy = list(lines)
        copy[row] = copy[row][:30] + coordinates + copy[row][54:]
        return "\n".join(copy) + "\n"

    files["nan"].write_text(changed(atoms[3], f"{'nan':>8}{'nan':>8}{'nan':>8}"))
    files["overlap"].write_text(changed(atoms[3], lines[atoms[5]][30:54]))
    water = [line for line in molecule_path("water").read_text().splitlines() if line.startswith(("ATOM", "HETATM"))]
    moved = [line[:30] + f"{float(line[30:38]) + 15:8.3f}" + line[38:] for line in water]
    body = [line for line in lines if not line.startswith(("END", "CONECT", "MASTER"))]
    files["two"].write_text("\n".join([*body, *moved, "END"]) + "\n")
    ion = "HETATM   23 NA    NA A   4      15.000  15.000  15.000  1.00  0.00          NA"
    files["ion"].write_text("\n".join([*body, ion, "END"]) + "\n")
    files["twice"].write_text("\n".join([*lines[: atoms[5]], lines[atoms[5]], *lines[atoms[5] :]]) + "\n")
    files["hydrogen"].write_text("\n".join([line for line in body if line[12:16] != " HA "]) + "\n")
    files["residue"].write_text("\n".join(body).replace("ALA", "XYZ") + "\n")
    small = [
        line[:30] + "".join(f"{float(line[k : k + 8]) / 10:8.3f}" for k in (30, 38, 46)) + line[54:]
        if line.startswith(("ATOM", "HETATM"))
        else line
        for line in body
    ]
    files["nanometres"].write_text("\n".join(small) + "\n")
    return {**files, **_bad_frames(folder)}


def _bad_frames(folder: Path) -> dict[str, Path]:
    """Files of frames that cannot be used as they are."""
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    x = positions.numpy().astype(np.float32).repeat(50, axis=0)
    write_frames(folder / "angstrom.h5", Frames(topology, 300.0, 10 * x, np.zeros_like(x)))
    write_frames(folder / "newer.h5", Frames(topology, 300.0, x))
    with h5py.File(folder / "newer.h5", "r+") as file:
        file.attrs["schema"] = 99
    order = [0, 1, 2, 3, 4, 5, 7, 6, *range(8, 22)]
    atoms = [f"{topology.elements[i]} {' '.join(map(str, 10 * x[0, i]))}" for i in order]
    (folder / "swapped.xyz").write_text("\n".join(["22", "temperature=300.0", *atoms]) + "\n")
    return {
        "water": _water_frames(folder),
        "angstrom": folder / "angstrom.h5",
        "newer": folder / "newer.h5",
        "swapped": folder / "swapped.xyz",
    }


def _water_frames(folder: Path) -> Path:
    topology, positions = topology_from_pdb(molecule_path("water"))
    path = folder / "water.h5"
    write_frames(path, Frames(topology, 300.0, positions.numpy().astype(np.float32)))
    return path


def test_debug_shows_where_an_error_came_from(smoothflow: Any, tmp_path: Path) -> None:
    done = smoothflow("--debug", "info", tmp_path / "none.h5")
    assert done.code == 1
    assert "Traceback" in done.err
    assert "FileFormatError: There is no file" in done.err
