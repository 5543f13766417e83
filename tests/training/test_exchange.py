"""Frames from and to other programs' formats, against those programs."""

from __future__ import annotations

from pathlib import Path

import ase
import ase.io
import mdtraj
import numpy as np
import pytest
import torch
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from smoothflow.coordinates.molecules import molecule_path
from smoothflow.coordinates.topologies import topology_from_pdb
from smoothflow.core.errors import ConfigurationError, FileFormatError, GeometryError, TopologyError
from smoothflow.core.plugins import registry
from smoothflow.training.exchange import ExchangeWarning, export_frames, import_frames, recompute
from smoothflow.training.frames import Frames

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


def test_guessed_bonds_are_said_to_be(tmp_path: Path) -> None:
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
        ({"e_unit": "hartree"}, "hartree"),
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
