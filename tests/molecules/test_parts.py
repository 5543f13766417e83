"""Selected atoms of a system: whole, connected, with the forces on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import h5py
import mdtraj
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.errors import ConfigurationError, FileFormatError, GeometryError, TopologyError
from smoothflow.core.topology import Atom, Topology
from smoothflow.core.units import ANGSTROM, ELECTRONVOLT
from smoothflow.molecules.conversions import topology_to_mdtraj
from smoothflow.molecules.foreign import ExchangeWarning
from smoothflow.molecules.formats import import_frames
from smoothflow.molecules.frames import PART_OF, Frames
from smoothflow.molecules.parts import Selection, require_system, select_part
from smoothflow.molecules.pdb import write_pdb
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb

CUBE = 2.5 * np.eye(3)
OCTAHEDRON = 2.5 * np.array([[1, 0, 0], [1 / 3, 2 * 2**0.5 / 3, 0], [-1 / 3, 2**0.5 / 3, 6**0.5 / 3]])
WATER = np.array([[0.0, 0.0, 0.0], [0.0957, 0.0, 0.0], [-0.024, 0.0927, 0.0]])
N_FRAMES = 6


def solution() -> tuple[Topology, np.ndarray]:
    """Two waters, capped alanine and a water, all whole, in a few places of a box."""
    alanine, positions = topology_from_pdb(molecule_path("capped-alanine"))
    rng = np.random.default_rng(1)
    atoms: list[Atom] = []
    bonds: list[tuple[int, int]] = []
    parts = []

    def add(topology: Topology, x: np.ndarray) -> None:
        n, residue = len(atoms), 0 if not atoms else atoms[-1].residue_index + 1
        atoms.extend(replace(atom, residue_index=atom.residue_index + residue) for atom in topology.atoms)
        bonds.extend((i + n, j + n) for i, j in topology.bonds)
        places = rng.uniform(-3, 3, (N_FRAMES, 1, 3))
        parts.append(x + places + 0.001 * rng.normal(size=(N_FRAMES, *x.shape)))

    water = Topology(tuple(Atom(name[0], name, "HOH", 0) for name in ("O", "H1", "H2")), ((0, 1), (0, 2)))
    for topology, x in ((water, WATER), (water, WATER), (alanine, positions[0].numpy()), (water, WATER)):
        add(topology, x)
    return Topology(tuple(atoms), tuple(bonds)), np.concatenate(parts, axis=1)


def wrapped(positions: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Every atom by itself in the box, as molecular dynamics may write it."""
    return positions - np.floor(positions @ np.linalg.inv(box)) @ box


def distances(positions: np.ndarray) -> np.ndarray:
    return np.linalg.norm(positions[:, :, None].astype(float) - positions[:, None], axis=-1)


def write_system(folder: Path, suffix: str, positions: np.ndarray, topology: Topology, box: np.ndarray | None) -> Path:
    write_pdb(topology, torch.from_numpy(positions[:1]), folder / "system.pdb")
    trajectory = mdtraj.Trajectory(positions.astype(np.float32), topology_to_mdtraj(topology))
    if box is not None:
        trajectory.unitcell_vectors = np.repeat(box[None], len(positions), axis=0).astype(np.float32)
    if suffix == ".h5":
        # MDTraj needs PyTables for what it writes
        write_hdf5(trajectory, folder / "run.h5")
    else:
        trajectory.save(str(folder / f"run{suffix}"))
    return folder / f"run{suffix}"


def write_hdf5(trajectory: mdtraj.Trajectory, path: Path) -> None:
    """The layout that MDTraj documents."""
    chain = [
        {
            "name": residue.name,
            "atoms": [{"index": a.index, "name": a.name, "element": a.element.symbol} for a in residue.atoms],
        }
        for residue in trajectory.topology.residues
    ]
    bonds = [[first.index, second.index] for first, second in trajectory.topology.bonds]
    with h5py.File(path, "w") as file:
        file.attrs["conventions"] = "Pande"
        file["coordinates"] = trajectory.xyz
        file["topology"] = np.array([json.dumps({"chains": [{"residues": chain}], "bonds": bonds}).encode()])
        if trajectory.unitcell_lengths is not None:
            file["cell_lengths"] = trajectory.unitcell_lengths
            file["cell_angles"] = trajectory.unitcell_angles


@pytest.mark.parametrize("box", [CUBE, OCTAHEDRON], ids=["cube", "octahedron"])
@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".h5", ".pdb"])
def test_a_solute_out_of_a_periodic_box_is_whole(tmp_path: Path, suffix: str, box: np.ndarray) -> None:
    topology, whole = solution()
    path = write_system(tmp_path, suffix, wrapped(whole, box), topology, box)
    structure = None if suffix in (".h5", ".pdb") else tmp_path / "system.pdb"
    found = import_frames(path, 300.0, structure, selection=Selection.parse("not water"))
    assert found.topology.bonds == topology_from_pdb(molecule_path("capped-alanine"))[0].bonds
    # three decimals of Å in PDB files (and two of the box's angles in degrees) and of nm in xtc files, in both atoms
    error = {".pdb": 6e-4, ".xtc": 2e-3}.get(suffix, 1e-5)
    np.testing.assert_allclose(distances(found.positions), distances(whole[:, 6:28]), rtol=0, atol=error)
    assert found.provenance[PART_OF] == {"selection": "not water", "atoms": 22, "atoms of the system": 31}


def test_periodic_extended_xyz_keeps_the_forces_of_the_selected_atoms(tmp_path: Path) -> None:
    topology, whole = solution()
    write_pdb(topology, torch.from_numpy(whole[:1]), tmp_path / "system.pdb")
    rng = np.random.default_rng(2)
    forces, images = rng.normal(size=whole.shape), []
    for x, f in zip(wrapped(whole, CUBE), forces, strict=True):
        atoms = ase.Atoms(topology.elements, x / ANGSTROM, cell=CUBE / ANGSTROM, pbc=True)
        atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=f)
        images.append(atoms)
    ase.io.write(tmp_path / "run.xyz", images)
    with pytest.warns(ExchangeWarning, match="Energies of .*run.xyz. are left out"):
        found = import_frames(
            tmp_path / "run.xyz", 300.0, tmp_path / "system.pdb", selection=Selection.parse("not water")
        )
    np.testing.assert_allclose(distances(found.positions), distances(whole[:, 6:28]), rtol=0, atol=1e-5)
    assert found.energies is None
    assert found.forces is not None
    expected = forces[:, 6:28] * ELECTRONVOLT / ANGSTROM
    np.testing.assert_allclose(found.forces, expected, rtol=1e-5, atol=1e-5)  # float32, and 8 digits
    with pytest.raises(TopologyError, match="select it"):
        import_frames(tmp_path / "run.xyz", 300.0, tmp_path / "system.pdb")
    with pytest.raises(TopologyError, match="give the structure of the whole system"):
        import_frames(tmp_path / "run.xyz", 300.0, selection=Selection.parse("not water"))


@pytest.mark.parametrize("suffix", [".dcd", ".h5"])
def test_a_torn_molecule_without_a_box_is_refused_in_one_line(tmp_path: Path, suffix: str) -> None:
    topology, whole = solution()
    path = write_system(tmp_path, suffix, wrapped(whole, CUBE), topology, None)
    with pytest.raises(GeometryError, match="has no periodic box by which to make the molecule whole") as raised:
        import_frames(path, 300.0, tmp_path / "system.pdb", selection=Selection.parse("name CA N C"))
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_trajectory_of_another_number_of_atoms_is_refused(tmp_path: Path) -> None:
    topology, whole = solution()
    path = write_system(tmp_path, ".dcd", whole, topology, None)
    write_pdb(topology.take(range(28)), torch.from_numpy(whole[:1, :28]), tmp_path / "other.pdb")
    with pytest.raises(FileFormatError, match="31"):
        import_frames(path, 300.0, tmp_path / "other.pdb", selection=Selection.parse("not water"))


def peptide(n_frames: int = 30) -> Frames:
    topology, positions = topology_from_pdb(molecule_path("chignolin"))
    rng = np.random.default_rng(3)
    x = positions.numpy() + 0.003 * rng.normal(size=(n_frames, len(topology), 3))
    return Frames(topology, 300.0, x, forces=rng.normal(size=x.shape), energies=rng.normal(size=n_frames))


def select(frames: Frames, text: str, bonds: str | None = None) -> Frames:
    with pytest.warns(ExchangeWarning, match="Energies of the frames are left out"):
        return select_part(frames, Selection.parse(text, bonds))


def test_alpha_carbons_are_joined_along_the_chain() -> None:
    frames = peptide()
    found = select(frames, "name CA", "chain")
    assert [str(atom) for atom in found.topology.atoms[:2]] == ["TYR1-CA", "TYR2-CA"]
    assert found.topology.bonds == tuple((i, i + 1) for i in range(9))
    assert found.topology.virtual_bonds == found.topology.bonds
    assert found.topology.chemical_bonds == ()
    chosen = [i for i, atom in enumerate(frames.topology.atoms) if atom.name == "CA"]
    np.testing.assert_array_equal(found.positions, frames.positions[:, chosen])
    np.testing.assert_array_equal(found.forces, frames.forces[:, chosen])
    # internal coordinates of them can be made, and lead back
    coordinates = InternalCoordinates(found.topology)
    x = torch.from_numpy(found.positions).double()
    coordinates.check_geometry(x)
    again = coordinates.decode(coordinates.encode(x)[0])[0]
    np.testing.assert_allclose(distances(again.numpy()), distances(x.numpy()), rtol=0, atol=1e-9)
    assert Topology.from_dict(json.loads(json.dumps(found.topology.to_dict()))) == found.topology
    assert found.topology.take(range(9, -1, -1)).virtual_bonds == found.topology.bonds


def test_side_chains_hang_on_their_own_residue() -> None:
    found = select(peptide(), "name CA or name CB", "chain").topology
    virtual = [tuple(found.atoms[i].name for i in bond) for bond in found.virtual_bonds]
    # the chain of bonds from CA to CA is shorter than any from CB
    assert virtual == [("CA", "CA")] * 9
    assert set(found.chemical_bonds) | set(found.virtual_bonds) == set(found.bonds)


@pytest.mark.parametrize("text", ["not element H", "backbone"])
def test_missing_hydrogens_of_a_selection_are_no_error(text: str) -> None:
    found = select(peptide(), text)
    assert found.topology.virtual_bonds == ()
    coordinates = InternalCoordinates(found.topology)
    coordinates.check_geometry(torch.from_numpy(found.positions).double())
    assert len(coordinates.codomain) == 3 * len(found.topology) - 6


def test_a_hydrogen_that_the_structure_itself_lacks_is_missed() -> None:
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    kept = [i for i, atom in enumerate(topology.atoms) if atom.name != "HA"]
    frames = Frames(topology.take(kept), 300.0, positions[:, kept].numpy())
    part = select_part(frames, Selection("not water")).topology
    with pytest.raises(TopologyError, match="a hydrogen is missing"):
        InternalCoordinates(part)


@pytest.mark.parametrize(
    ("text", "bonds", "message"),
    [
        ("name CA", None, r"is not connected: it has 10 pieces.*--bonds chain joins"),
        ("name CA", "0-1,1-2", r"is not connected: it has 8 pieces"),
        ("name CA", "0-1,1-10", r"There is no bond 1-10: the 10 selected atoms are numbered from 0 to 9"),
        ("name CA", "0-1;1-2", r"are not bonds. Write pairs of atoms"),
        ("name CA", "3-3", r"There is no bond 3-3"),
        ("name XX", None, r"holds none of the 166 atoms"),
        ("nme CA", None, r"is not in the selection language of MDTraj"),
        ("name CA and", None, r"is not in the selection language of MDTraj"),
    ],
)
def test_selections_that_make_no_part_are_refused_in_one_line(text: str, bonds: str | None, message: str) -> None:
    frames = replace(peptide(2), energies=None)
    with pytest.raises((ConfigurationError, TopologyError), match=message) as raised:
        select_part(frames, Selection.parse(text, bonds))
    assert "\n" not in str(raised.value)


def rod(n_frames: int, constrained: bool) -> Frames:
    """C-C-C, each with hydrogens at one length or at many."""
    atoms = tuple(Atom("C", f"C{i}", "ROD", 0) for i in range(3)) + tuple(
        Atom("H", f"H{i}", "ROD", 0) for i in range(4)
    )
    topology = Topology(atoms, ((0, 1), (0, 3), (0, 4), (1, 2), (1, 5), (2, 6)))
    rng = np.random.default_rng(4)
    x = np.zeros((n_frames, 7, 3))
    x[:, :3] = [[0, 0, 0], [0.15, 0, 0], [0.2, 0.14, 0]]
    x[:, :3] += 0.004 * rng.normal(size=(n_frames, 3, 3))
    for i, carbon in ((3, 0), (4, 0), (5, 1), (6, 2)):
        e = rng.normal(size=(n_frames, 3))
        length = 0.109 + (0.0 if constrained else 0.004) * rng.normal(size=(n_frames, 1))
        x[:, i] = x[:, carbon] + length * e / np.linalg.norm(e, axis=1, keepdims=True)
    return Frames(topology, 300.0, x, forces=rng.normal(size=x.shape))


def test_forces_on_atoms_held_by_constraints_count_for_the_atom_that_is_kept() -> None:
    frames = rod(40, constrained=True)
    found = select_part(frames, Selection("element C"))
    assert frames.forces is not None
    f = frames.forces
    expected = np.stack([f[:, 0] + f[:, 3] + f[:, 4], f[:, 1] + f[:, 5], f[:, 2] + f[:, 6]], axis=1)
    np.testing.assert_allclose(found.forces, expected, rtol=0, atol=1e-6)  # sums of three in float32
    assert "4 atoms" in found.provenance[PART_OF]["forces"]
    free = rod(40, constrained=False)
    kept = select_part(free, Selection("element C"))
    assert free.forces is not None
    np.testing.assert_array_equal(kept.forces, free.forces[:, :3])
    assert "forces" not in kept.provenance[PART_OF]


def test_forces_are_refused_where_a_constraint_ties_an_atom_left_out_to_two_that_are_kept() -> None:
    topology = Topology(
        tuple(Atom("O" if i == 1 else "C", f"A{i}", "ETH", 0) for i in range(4)), ((0, 1), (1, 2), (2, 3))
    )
    x = np.broadcast_to([[0, 0, 0], [0.14, 0, 0], [0.18, 0.13, 0], [0.32, 0.15, 0]], (40, 4, 3))
    frames = Frames(topology, 300.0, x, forces=np.zeros_like(x))
    with pytest.raises(ConfigurationError, match=r"hold atom 1 \(ETH1-A1\), which is left out"):
        select_part(frames, Selection("element C", "chain"))


def test_the_mean_force_of_a_rotor_is_the_mean_of_the_summed_forces() -> None:
    """One kept atom at x, one at the end of a rod of length d, in a well k/2 of the latter alone.

    The potential of mean force is k/2 x^2 - kT log(sinh a / a), a = k d x / kT, by the integral over directions.
    """
    k, d, x, kT = 300.0, 0.15, 0.1, 2.5
    a = k * d * x / kT
    rng = np.random.default_rng(5)
    u = rng.uniform(size=200_000)
    # cosine of the direction's angle: density exp(-a c) on [-1, 1], by its inverse
    c = 1 - np.log1p(u * np.expm1(2 * a)) / a
    summed = -k * (x + d * c)
    expected = -k * x + kT * (k * d / kT) * (1 / np.tanh(a) - 1 / a)
    # the standard error of the mean of 200,000
    assert abs(summed.mean() - expected) < 4 * summed.std() / len(u) ** 0.5


def test_parts_have_no_energies_of_a_force_field() -> None:
    found = select(peptide(2), "name CA", "chain")
    with pytest.raises(ConfigurationError, match=r"These frames are 10 of 166 atoms \(.name CA.\)"):
        require_system(found.provenance, "These frames")
    require_system(peptide(2).provenance, "These frames")
    with pytest.raises(FileFormatError, match=r"weights.force to 0: a potential of mean force"):
        replace(found, forces=None).require_forces()


def test_charges_of_the_whole_are_not_those_of_a_part() -> None:
    frames = replace(peptide(2), provenance={"charge": -1, "multiplicity": 1, "potential": "openmm:any.xml"})
    found = select(frames, "backbone")
    assert set(found.provenance) == {"potential", PART_OF}


def test_a_part_of_a_part_is_a_part_of_the_system() -> None:
    first = select(peptide(2), "name CA CB", "chain")
    found = select_part(first, Selection("name CA"))
    assert found.topology.virtual_bonds == found.topology.bonds == tuple((i, i + 1) for i in range(9))
    expected = {"selection": "name CA CB, of these name CA", "atoms": 10, "atoms of the system": 166}
    assert {key: found.provenance[PART_OF][key] for key in expected} == expected
    again = select_part(found, Selection("all"))
    assert again.provenance[PART_OF]["atoms of the system"] == 166


def test_two_molecules_are_joined_only_where_the_user_says_so() -> None:
    topology, whole = solution()
    frames = Frames(topology, 300.0, whole)
    with pytest.raises(TopologyError, match="They are in different molecules"):
        select_part(frames, Selection("name O and water", "chain"))
    with pytest.raises(TopologyError, match="has 2 pieces"):
        select_part(frames, Selection("resid 0 1"))
    box = np.repeat(CUBE[None], N_FRAMES, axis=0)
    found = select_part(replace(frames, positions=wrapped(whole, CUBE)), Selection.parse("resid 0 1", "0-3"), box)
    # the second molecule is the image whose named atom is nearest to that of the first
    apart = found.positions[:, 3] - found.positions[:, 0]
    assert np.abs(apart).max() <= 2.5 / 2 + 1e-5
    np.testing.assert_allclose(distances(found.positions[:, 3:]), distances(whole[:, 3:6]), rtol=0, atol=1e-5)
