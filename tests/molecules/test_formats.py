"""Frames from and to other programs' formats, against those programs."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import h5py
import mdtraj
import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from openmm import app
from smoothflow.core.errors import ConfigurationError, FileFormatError, GeometryError, TopologyError
from smoothflow.core.plugins import registry
from smoothflow.molecules.elements import atomic_numbers
from smoothflow.molecules.foreign_hdf5 import is_frames_file
from smoothflow.molecules.formats import ExchangeWarning, export_frames, import_frames, recompute
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.reference import with_electrons

KCAL = units.kcal / units.mol  # ASE's own constants are the witness
KJ = units.kJ / units.mol
ALANINE = molecule_path("capped-alanine")


def alanine(n_frames: int = 5, forces: bool = True) -> Frames:
    topology, positions = topology_from_pdb(ALANINE)
    rng = np.random.default_rng(3)
    return Frames(
        topology,
        300.0,
        positions=positions.numpy() + 0.001 * rng.normal(size=(n_frames, len(topology), 3)),
        forces=100 * rng.normal(size=(n_frames, len(topology), 3)) if forces else None,
        energies=rng.normal(size=n_frames) if forces else None,
    )


def assert_close(first: Frames, second: Frames) -> None:
    assert first.topology.elements == second.topology.elements
    assert first.topology.bonds == second.topology.bonds
    assert first.temperature == second.temperature
    np.testing.assert_allclose(first.positions, second.positions, rtol=0, atol=1e-7)  # float32, and 8 digits in text
    assert first.forces is not None
    assert second.forces is not None
    np.testing.assert_allclose(first.forces, second.forces, rtol=1e-6, atol=1e-5)  # float32, and 8 digits in text
    assert first.energies is not None
    assert second.energies is not None
    np.testing.assert_allclose(first.energies, second.energies, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("name", ["frames.xyz", "frames.npz"])
def test_export_and_import_agree(tmp_path: Path, name: str) -> None:
    frames = alanine()
    export_frames(frames, tmp_path / name)
    assert_close(import_frames(tmp_path / name, structure=ALANINE), frames)
    assert_close(import_frames(tmp_path / name), frames)  # with guessed bonds
    with pytest.warns(ExchangeWarning, match="says 300 K; 350 K is taken"):
        assert import_frames(tmp_path / name, temperature=350.0).temperature == 350.0


def test_extended_xyz_is_in_ase_units(tmp_path: Path) -> None:
    frames = alanine()
    export_frames(frames, tmp_path / "f.xyz")
    atoms = ase.io.read(tmp_path / "f.xyz", index=2)
    assert frames.energies is not None
    assert frames.forces is not None
    np.testing.assert_allclose(atoms.positions * units.Angstrom, 10 * frames.positions[2], atol=1e-6)
    # ASE's own constants are of CODATA 2014
    np.testing.assert_allclose(atoms.get_potential_energy(), frames.energies[2] * KJ, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(atoms.get_forces(), frames.forces[2] * KJ / 10, rtol=1e-6, atol=1e-7)


def test_frames_written_by_ase_are_read(tmp_path: Path) -> None:
    source = alanine(1)
    atoms = ase.Atoms(source.topology.elements, 10.0 * source.positions[0])
    atoms.calc = SinglePointCalculator(atoms, energy=-1.5, forces=np.full((22, 3), 0.25))
    ase.io.write(tmp_path / "f.extxyz", atoms)
    frames = import_frames(tmp_path / "f.extxyz", temperature=300.0)
    assert frames.energies is not None
    np.testing.assert_allclose(frames.energies, -1.5 / KJ, rtol=1e-7)
    np.testing.assert_allclose(frames.forces, 0.25 / KJ * 10, rtol=1e-7)


@pytest.mark.parametrize(
    ("r_unit", "e_unit", "length", "energy"), [("Ang", "kcal/mol", 0.1, KCAL / KJ), ("nm", "kJ/mol", 1.0, 1.0)]
)
def test_npz_units_are_obeyed(tmp_path: Path, r_unit: str, e_unit: str, length: float, energy: float) -> None:
    source = alanine(2)
    z = ase.Atoms(source.topology.elements).numbers
    arrays = {"z": z, "R": source.positions / length, "E": np.array([[1.0], [2.0]]), "F": np.ones((2, 22, 3))}
    np.savez(tmp_path / "f.npz", **arrays, r_unit=r_unit.encode(), e_unit=e_unit)
    frames = import_frames(tmp_path / "f.npz", temperature=500)
    np.testing.assert_allclose(frames.positions, source.positions, rtol=1e-6)
    np.testing.assert_allclose(frames.energies, np.array([1.0, 2.0]) * energy, rtol=1e-9)
    np.testing.assert_allclose(frames.forces, energy / length, rtol=1e-6)


def test_npz_written_for_sgdml_has_its_keys(tmp_path: Path) -> None:
    frames = alanine()
    export_frames(frames, tmp_path / "f.npz")
    with np.load(tmp_path / "f.npz") as file:
        assert str(file["r_unit"]) == "Ang"
        assert str(file["e_unit"]) == "kcal/mol"
        np.testing.assert_allclose(file["E"] * KCAL / KJ, frames.energies, rtol=1e-9)
        assert list(file["z"][:3]) == list(ase.Atoms(frames.topology.elements).numbers[:3])


@pytest.mark.parametrize("suffix", [".xtc", ".dcd", ".pdb"])
def test_trajectories_are_exchanged_with_mdtraj(tmp_path: Path, suffix: str) -> None:
    frames = alanine(4, forces=False)
    path = tmp_path / f"f{suffix}"
    export_frames(frames, path)
    trajectory = mdtraj.load(str(path), top=str(ALANINE))
    np.testing.assert_allclose(trajectory.xyz, frames.positions, rtol=0, atol=6e-4)  # XTC and PDB round to 0.001 nm/Å
    back = import_frames(path, temperature=300.0, structure=ALANINE)
    np.testing.assert_array_equal(back.positions, trajectory.xyz)
    assert back.topology == frames.topology
    assert back.forces is None


def test_recomputed_energies_are_the_potentials(tmp_path: Path) -> None:
    export_frames(alanine(3, forces=False), tmp_path / "f.dcd")
    frames = import_frames(tmp_path / "f.dcd", temperature=300.0, structure=ALANINE)
    potential = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", ALANINE)
    done: list[int] = []
    frames = recompute(frames, potential, "Amber", lambda progress: done.append(progress.done))
    energy, forces = potential.energy_and_forces(torch.from_numpy(frames.positions).double())
    np.testing.assert_array_equal(frames.energies, energy)
    np.testing.assert_array_equal(frames.forces, forces.float())
    assert done == [3]
    assert frames.provenance["energies and forces"] == "recomputed with Amber"


def test_guessed_bonds_are_recorded_in_the_provenance(tmp_path: Path) -> None:
    export_frames(alanine(1), tmp_path / "f.xyz")
    assert "guessed" in import_frames(tmp_path / "f.xyz").provenance["bonds"]
    assert "guessed" not in import_frames(tmp_path / "f.xyz", structure=ALANINE).provenance["bonds"]


def test_readers_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_frames(alanine(1, forces=False), tmp_path / "f.dcd")
    import_frames(tmp_path / "f.dcd", temperature=300.0, structure=ALANINE)
    assert capfd.readouterr().out == ""


def test_another_molecule_is_refused(tmp_path: Path) -> None:
    water = ase.Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    ase.io.write(tmp_path / "water.xyz", water, format="extxyz")
    with pytest.raises(TopologyError, match="22 atoms"):
        import_frames(tmp_path / "water.xyz", 300.0, structure=ALANINE)
    ase.io.write(tmp_path / "two.xyz", [water, ase.Atoms("H2O", water.positions)], format="extxyz")
    with pytest.raises(TopologyError, match="Frame 1"):
        import_frames(tmp_path / "two.xyz", 300.0)
    water.set_cell([10, 10, 10])
    water.pbc = True
    ase.io.write(tmp_path / "box.xyz", water, format="extxyz")
    with pytest.raises(TopologyError, match="periodic"):
        import_frames(tmp_path / "box.xyz", 300.0)


def test_positions_in_another_unit_are_noticed(tmp_path: Path) -> None:
    source = alanine(2)
    z = ase.Atoms(source.topology.elements).numbers
    np.savez(tmp_path / "f.npz", z=z, R=10 * source.positions, r_unit="nm")
    with pytest.raises(GeometryError, match="Å"):
        import_frames(tmp_path / "f.npz", 300.0, structure=ALANINE)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no file"):
        import_frames(tmp_path / "none.xyz", 300.0)
    for suffix in (".xyz", ".npz", ".xtc", ".dcd", ".pdb"):
        (tmp_path / f"bad{suffix}").write_text("this is\nnothing\n")
        with pytest.raises((FileFormatError, TopologyError)):
            import_frames(tmp_path / f"bad{suffix}", 300.0, structure=ALANINE)
    (tmp_path / "f.cif").write_text("")
    with pytest.raises(FileFormatError, match="mmCIF"):
        import_frames(tmp_path / "f.cif", 300.0)
    (tmp_path / "f.tng").write_text("")
    with pytest.raises(ConfigurationError, match="Known"):
        import_frames(tmp_path / "f.tng", 300.0)
    with pytest.raises(ConfigurationError, match="Known"):
        export_frames(alanine(1), tmp_path / "f.cif")
    export_frames(alanine(1, forces=False), tmp_path / "f.dcd")
    with pytest.raises(ConfigurationError, match="PDB file"):
        import_frames(tmp_path / "f.dcd", 300.0)
    with pytest.raises(ConfigurationError, match="temperature"):
        import_frames(tmp_path / "f.dcd", structure=ALANINE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r_unit": ""}, "unit"),
        ({"e_unit": "furlong"}, "furlong"),
        ({"z": np.zeros(22, int)}, "atomic number"),
        ({"R": np.zeros((2, 21, 3))}, "shape"),
        ({"E": np.zeros(7)}, "Energies"),
        ({"F": np.full((2, 22, 3), np.inf)}, "not finite"),
        ({"R": np.array([None], dtype=object)}, "npz"),
    ],
)
def test_bad_npz_files_are_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    source = alanine(2)
    good = {
        "z": ase.Atoms(source.topology.elements).numbers,
        "R": source.positions,
        "E": np.zeros(2),
        "F": np.zeros((2, 22, 3)),
        "r_unit": "nm",
        "e_unit": "eV",
    }
    np.savez(tmp_path / "f.npz", **{**good, **change})  # type: ignore[arg-type]
    with pytest.raises((FileFormatError, GeometryError), match=message):
        import_frames(tmp_path / "f.npz", 300.0)


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        export_frames(alanine(1), tmp_path / "no folder" / "f.npz")
    assert list(tmp_path.iterdir()) == []


def xyz(comment: str, rows: list[str] | None = None, n_frames: int = 3) -> str:
    """Frames of water with a comment each; ``{i}`` in it is the number of the frame."""
    cells = [row.split() for row in rows or ["O 0.0 0.0 0.0", "H 0.96 0.0 0.0", "H -0.24 0.93 0.0"]]
    text = ""
    for i in range(n_frames):
        text += f"{len(cells)}\n{comment.replace('{i}', str(i))}\n"
        for k, (symbol, x, *others) in enumerate(cells):
            text += f"{symbol} {float(x) + 0.001 * i * k:.6f} {' '.join(others)}\n"
    return text


@pytest.mark.parametrize(
    "comment",
    [
        " Atoms. Timestep: 120",
        "MD iter: 120",
        "# CELL(abcABC): 99.9 99.9 99.9 90.0 90.0 90.0  Step: {i}  Bead: 0 positions{angstrom}  cell{atomic_unit}",
        "t: 99999999999",
    ],
)
def test_comments_of_other_programs_do_not_count_as_columns(tmp_path: Path, comment: str) -> None:
    path = tmp_path / "f.xyz"
    path.write_text(xyz(comment))
    assert len(import_frames(path, 300.0)) == 3


@pytest.mark.parametrize("comment", ['source="http://localhost:8080/run"', 'smiles="[H:101][O:102]"'])
def test_what_is_left_out_is_reported(tmp_path: Path, comment: str) -> None:
    path = tmp_path / "f.xyz"
    path.write_text(xyz(f"Properties=species:S:1:pos:R:3 {comment}"))
    with pytest.warns(ExchangeWarning, match=rf"Not read from .*: {comment.partition('=')[0]}\."):
        assert len(import_frames(path, 300.0)) == 3


def test_ipi_units_are_obeyed(tmp_path: Path) -> None:
    comment = "# CELL(abcABC): 9 9 9 90 90 90 Step: {i} Bead: 0 positions{atomic_unit}  cell{atomic_unit}"
    rows = ["O 0.0 0.0 0.0", f"H {0.96 / units.Bohr} 0.0 0.0", f"H {-0.24 / units.Bohr} {0.93 / units.Bohr} 0.0"]
    path = tmp_path / "f.xyz"
    path.write_text(xyz(comment, rows))
    # ASE's Bohr is the witness; six digits are written
    np.testing.assert_allclose(import_frames(path, 300.0).positions[0, 1], [0.096, 0, 0], atol=1e-6)
    path.write_text(xyz(comment.replace("positions", "forces"), rows))
    with pytest.raises(FileFormatError, match=r"holds forces\{atomic_unit\}; positions"):
        import_frames(path, 300.0)


FORCED = [f"{row} 0.1 0.2 0.3" for row in ("O 0.0 0.0 0.0", "H 0.96 0.0 0.0", "H -0.24 0.93 0.0")]


@pytest.mark.parametrize(
    ("energy", "forces"), [("REF_energy", "REF_forces"), ("dft_energy", "force"), ("TotEnergy", "F")]
)
def test_labels_under_other_names_are_asked_for(tmp_path: Path, energy: str, forces: str) -> None:
    path = tmp_path / "f.xyz"
    path.write_text(xyz(f"Properties=species:S:1:pos:R:3:{forces}:R:3 {energy}=-1.5", FORCED))
    with pytest.raises(ConfigurationError, match=rf"--energy-key {energy}.*--forces-key {forces}"):
        import_frames(path, 300.0)
    frames = import_frames(path, 300.0, energy_key=energy, forces_key=forces)
    np.testing.assert_allclose(frames.energies, -1.5 / KJ, rtol=1e-6)
    np.testing.assert_allclose(frames.forces[0, 0], np.array([0.1, 0.2, 0.3]) / KJ * 10, rtol=1e-6)
    with pytest.warns(ExchangeWarning, match=energy):
        bare = import_frames(path, 300.0, energy_key="none", forces_key="none")
    assert bare.energies is None
    assert bare.forces is None


def test_npz_labels_under_other_names_are_asked_for(tmp_path: Path) -> None:
    source = alanine(2)
    z = ase.Atoms(source.topology.elements).numbers
    arrays = {"z": z, "R": source.positions, "r_unit": "nm", "e_unit": "kJ/mol"}
    np.savez(tmp_path / "f.npz", **arrays, energies=np.ones(2), forces=np.ones((2, 22, 3)))
    with pytest.raises(ConfigurationError, match=r"--energy-key energies.*--forces-key forces"):
        import_frames(tmp_path / "f.npz", 300.0)
    frames = import_frames(tmp_path / "f.npz", 300.0, energy_key="energies", forces_key="forces")
    np.testing.assert_array_equal(frames.energies, 1.0)
    np.testing.assert_array_equal(frames.forces, 1.0)


def test_some_frames_without_forces_are_named(tmp_path: Path) -> None:
    path = tmp_path / "f.xyz"
    labelled = xyz("Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5", FORCED)
    path.write_text(labelled + xyz("Properties=species:S:1:pos:R:3 energy=-1.5", n_frames=2))
    with pytest.raises(FileFormatError, match=r"2 of 5 frames of .* have no forces: frames 3, 4"):
        import_frames(path, 300.0)


@pytest.mark.parametrize("said", ["300", "300.0", "3e2", '"300 K"', "300K"])
def test_temperatures_are_read_however_they_are_written(tmp_path: Path, said: str) -> None:
    path = tmp_path / "f.xyz"
    path.write_text(xyz(f"Properties=species:S:1:pos:R:3 temperature={said}"))
    assert import_frames(path).temperature == 300.0


@pytest.mark.parametrize(
    ("comments", "message"),
    [
        (["temperature=300", "temperature=600"], "several temperatures: 300, 600 K.*--temperature"),
        (["temperature=300", "other=1"], "Only 3 of 6 frames.*--temperature"),
        (["temperature=T"], "temperature is True, not a number.*--temperature"),
        (["temperature=-5"], "not a number"),
        (["step=1"], "does not say at which temperature.*--temperature"),
    ],
)
def test_temperatures_that_are_not_one_are_refused(tmp_path: Path, comments: list[str], message: str) -> None:
    path = tmp_path / "f.xyz"
    path.write_text("".join(xyz(f"Properties=species:S:1:pos:R:3 {comment}") for comment in comments))
    with (
        pytest.warns(ExchangeWarning) if "=1" in comments[-1] else nullcontext(),
        pytest.raises(ConfigurationError, match=message),
    ):
        import_frames(path)


@pytest.mark.parametrize(("value", "fits"), [([300.0], True), (np.full(2, 300), True), ([300.0, 350.0], False)])
def test_temperatures_in_npz_files(tmp_path: Path, value: object, fits: bool) -> None:
    source = alanine(2)
    z = ase.Atoms(source.topology.elements).numbers
    np.savez(tmp_path / "f.npz", z=z, R=source.positions, r_unit="nm", temperature=value)
    if fits:
        assert import_frames(tmp_path / "f.npz").temperature == 300.0
    else:
        with pytest.raises(ConfigurationError, match="several temperatures: 300, 350 K"):
            import_frames(tmp_path / "f.npz")


@pytest.mark.parametrize("name", ["f.xyz", "f.npz"])
def test_weights_replicas_and_times_come_back(tmp_path: Path, name: str) -> None:
    columns = {
        "log_weights": np.array([-1234.5678901, -np.inf, 0.25, 1e-9]),
        "replica": np.array([0, 0, 1, 1]),
        "times": np.array([0.0, 0.2, 0.0, 0.2]),
    }
    frames = replace(alanine(4), **columns)
    export_frames(frames, tmp_path / name)
    back = import_frames(tmp_path / name, structure=ALANINE)
    for column, values in columns.items():
        np.testing.assert_allclose(getattr(back, column), values, rtol=1e-9)


@pytest.mark.parametrize("suffix", [".xtc", ".dcd", ".pdb"])
def test_columns_that_trajectories_cannot_hold_are_warned_of(tmp_path: Path, suffix: str) -> None:
    frames = replace(alanine(2, forces=False), log_weights=np.zeros(2), replica=np.zeros(2, int))
    with pytest.warns(ExchangeWarning, match=r"cannot hold log-weights, replica: .* of another distribution"):
        export_frames(frames, tmp_path / f"f{suffix}")


@pytest.mark.parametrize("encode", [lambda t: b"\xef\xbb\xbf" + t.encode(), lambda t: t.replace("\n", "\r\n").encode()])
def test_marks_and_line_ends_of_xyz_files_change_nothing(tmp_path: Path, encode: Callable[[str], bytes]) -> None:
    text = xyz("Properties=species:S:1:pos:R:3 temperature=300")
    (tmp_path / "a.xyz").write_text(text)
    (tmp_path / "b.xyz").write_bytes(encode(text))
    first, second = (import_frames(tmp_path / name) for name in ("a.xyz", "b.xyz"))
    np.testing.assert_array_equal(first.positions, second.positions)


def test_hdf5_of_mdtraj_is_read(tmp_path: Path) -> None:
    frames = alanine(3, forces=False)
    topology = {
        "chains": [
            {
                "index": 0,
                "residues": [
                    {
                        "index": r,
                        "name": next(a.residue_name for a in frames.topology.atoms if a.residue_index == r),
                        "atoms": [
                            {"index": i, "name": a.name, "element": a.element}
                            for i, a in enumerate(frames.topology.atoms)
                            if a.residue_index == r
                        ],
                    }
                    for r in range(3)
                ],
            }
        ],
        "bonds": [list(bond) for bond in frames.topology.bonds],
    }
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.attrs["conventions"] = "Pande"
        file["coordinates"] = frames.positions
        file["coordinates"].attrs["units"] = "nanometers"
        file["time"] = np.array([0.0, 1.0, 2.0])
        file["potentialEnergy"] = np.array([1.0, 2.0, 3.0])
        file["temperature"] = np.array([290.0, 310.0, 300.0])
        file["topology"] = np.array([json.dumps(topology).encode()])
    with pytest.warns(ExchangeWarning, match=r"temperature \(the momentary one\)"):
        found = import_frames(path, 300.0)
    assert found.topology == frames.topology
    np.testing.assert_array_equal(found.positions, frames.positions)
    np.testing.assert_array_equal(found.energies, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(found.times, [0.0, 1.0, 2.0])
    assert not is_frames_file(path)
    topology["chains"][0]["residues"][0]["atoms"][0]["element"] = "VS"
    with h5py.File(path, "r+") as file:
        del file["topology"]
        file["topology"] = np.array([json.dumps(topology).encode()])
    with pytest.raises(TopologyError, match=r"Atom 0 \(ACE1-\w+\) has no element: virtual sites"):
        import_frames(path, 300.0)
    with h5py.File(path, "r+") as file:
        file["coordinates"].attrs["units"] = "angstroms"
    with pytest.raises(FileFormatError, match="coordinates are in angstroms"):
        import_frames(path, 300.0)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["particles/all/position"], "H5MD file, which is not read"),
        (["ethanol/conformations", "ethanol/atomic_numbers"], "collection of many molecules"),
        (["something"], "unknown kind"),
    ],
)
def test_other_hdf5_files_are_called_what_they_are(tmp_path: Path, groups: list[str], message: str) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        for name in groups:
            file[name] = np.zeros(3)
    with pytest.raises(FileFormatError, match=message):
        import_frames(path, 300.0)


@pytest.mark.parametrize("structure", [None, ALANINE])
def test_npz_files_without_frames_are_refused(tmp_path: Path, structure: Path | None) -> None:
    path = tmp_path / "f.npz"
    numbers = atomic_numbers(topology_from_pdb(ALANINE)[0])
    np.savez(path, z=numbers, R=np.zeros((0, len(numbers), 3)), r_unit="Ang")
    with pytest.raises(FileFormatError, match="holds no frames"):
        import_frames(path, 300.0, structure)


def test_pdb_files_are_written_without_mdtraj(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mdtraj", None)
    frames = alanine(2, forces=False)
    export_frames(frames, tmp_path / "f.pdb")
    assert import_frames(tmp_path / "f.pdb", 300.0).topology == frames.topology


def test_structures_of_every_format_serve_trajectories(tmp_path: Path) -> None:
    frames = alanine(2, forces=False)
    export_frames(frames, tmp_path / "f.dcd")
    pdb, stream = app.PDBFile(str(ALANINE)), io.StringIO()
    app.PDBxFile.writeFile(pdb.topology, pdb.positions, stream)
    (tmp_path / "x.cif").write_text(stream.getvalue())
    found = import_frames(tmp_path / "f.dcd", 300.0, tmp_path / "x.cif")
    np.testing.assert_allclose(found.positions, frames.positions, atol=1e-6)  # Å in float32


def test_energies_in_comments_of_other_programs_are_not_lost_in_silence(tmp_path: Path) -> None:
    path = tmp_path / "f.xyz"
    path.write_text(xyz(" i = {i}, time = 0.500, E = -17.1643447508"))  # CP2K
    with pytest.raises(ConfigurationError, match=r"--energy-key E,.*read in eV"):
        import_frames(path, 300.0)
    path.write_text(xyz(" energy: -5.0703 gnorm: 0.0003 xtb: 6.7.0"))
    with pytest.warns(ExchangeWarning, match="they seem to hold energies"):
        assert import_frames(path, 300.0).energies is None


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("Properties=species:S:1:pos:R:3:x:R:0 temperature=300", r"columns of frame 0 .* widths of 1 to 100"),
        ("Properties=species:S:1:pos:R:3:x:R:-1 temperature=300", "widths of 1 to 100"),
        ("Properties=species:S:1:pos:R temperature=300", "name, type and width"),
        ("Properties=species:S:1:forces:R:3 temperature=300", "positions as pos:R:3"),
        ("Properties=species:S:1:pos:R:3 energy=1.0 energy=2.0 temperature=300", "gives the energy of frame 0 twice"),
        ("temperature=300 Temperature=310", "gives the temperature of frame 0 twice"),
        ("temperature=300 energy_unit=kcal/mol", "energy_unit=kcal/mol; lengths in Å, energies in eV"),
        ("temperature=300 units=nm", "units=nm; lengths in Å"),
        ("temperature=300 replica=0.5", r'a\.xyz": Replica must be whole numbers'),
        ("temperature=300 replica=99999999999", "fit into 32 bits"),
        ("temperature=300 log_weight=-inf", "No frame .* has a weight"),
        ("temperature=300 charge=0.5", "charge must be a whole number"),
    ],
)
def test_xyz_comments_that_leave_open_what_is_meant_are_refused(tmp_path: Path, comment: str, message: str) -> None:
    (tmp_path / "a.xyz").write_text(xyz(comment))
    with pytest.raises(FileFormatError, match=message):
        import_frames(tmp_path / "a.xyz")


def test_units_that_are_those_of_extended_xyz_pass(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text(xyz('temperature=300 units="eV, Angstrom"'))
    with pytest.warns(ExchangeWarning, match=r"Not read .* units"):
        assert len(import_frames(tmp_path / "a.xyz")) == 3


def test_atoms_that_were_held_are_said(tmp_path: Path) -> None:
    rows = [f"{row} F" for row in ("O 0.0 0.0 0.0", "H 0.96 0.0 0.0", "H -0.24 0.93 0.0")]
    text = xyz("Properties=species:S:1:pos:R:3:move_mask:L:1 temperature=300", rows)
    (tmp_path / "a.xyz").write_text(text)
    with pytest.warns(ExchangeWarning, match="atoms that were held"):
        import_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize("symbol", ["O1", "8", "D", "Foo"])
def test_what_is_not_an_element_in_xyz_files_is_named(tmp_path: Path, symbol: str) -> None:
    lines = xyz("temperature=300").splitlines()
    (tmp_path / "a.xyz").write_text("\n".join([*lines[:-1], symbol + lines[-1][1:]]) + "\n")
    with pytest.raises(FileFormatError, match=f"'{symbol}' is not the symbol of an element"):
        import_frames(tmp_path / "a.xyz")


def test_errors_of_imported_frames_name_the_file(tmp_path: Path) -> None:
    lines = xyz("temperature=300").splitlines()
    words = lines[-1].split()
    (tmp_path / "a.xyz").write_text("\n".join([*lines[:-1], " ".join([words[0], "1e300", *words[2:]])]) + "\n")
    # one line, and no warning of an overflow
    with pytest.raises(GeometryError, match=r'In ".*a\.xyz": Positions are not finite'):
        import_frames(tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": lambda z: np.stack([z, z])}, "the same in all frames"),
        ({"z": lambda z: z.astype(float)}, "z must hold whole numbers"),
        ({"R": lambda R: R[:0], "E": lambda E: E[:0], "F": lambda F: F[:0]}, "holds no frames"),
        ({"r_unit": lambda _: np.array(["Ang", "nm"])}, "r_unit Ang, nm"),
        ({"cell": lambda _: 10 * np.eye(3)}, "has a cell: it is periodic"),
        ({"pbc": lambda _: np.ones(3, bool)}, "has a pbc: it is periodic"),
        ({"log_weights": lambda _: np.full(5, -np.inf)}, "No frame .* has a weight"),
        ({"charge": lambda _: np.array([0, 0, 0, 0, 1])}, "charge 0 and 1: these are two molecules"),
    ],
)
def test_npz_files_that_leave_open_what_is_meant_are_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "a.npz"
    export_frames(alanine(), path)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {name: make(arrays.get(name)) for name, make in change.items()})
    with pytest.raises((FileFormatError, TopologyError), match=message):
        import_frames(path)


@pytest.mark.parametrize(
    ("r_unit", "e_unit", "length", "energy"),
    [("Bohr", "Hartree", units.Bohr / units.nm, units.Ha / KJ), (" ang ", "EV", 0.1, units.eV / KJ)],
)
def test_units_of_npz_files_are_known_however_they_are_written(
    tmp_path: Path, r_unit: str, e_unit: str, length: float, energy: float
) -> None:
    path, frames = tmp_path / "a.npz", alanine()
    export_frames(frames, path)
    arrays = dict(np.load(path))
    arrays |= {"R": frames.positions / length, "E": frames.energies / energy, "F": frames.forces / (energy / length)}
    np.savez(path, **arrays | {"r_unit": r_unit, "e_unit": e_unit, "cell": np.zeros((3, 3))})
    # ASE's constants are of CODATA 2014
    assert_close(import_frames(path), frames)


@pytest.mark.parametrize("name", ["a.xyz", "a.npz"])
def test_charge_and_multiplicity_of_a_file_reach_the_reference(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".xyz":
        path.write_text(xyz("temperature=300 charge=1 multiplicity=2"))
    else:
        export_frames(alanine(), path)
        np.savez(path, **dict(np.load(path)) | {"Q": np.full(5, 1), "multiplicity": 2})
    said = import_frames(path).provenance
    assert with_electrons("ase:tblite:GFN2-xTB", None, None, said) == "ase:tblite:GFN2-xTB,charge=1,multiplicity=2"
    # what the user says comes first, and force fields have no electrons
    assert with_electrons("ase:tblite:GFN2-xTB", 0, 1, said) == "ase:tblite:GFN2-xTB,charge=0,multiplicity=1"
    assert with_electrons("openmm:amber14-all.xml", None, None, said) == "openmm:amber14-all.xml"


def hdf5_of_mdtraj(path: Path, coordinates: np.ndarray | None = None, topology: object = None) -> None:
    """Water, as MDTraj would write it."""
    atoms = [{"index": i, "name": name, "element": name[0]} for i, name in enumerate(("O", "H1", "H2"))]
    right = {"chains": [{"residues": [{"name": "HOH", "atoms": atoms}]}], "bonds": [[0, 1], [0, 2]]}
    water = np.array([[[0, 0, 0.0117], [0, 0.0757, -0.0469], [0, -0.0757, -0.0469]]], dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.attrs["conventions"] = "Pande"
        file["coordinates"] = water if coordinates is None else coordinates
        file["topology"] = np.array([json.dumps(right if topology is None else topology).encode()])


def relink(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Take the coordinates away, and put something else in their place."""
    with h5py.File(path, "r+") as file:
        del file["coordinates"]
        change(file)


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((1, 3, 3), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "coordinates", (1, 3, 3))
    file.create_virtual_dataset("coordinates", layout)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.__setitem__("coordinates", h5py.ExternalLink("other.h5", "coordinates")),
        lambda file: file.__setitem__("coordinates", h5py.SoftLink("/coordinates")),
        lambda file: file.create_dataset("coordinates", (1, 3, 3), "f4", external=[("other.h5", 0, 36)]),
        lambda file: file.create_group("coordinates"),
        virtual,
    ],
    ids=["external link", "soft link", "external data", "group", "virtual"],
)
def test_data_of_mdtraj_files_that_lie_elsewhere_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[h5py.File], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    hdf5_of_mdtraj(tmp_path / "other.h5")
    hdf5_of_mdtraj(tmp_path / "a.h5")
    assert len(import_frames(tmp_path / "a.h5", 300.0)) == 1
    relink(tmp_path / "a.h5", change)
    with pytest.raises(FileFormatError, match="coordinates must be an array in the file itself"):
        import_frames(tmp_path / "a.h5", 300.0)


def test_small_mdtraj_files_do_not_unpack_to_large_memory(tmp_path: Path) -> None:
    hdf5_of_mdtraj(tmp_path / "a.h5")
    shape = (10**7, 3, 3)
    relink(
        tmp_path / "a.h5",
        lambda file: file.create_dataset("coordinates", shape, "f4", chunks=(1000, 3, 3), compression="gzip"),
    )
    with pytest.raises(FileFormatError, match="would unpack to 360000000 bytes"):
        import_frames(tmp_path / "a.h5", 300.0)


@pytest.mark.parametrize(
    "topology",
    [
        [],
        3,
        {"chains": [{"residues": [{"name": "HOH", "atoms": [{"index": 0}]}]}]},
        {"chains": 2 * [{"residues": [{"name": "H", "atoms": [{"index": 0, "name": "H", "element": "H"}]}]}]},
    ],
    ids=["list", "number", "without names", "chains numbered alike"],
)
def test_topologies_that_mdtraj_does_not_write_are_refused(tmp_path: Path, topology: object) -> None:
    hdf5_of_mdtraj(tmp_path / "a.h5", topology=topology)
    with pytest.raises(TopologyError, match=r'a\.h5": (its topology is not|the atoms of its topology)'):
        import_frames(tmp_path / "a.h5", 300.0)
