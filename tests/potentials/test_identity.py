"""What tells a configuration of a molecule from one of its isomers, and from one with its atoms in another order."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from smoothflow import FlowPotential, InternalCoordinates
from smoothflow.core.errors import FileFormatError, GeometryError, TopologyError
from smoothflow.core.identity import Coordinate, Geometry
from smoothflow.core.topology import Topology
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb, topology_from_smiles
from smoothflow.potentials.compiled import CompiledPotential
from smoothflow.potentials.shipped import load, model_provider
from smoothflow.potentials.sums import SumPotential

MIRROR = np.array([1.0, 1.0, -1.0])


class Molecule:
    """A structure, and the geometry of a model that has seen its bonds, angles and impropers."""

    def __init__(self, name: str = "", smiles: str = "") -> None:
        self.topology, positions = topology_from_smiles(smiles) if smiles else topology_from_pdb(molecule_path(name))
        self.positions: np.ndarray = positions[0].double().numpy()
        self.coordinates = InternalCoordinates(self.topology)
        q = self.coordinates.encode(positions.double())[0][0].tolist()
        rows = self.coordinates.zmatrix.rows
        atoms = [tuple(row[:size]) for size in (2, 3, 4) for row in rows[size - 1 :]]
        near = self.topology.neighbours()
        self.improper = [len(four) == 4 and four[3] in near[four[1]] for four in atoms]
        self.geometry = Geometry(
            tuple(
                Coordinate(four, value, 0.003 if len(four) == 2 else 0.06)
                for four, value, improper in zip(atoms, q, self.improper, strict=True)
                if len(four) < 4 or improper
            )
        )

    def inverted(self, centre: str) -> np.ndarray:
        """The same molecule with the other handedness at one centre."""
        q = self.coordinates.encode(torch.from_numpy(self.positions)[None])[0]
        rows = self.coordinates.zmatrix.rows
        first = len(rows) - 1 + len(rows) - 2
        for i, row in enumerate(rows[3:]):
            if self.improper[first + i] and str(self.topology.atoms[row[1]]) == centre:
                q[0, first + i] *= -1
        return np.asarray(self.coordinates.decode(q)[0][0].numpy())

    def reason(self, positions: np.ndarray) -> str:
        with pytest.raises(GeometryError) as found:
            self.geometry.require(positions, self.topology)
        return str(found.value)

    def repaired(self, positions: np.ndarray) -> np.ndarray:
        """Positions after the exchanges that the error asks for."""
        x = positions.copy()
        for i, j in re.findall(r"atom (\d+) \(\S+\) and atom (\d+) \(", self.reason(positions)):
            x[[int(i), int(j)]] = x[[int(j), int(i)]]
        return x


@pytest.fixture(
    scope="module", params=["capped-alanine", "proline-dipeptide", "alanine-tetrapeptide", "aspirin", "chignolin"]
)
def molecule(request: pytest.FixtureRequest) -> Molecule:
    return Molecule(request.param)


@pytest.fixture(scope="module")
def tetrapeptide() -> Molecule:
    return Molecule("alanine-tetrapeptide")


@pytest.fixture(scope="module")
def flow() -> FlowPotential:
    return load("ala2-smooth")


@pytest.fixture(scope="module")
def start() -> np.ndarray:
    return np.asarray(topology_from_pdb(molecule_path("capped-alanine"))[1][0].double().numpy())


def siblings(topology: Topology) -> list[tuple[int, int]]:
    """Pairs of hydrogens on one carbon."""
    near = topology.neighbours()
    return [
        pair
        for atom, others in enumerate(near)
        if topology.elements[atom] == "C"
        for pair in itertools.combinations([i for i in others if topology.elements[i] == "H"], 2)
    ]


def test_a_configuration_of_the_molecule_passes_wherever_it_is(molecule: Molecule) -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    molecule.geometry.require(molecule.positions @ rotation.T + 3.0, molecule.topology)
    # thermal motion of stiff bonds, some hundredths of an Å
    molecule.geometry.require(
        molecule.positions + 0.003 * rng.standard_normal(molecule.positions.shape), molecule.topology
    )


def test_hydrogens_exchanged_on_one_carbon_are_seen_and_the_exchange_that_mends_it_is_named(
    molecule: Molecule,
) -> None:
    for i, j in siblings(molecule.topology):
        x = molecule.positions.copy()
        x[[i, j]] = x[[j, i]]
        mended = molecule.repaired(x)
        assert not molecule.geometry.faults(mended).any(), (i, j)


def test_atoms_of_one_element_exchanged_anywhere_are_named(tetrapeptide: Molecule) -> None:
    elements = tetrapeptide.topology.elements
    rng = np.random.default_rng(0)
    for element in ("C", "O", "N", "H"):
        i, j = sorted(rng.choice([k for k, e in enumerate(elements) if e == element], 2, replace=False))
        x = tetrapeptide.positions.copy()
        x[[i, j]] = x[[j, i]]
        assert not tetrapeptide.geometry.faults(tetrapeptide.repaired(x)).any()


def test_hydrogens_exchanged_on_several_carbons_are_all_named() -> None:
    chignolin = Molecule("chignolin")
    names = [str(atom) for atom in chignolin.topology.atoms]
    pairs = [(names.index(f"{r}-HB2"), names.index(f"{r}-HB3")) for r in ("TYR2", "ASP3", "GLU5")]
    x = chignolin.positions.copy()
    for i, j in pairs:
        x[[i, j]] = x[[j, i]]
    reason = chignolin.reason(x)
    assert all(f"atom {i} ({names[i]})" in reason for pair in pairs for i in pair)
    assert not chignolin.geometry.faults(chignolin.repaired(x)).any()


def test_equal_branches_exchanged_at_one_atom_are_named_with_their_hydrogens() -> None:
    isobutanol = Molecule(smiles="CC(C)CO")
    near = isobutanol.topology.neighbours()
    elements = isobutanol.topology.elements
    (centre,) = (i for i, others in enumerate(near) if [elements[j] for j in others].count("C") == 3)
    first, second = (i for i in near[centre] if [elements[j] for j in near[i]].count("H") == 3)
    x = isobutanol.positions.copy()
    for i, j in zip((first, *near[first]), (second, *near[second]), strict=True):
        if i != j:
            x[[i, j]] = x[[j, i]]
    assert f"atom {first} " in isobutanol.reason(x)
    assert not isobutanol.geometry.faults(isobutanol.repaired(x)).any()


def test_a_mirror_image_is_called_one_and_its_stereocentres_are_named(molecule: Molecule) -> None:
    centres = [
        (i, str(atom))
        for i, atom in enumerate(molecule.topology.atoms)
        if atom.name == "CA" and atom.residue_name != "GLY"
    ]
    reason = molecule.reason(molecule.positions * MIRROR)
    if centres:
        assert reason.startswith("This is the mirror image of the model's molecule: the handedness of ")
        assert all(f"atom {i} ({name})" in reason for i, name in centres)
    else:
        # what has no stereocentre is its own mirror image, with hydrogens exchanged
        assert not molecule.geometry.faults(molecule.repaired(molecule.positions * MIRROR)).any()


@pytest.mark.parametrize("centre", ["ALA2-CA", "ALA3-CA", "ALA4-CA"])
def test_one_inverted_stereocentre_is_named_and_no_other(tetrapeptide: Molecule, centre: str) -> None:
    reason = tetrapeptide.reason(tetrapeptide.inverted(centre))
    named = re.findall(r"\((ALA\d-CA)\)", reason)
    assert named == [centre]
    assert reason.startswith("This is another stereoisomer of the model's molecule")


def test_a_molecule_torn_by_a_boundary_is_refused(flow: FlowPotential, start: np.ndarray) -> None:
    x = start.copy()
    x[x[:, 0] > x[:, 0].mean()] -= [2.5, 0, 0]
    with pytest.raises(GeometryError, match="make the molecule whole if a periodic boundary cuts it"):
        flow.require_configuration(x)


def test_a_torsion_that_the_data_never_had_is_named() -> None:
    alanine = Molecule("capped-alanine")
    names = [str(atom) for atom in alanine.topology.atoms]
    four = tuple(names.index(name) for name in ("ACE1-CH3", "ACE1-C", "ALA2-N", "ALA2-CA"))
    trans = Geometry((*alanine.geometry.coordinates, Coordinate(four, math.pi, 0.1)))
    trans.require(alanine.positions, alanine.topology)
    cis = Geometry((*alanine.geometry.coordinates, Coordinate(four, 0.0, 0.1)))
    with pytest.raises(GeometryError, match=r"The torsion of .*ACE1-CH3.* is 3\.\d+ rad, 31 widths from the 0 rad"):
        cis.require(alanine.positions, alanine.topology)


def test_shipped_models_take_their_own_samples_and_crude_starts(flow: FlowPotential, start: np.ndarray) -> None:
    with torch.no_grad():
        samples, _ = flow.sample(500, torch.Generator().manual_seed(0))
    for x in samples.numpy():
        flow.require_configuration(x)
    rng = np.random.default_rng(0)
    for _ in range(50):
        # what ase's rattle does with 0.1 Å
        flow.require_configuration(start + 0.01 * rng.standard_normal(start.shape))


def test_every_coordinate_agrees_with_the_internal_coordinates_of_the_flow(
    flow: FlowPotential, start: np.ndarray
) -> None:
    q = flow.coordinates.encode(torch.from_numpy(start)[None])[0][0]
    assert flow.geometry is not None
    deviations = dict(zip((c.atoms for c in flow.geometry.coordinates), flow.geometry.deviations(start), strict=True))
    rows = flow.coordinates.zmatrix.rows
    atoms = [tuple(row[:size]) for size in (2, 3, 4) for row in rows[size - 1 :]]
    locations = {c.atoms: c.location for c in flow.geometry.coordinates}
    for four, value in zip(atoms, q.tolist(), strict=True):
        if four in deviations:
            expected = value - locations[four]
            if len(four) == 4:
                expected = math.remainder(expected, 2 * math.pi)
            assert deviations[four] == pytest.approx(expected, abs=1e-10)
    # methyl rotors, phi and psi are wide, all else is narrow
    assert len(deviations) == len(atoms) - 5


def test_sums_and_packages_know_the_geometry_of_what_is_in_them(flow: FlowPotential, start: np.ndarray) -> None:
    header = {"shape": [22, 3], "functions": ["one-float64", "many-float64"]}
    old = CompiledPotential(header, b"", flow.topology)
    assert flow.geometry is not None
    stored = json.loads(json.dumps(flow.geometry.to_list()))
    package = CompiledPotential({**header, "geometry": stored}, b"", flow.topology)
    for potential in (SumPotential([flow]), package):
        assert potential.geometry == flow.geometry
        with pytest.raises(GeometryError, match=r"mirror image .*ALA2-CA"):
            potential.require_configuration(start * MIRROR)
    assert old.geometry is None
    old.require_configuration(start * MIRROR)


@pytest.mark.parametrize(
    "data", [None, 3, [[1, 2]], [[[0], 1.0, 1.0]], [[[0, 1], "a", 1.0]], [[[0, 1], 1.0, 0.0]], [[[0, -1], 1.0, 1.0]]]
)
def test_what_is_not_a_geometry_is_refused(data: object) -> None:
    with pytest.raises(FileFormatError, match="Not the geometry of a molecule"):
        Geometry.from_list(data)


def test_names_in_another_order_are_seen_and_other_names_are_not(flow: FlowPotential) -> None:
    ours = flow.topology
    assert ours is not None
    swapped = ours.take([*range(12), 13, 12, *range(14, 22)])
    with pytest.raises(TopologyError, match=r"atom 12 is ALA2-HB2 .* Exchange atoms 12 and 13 in the file\."):
        ours.require_same(swapped, "the model", "the file")
    turned = ours.take([*range(11), 12, 13, 11, *range(14, 22)])
    with pytest.raises(TopologyError, match=r"Put the atoms of the file into this order: 0, 1, .*10, 13, 11, 12, 14"):
        ours.require_same(turned, "the model", "the file")
    # names of another convention, and names that are only elements
    others = [
        [{"HB1": "1HB", "HB2": "2HB", "HB3": "3HB", "H1": "HH31"}.get(atom.name, atom.name) for atom in ours.atoms],
        [atom.element for atom in ours.atoms],
        [f"X{i}" for i in range(22)],
    ]
    for names in others:
        renamed = Topology(
            tuple(replace(atom, name=name) for atom, name in zip(ours.atoms, names, strict=True)), ours.bonds
        )
        ours.require_same(renamed, "the model", "the file")
    # residues that are numbered otherwise are the same residues
    renumbered = tuple(replace(atom, residue_index=atom.residue_index + 7) for atom in ours.atoms)
    ours.require_same(Topology(renumbered, ours.bonds), "the model", "the file")


def write_structure(path: Path, positions: np.ndarray, order: list[int]) -> Path:
    lines = molecule_path("capped-alanine").read_text().splitlines()
    atoms = [line for line in lines if line.startswith(("ATOM", "HETATM"))]
    text = []
    for serial, i in enumerate(order, start=1):
        x, y, z = 10 * positions[i]
        text.append(f"{atoms[i][:6]}{serial:5d}{atoms[i][11:30]}{x:8.3f}{y:8.3f}{z:8.3f}{atoms[i][54:]}")
    path.write_text("\n".join([*text, "END", ""]))
    return path


def test_a_structure_given_with_a_model_is_compared_with_it(tmp_path: Path, start: np.ndarray) -> None:
    plain = list(range(22))
    model_provider("ala2-affine", write_structure(tmp_path / "same.pdb", start, plain))
    mirrored = write_structure(tmp_path / "mirror.pdb", start * MIRROR, plain)
    with pytest.raises(GeometryError, match=r'In "\S+mirror\.pdb": This is the mirror image'):
        model_provider("ala2-affine", mirrored)
    swapped = write_structure(tmp_path / "swapped.pdb", start, [*range(12), 13, 12, *range(14, 22)])
    with pytest.raises(TopologyError, match=r'Exchange atoms 12 and 13 in "\S+swapped\.pdb"'):
        model_provider("ala2-affine", swapped)
