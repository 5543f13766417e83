"""Structure files as other programs write them are read right or refused; OpenMM, ASE and RDKit are the witnesses."""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import ase
import ase.data
import numpy as np
import pytest
import torch
from openmm import app
from rdkit import Chem
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.errors import FileFormatError, GeometryError, MissingDependencyError, TopologyError
from smoothflow.core.topology import Topology
from smoothflow.molecules.conversions import topology_from_ase
from smoothflow.molecules.elements import ELEMENTS
from smoothflow.molecules.pdb_reader import StructureWarning, parse_pdb
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import read_structure, topology_from_smiles

ALANINE = molecule_path("capped-alanine")


def line(i: int, name: str, residue: str = "LIG", element: str = "", charge: str = "", **more: object) -> str:
    """An ATOM record; ``name`` fills its four columns."""
    x = more.get("x", 0.15 * i * 10)
    return (
        f"HETATM{i:5d} {name:4}{more.get('alternate', ' ')}{residue:>3} A{more.get('number', 1):>4}    "
        f"{x:8.3f}{0:8.3f}{0:8.3f}{more.get('occupancy', 1.0):6.2f}  0.00          {element:>2}{charge:2}"
    )


def elements(*lines: str) -> list[str]:
    text = parse_pdb("\n".join(lines), "it").text
    return [row[76:78].strip().capitalize() for row in text.splitlines() if row.startswith(("ATOM", "HETATM"))]


def shifted(text: str) -> str:
    """Names moved to the left, and no elements: as some programs write PDB files."""
    rows = text.splitlines()
    return "\n".join(
        f"{row[:12]}{row[12:16].strip():4}{row[16:66]}" if row.startswith(("ATOM", "HETATM")) else row for row in rows
    )


def test_alpha_carbons_with_shifted_names_are_carbons(tmp_path: Path) -> None:
    path = tmp_path / "shifted.pdb"
    path.write_text(shifted(ALANINE.read_text()))
    assert read_structure(path).topology == read_structure(ALANINE).topology


@pytest.mark.parametrize(
    ("name", "residue", "element"),
    [
        (" CA ", "LIG", "C"),
        ("CA  ", "LIG", "Ca"),
        (" CD ", "LIG", "C"),
        (" NA ", "HEM", "N"),
        ("FE  ", "HEM", "Fe"),
        ("CL1 ", "LIG", "Cl"),
        ("BR  ", "LIG", "Br"),
        ("HG11", "VAL", "H"),
        ("HG11", "LIG", "H"),
        ("1HB ", "ALA", "H"),
        (" SG ", "CYS", "S"),
        ("SE  ", "MSE", "Se"),
        (" O5'", "DA", "O"),
        ("H5''", "DA", "H"),
    ],
)
def test_elements_come_from_aligned_names(name: str, residue: str, element: str) -> None:
    assert elements(line(1, name, residue), line(2, " C9 ", residue))[0] == element


def test_single_ions_are_named_by_their_residue() -> None:
    assert elements(line(1, "CA  ", "CA"), line(2, "NA  ", "NA", number=2)) == ["Ca", "Na"]


@pytest.mark.parametrize("name", ["CA  ", "CD1 ", "NE  ", "HG  ", " CL1", "CD11"])
def test_names_that_leave_the_element_open_are_refused(name: str) -> None:
    # the second name is shifted, so that alignment says nothing
    with pytest.raises(TopologyError, match=r"element of atom .* cannot be told"):
        elements(line(1, name), line(2, "C9  "))


def test_the_element_column_comes_first_and_must_be_an_element() -> None:
    assert elements(line(1, "CA  ", element="C"), line(2, "C9  ", element="CL")) == ["C", "Cl"]
    with pytest.raises(TopologyError, match='element "EP", which does not exist'):
        elements(line(1, " M  ", element="EP"))
    # the numbers of lines that old files end with
    assert elements(line(1, " CA ", "ALA", element="12", charge="34"), line(2, " C  ", "ALA")) == ["C", "C"]


def test_an_element_that_does_not_fit_its_bonds_is_refused(alanine) -> None:
    atoms = [replace(a, element="Ca") if a.name == "CA" else a for a in alanine.topology.atoms]
    with pytest.raises(GeometryError, match=r"ALA2-N \(N\) and ALA2-CA \(Ca\) is .* An element seems to be wrong"):
        InternalCoordinates(Topology(tuple(atoms), alanine.topology.bonds)).check_geometry(alanine.positions)


@pytest.mark.parametrize(
    "encode",
    [
        lambda text, comment: b"\xef\xbb\xbf" + text.encode(),
        lambda text, comment: text.encode("utf-16"),
        lambda text, comment: text.replace("\n", "\r\n").encode(),
        lambda text, comment: comment + b"M\xfcller\n" + text.encode(),
        lambda text, comment: comment + "Müller 0.1 nm²\n".encode() + text.encode(),
    ],
    ids=["byte-order mark", "UTF-16", "CRLF", "Latin-1", "UTF-8"],
)
@pytest.mark.parametrize(("suffix", "comment"), [(".pdb", b"REMARK   1 "), (".cif", b"# ")])
def test_encodings_change_nothing(tmp_path: Path, encode, suffix: str, comment: bytes) -> None:
    text = ALANINE.read_text()
    text = text[text.index("HETATM") :]  # the first line is an atom
    if suffix == ".cif":
        file, stream = app.PDBFile(str(ALANINE)), io.StringIO()
        app.PDBxFile.writeFile(file.topology, file.positions, stream)
        text = stream.getvalue()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(encode(text, comment))
    structure = read_structure(path)
    expected = read_structure(ALANINE)
    assert structure.topology.elements == expected.topology.elements
    assert structure.topology.bonds == expected.topology.bonds
    torch.testing.assert_close(structure.positions, expected.positions, rtol=0, atol=1e-6)


def test_models_in_another_order_are_refused(tmp_path: Path) -> None:
    atoms = [row for row in ALANINE.read_text().splitlines() if row.startswith(("ATOM", "HETATM"))]
    swapped = [atoms[0], atoms[2], atoms[1], *atoms[3:]]
    path = tmp_path / "models.pdb"
    path.write_text("\n".join(["MODEL 1", *atoms, "ENDMDL", "MODEL 2", *swapped, "ENDMDL"]))
    with pytest.raises(FileFormatError, match="model 2 lists its atoms in another order than model 1: atom 1 is 3 H2"):
        read_structure(path)
    path.write_text("\n".join(["MODEL 1", *atoms, "ENDMDL", "MODEL 2", *atoms[:-1], "ENDMDL"]))
    with pytest.raises(FileFormatError, match="model 2 has 21 atoms and model 1 has 22"):
        read_structure(path)
    # frames between END records alone
    path.write_text("\n".join([*atoms, "END", *atoms, "END"]))
    assert read_structure(path).positions.shape == (2, 22, 3)


def test_alternate_locations_of_highest_occupancy_are_read() -> None:
    rows = [
        line(1, " C1 ", alternate="A", occupancy=0.3, x=1.0),
        line(2, " C1 ", alternate="B", occupancy=0.7, x=2.0),
        line(3, " C2 ", x=3.0),
    ]
    with pytest.warns(StructureWarning, match="alternate locations"):
        content = parse_pdb("\n".join(rows), "it")
    np.testing.assert_allclose(content.positions[0, :, 0], [0.2, 0.3])


def test_insertion_codes_and_hybrid_numbers_are_residues_of_their_own(tmp_path: Path) -> None:
    text = ALANINE.read_text()
    for old, new in (("ACE A   1 ", "ACE AA000 "), ("ALA A   2 ", "ALA A 100A"), ("NME A   3 ", "NME A 100B")):
        text = text.replace(old, new)
    path = tmp_path / "x.pdb"
    path.write_text(text)
    assert read_structure(path).topology == read_structure(ALANINE).topology


def test_charges_are_read_from_every_format(tmp_path: Path) -> None:
    from rdkit.Chem import AllChem

    molecule = Chem.AddHs(Chem.MolFromSmiles("CC(=O)[O-]"))
    AllChem.EmbedMolecule(molecule, randomSeed=1)
    (tmp_path / "x.pdb").write_text(Chem.MolToPDBBlock(molecule))
    (tmp_path / "x.sdf").write_text(Chem.MolToMolBlock(molecule))
    (tmp_path / "x.smi").write_text("CC(=O)[O-] acetate\n")
    for name in ("x.pdb", "x.sdf", "x.smi"):
        structure = read_structure(tmp_path / name)
        assert structure.charges == (0, 0, 0, -1, 0, 0, 0), name
        assert structure.topology.elements == ("C", "C", "O", "O", "H", "H", "H")
        assert len(structure.topology.bonds) == 6
    with pytest.raises(FileFormatError, match='charge "1" of atom'):
        parse_pdb(line(1, " C1 ", element="C", charge="1 "), "it")


def test_charges_of_mmcif_files_are_read(tmp_path: Path) -> None:
    file, stream = app.PDBFile(str(ALANINE)), io.StringIO()
    app.PDBxFile.writeFile(file.topology, file.positions, stream)
    path = tmp_path / "x.mmcif"
    rows = stream.getvalue().splitlines()
    names = [row for row in rows if row.startswith("_atom_site.")]
    at = rows.index(names[-1])
    column = [i for i, name in enumerate(names) if "charge" in name]
    if not column:
        rows.insert(at + 1, "_atom_site.pdbx_formal_charge")
    changed = []
    n = 0
    for row in rows:
        if row.startswith(("ATOM", "HETATM")):
            charge = "-1" if n == 5 else "?"
            n += 1
            parts = row.split()
            if column:
                parts[column[0]] = charge
            else:
                parts.append(charge)
            row = " ".join(parts)
        changed.append(row)
    path.write_text("\n".join(changed) + "\n")
    structure = read_structure(path)
    assert structure.charges is not None
    assert [i for i, charge in enumerate(structure.charges) if charge] == [5]


def test_sdf_files_that_do_not_hold_one_whole_molecule_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.sdf"
    path.write_text(Chem.MolToMolBlock(Chem.MolFromSmiles("CCO")))
    with pytest.raises(TopologyError, match="lacks hydrogens"):
        read_structure(path)
    path.write_text("nothing\n")
    with pytest.raises(FileFormatError, match="SDF"):
        read_structure(path)


def test_missing_readers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("openmm", "mdtraj", "rdkit"):
        monkeypatch.setitem(sys.modules, package, None)
    for suffix, extra in ((".pdb", "openmm"), (".cif", "openmm"), (".sdf", "smiles"), (".smi", "smiles")):
        path = tmp_path / f"x{suffix}"
        path.write_text("CCO" if suffix == ".smi" else ALANINE.read_text())
        with pytest.raises(MissingDependencyError, match=rf"smoothflow\[{extra}\]"):
            read_structure(path)


@pytest.mark.parametrize("smiles", ["CN1C=CN(C)[C]1", "[c]1ccccc1", "C[CH-]C", "C[CH2]", "CC#[C]"])
def test_carbenes_radicals_and_carbanions_are_whole(smiles: str) -> None:
    topology, positions = topology_from_smiles(smiles)
    assert topology.open_valences
    assert Topology.from_dict(topology.to_dict()) == topology
    InternalCoordinates(topology).check_geometry(positions)


def test_a_radical_without_its_mark_lacks_a_hydrogen() -> None:
    topology, positions = topology_from_smiles("[c]1ccccc1")
    bare = Topology(topology.atoms, topology.bonds)
    with pytest.raises(GeometryError, match=r"a hydrogen is missing.*radical, carbene or ion.*SDF or SMILES"):
        InternalCoordinates(bare).check_geometry(positions)


def test_hydrogens_may_bridge_borons() -> None:
    # diborane, J. Chem. Phys. 61, 3066 (1974), to 0.01 Å
    bridges = [[0, 0, 0.98], [0, 0, -0.98]]
    ends = [[x, y, 0] for x in (-1.47, 1.47) for y in (-1.04, 1.04)]
    atoms = ase.Atoms("B2H6", [[-0.885, 0, 0], [0.885, 0, 0], *bridges, *ends])
    topology = topology_from_ase(atoms)
    assert max(len(n) for n, e in zip(topology.neighbours(), topology.elements, strict=True) if e == "H") == 2
    InternalCoordinates(topology).check_geometry(torch.from_numpy(atoms.positions / 10)[None])


def test_all_elements_agree_with_ase() -> None:
    assert list(ELEMENTS) == ase.data.chemical_symbols[1:]
    for symbol, found in ELEMENTS.items():
        assert found.number == ase.data.atomic_numbers[symbol]
        # of elements without stable isotopes the longest-lived ones are debated
        assert found.mass == pytest.approx(
            ase.data.atomic_masses[found.number], rel=1e-4 if found.number < 84 else 0.01
        )
        if found.number <= 96:
            assert found.radius == pytest.approx(ase.data.covalent_radii[found.number] / 10, abs=1e-9)


LINEAR = ["CC#C", "CC#N", "C=C=C", "CC#CC", "N#Cc1ccccc1", "CN=[N+]=[N-]", "C[N+]#[C-]", "C#CCC#C", "CN=C=S", "C#COC#C"]


@pytest.mark.parametrize("smiles", [*LINEAR, "C#CC(C#C)(C#C)C#C", "C#CC#CC", "c1ccccc1C#Cc1ccccc1"])
def test_linear_groups_have_internal_coordinates(smiles: str) -> None:
    topology, positions = topology_from_smiles(smiles)
    coordinates = InternalCoordinates(topology)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coordinates.check_geometry(positions)
    noise = torch.randn((20, len(topology), 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = positions + 0.003 * noise
    q, log_det = coordinates.encode(moved)
    back, log_det_back = coordinates.decode(q)
    torch.testing.assert_close(torch.cdist(back, back), torch.cdist(moved, moved), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det, -log_det_back, rtol=0, atol=1e-9)


@pytest.mark.parametrize("smiles", ["C#N", "O=C=O", "C#C", "N#CC#N"])
def test_linear_molecules_are_refused(smiles: str) -> None:
    with pytest.raises(TopologyError, match="All atoms lie on one line"):
        InternalCoordinates(topology_from_smiles(smiles)[0])


def of_alanine(change, atoms=None) -> str:
    """The file of capped alanine with its atoms' records changed: all of them, or those of these numbers."""
    rows, count = [], 0
    for row in ALANINE.read_text().splitlines():
        if row.startswith(("ATOM", "HETATM")):
            row = change(row.ljust(80)) if atoms is None or count in atoms else row
            count += 1
        rows.append(row)
    return "\n".join(rows) + "\n"


def models(*texts: str) -> str:
    """Files of one molecule as the models of one file."""
    parts = []
    for number, text in enumerate(texts, start=1):
        records = [row for row in text.splitlines() if row.startswith(("ATOM", "HETATM"))]
        parts += [f"MODEL     {number:4d}", *records, "ENDMDL"]
    return "\n".join([*parts, "END", ""])


@pytest.mark.parametrize("columns", [" N", "CA", "HG"])
def test_an_element_that_a_standard_residue_does_not_have_is_refused(tmp_path: Path, columns: str) -> None:
    path = tmp_path / "molecule.pdb"
    path.write_text(of_alanine(lambda row: row[:76] + columns + row[78:], [8]))
    with pytest.raises(TopologyError, match=r"ALA2-CA is .* in a standard residue it is C"):
        read_structure(path)


@pytest.mark.parametrize(("start", "stop", "text"), [(76, 78, " N"), (78, 80, "1-")])
def test_models_that_differ_in_an_element_or_a_charge_are_refused(
    tmp_path: Path, start: int, stop: int, text: str
) -> None:
    other = of_alanine(lambda row: row[:start] + text + row[stop:], [8])
    path = tmp_path / "models.pdb"
    path.write_text(models(of_alanine(str), other))
    with pytest.raises(FileFormatError, match=r"atom 8 .* another element or charge in model 2"):
        read_structure(path)


def test_charges_count_where_the_element_column_is_blank(tmp_path: Path) -> None:
    path = tmp_path / "molecule.pdb"
    path.write_text(of_alanine(lambda row: row[:76] + "  1-", [5]))
    assert read_structure(path).charges == (*(0,) * 5, -1, *(0,) * 16)


@pytest.mark.parametrize("length", [47, 50, 53])
def test_a_last_coordinate_that_is_cut_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "cut.pdb"
    path.write_text(of_alanine(lambda row: row[:length], [21]))
    with pytest.raises(FileFormatError, match=r"are not three coordinates. The file may be truncated"):
        read_structure(path)


def test_letters_that_python_takes_for_line_ends_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "molecule.pdb"
    path.write_bytes(b"REMARK caf\x85ATOM      1 of \xe9\x1cATOM\n" + ALANINE.read_bytes())
    assert read_structure(path).topology == read_structure(ALANINE).topology


def test_periodic_boxes_are_left_out_with_a_word(tmp_path: Path) -> None:
    box = "CRYST1{0:9.3f}{0:9.3f}{0:9.3f}  90.00  90.00  90.00 P 1           1\n"
    path = tmp_path / "molecule.pdb"
    path.write_text(box.format(20) + ALANINE.read_text())
    with pytest.warns(StructureWarning, match="periodic box"):
        read_structure(path)
    # this is how the format says that there is none
    path.write_text(box.format(1) + ALANINE.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_structure(path)


@pytest.mark.parametrize("name", ["water.gro", "water.mol2", "water.xyz", "water.pdb.gz"])
def test_structures_of_unknown_formats_are_told_what_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("3\nwater\nO 0 0 0\n")
    with pytest.raises(FileFormatError, match=rf'suffix of ".*{name}" is not .* \.cif, .*\.sdf'):
        read_structure(tmp_path / name)


def mmcif_of_alanine() -> str:
    from openmm.app import PDBFile, PDBxFile

    file = PDBFile(str(ALANINE))
    text = io.StringIO()
    PDBxFile.writeFile(file.topology, file.positions, text)
    return text.getvalue()


def test_alternate_locations_of_mmcif_files_are_those_of_highest_occupancy(tmp_path: Path) -> None:
    rows = []
    for row in mmcif_of_alanine().splitlines():
        words = row.split()
        if words[:1] == ["ATOM"] and words[3] == "CB":
            rows.append(" ".join([*words[:4], "A", *words[5:13], "0.3", *words[14:]]))
            x = f"{float(words[10]) + 0.1:.4f}"
            rows.append(" ".join([*words[:4], "B", *words[5:10], x, *words[11:13], "0.7", *words[14:]]))
        else:
            rows.append(row)
    path = tmp_path / "alternate.cif"
    path.write_text("\n".join(rows) + "\n")
    with pytest.warns(StructureWarning, match="highest occupancy"):
        found = read_structure(path)
    right = read_structure(ALANINE)
    assert found.topology == right.topology
    beta = next(i for i, atom in enumerate(right.topology.atoms) if atom.name == "CB")
    # 0.1 Å; files hold 4 decimals
    assert float(found.positions[0, beta, 0] - right.positions[0, beta, 0]) == pytest.approx(0.01, abs=2e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text + "data_second\n" + text.split("\n", 1)[1], "holds 2 blocks"),
        (lambda _: "data_empty\n", "has no atoms"),
        (lambda _: "", "has no atoms"),
    ],
)
def test_mmcif_files_that_are_not_one_molecule_are_refused(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "molecule.cif"
    path.write_text(change(mmcif_of_alanine()))
    with pytest.raises(FileFormatError, match=message):
        read_structure(path)


@pytest.mark.parametrize(
    ("smiles", "chosen"), [("CC(O)F", "C2"), ("CC=CF", "double bond of C2 and C3"), ("NC(C)C(=O)O", "C1")]
)
def test_stereochemistry_that_a_smiles_string_leaves_open_is_warned_of(smiles: str, chosen: str) -> None:
    with pytest.warns(StructureWarning, match=f"does not say the configuration of .*{chosen}"):
        topology_from_smiles(smiles)


@pytest.mark.parametrize("smiles", ["C[C@H](O)F", "C/C=C/F", "CCO", "C[N+](C)(C)C", "CN=[N+]=[N-]", "NC(=N)N"])
def test_stereochemistry_that_is_given_or_absent_passes_without_a_warning(smiles: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        topology_from_smiles(smiles)


def test_isotopes_are_warned_of_or_refused(tmp_path: Path) -> None:
    with pytest.warns(StructureWarning, match=r"isotopes, atoms 0 \(2H\)"):
        topology_from_smiles("[2H]OC")
    path = tmp_path / "molecule.pdb"
    path.write_text(of_alanine(lambda row: row[:76] + " D" + row[78:], [1]))
    with pytest.raises(TopologyError, match="deuterium"):
        read_structure(path)


def test_an_empty_smiles_string_is_refused() -> None:
    with pytest.raises(TopologyError, match="not a valid SMILES"):
        topology_from_smiles("")


@pytest.mark.parametrize("end", ["\r\n", "\r"])
def test_line_ends_and_data_items_of_sdf_files_change_nothing(tmp_path: Path, end: str) -> None:
    from rdkit.Chem import rdDistGeom

    molecule = Chem.AddHs(Chem.MolFromSmiles("CCO"))
    rdDistGeom.EmbedMolecule(molecule, randomSeed=1)
    path = tmp_path / "molecule.sdf"
    path.write_bytes((Chem.MolToMolBlock(molecule) + ">  <energy>\n-1.0\n\n$$$$\n").replace("\n", end).encode())
    with pytest.warns(StructureWarning, match="Not read .* energy"):
        assert len(read_structure(path).topology) == 9
