"""Molecules from structure files and SMILES strings."""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import FileFormatError, SmoothflowError, TopologyError
from ..core.files import read_text
from ..core.optional import import_optional
from ..core.topology import Topology
from ..core.units import ANGSTROM
from .conversions import topology_from_mdtraj, topology_from_openmm, topology_from_rdkit
from .elements import ELEMENTS
from .pdb import STANDARD_RESIDUES
from .pdb_reader import StructureWarning, parse_pdb

ION_FORMERS = ("B", "C", "Si")
"""Elements that have fewer neighbours where they have a charge: a carbanion, a carbocation."""


@dataclass(frozen=True)
class Structure:
    """A molecule as a file describes it.

    Attributes:
        topology: Its atoms and bonds.
        positions: nm, one frame for each model or conformer.
        charges: Formal charge of each atom, in units of e; None if the file says none.
    """

    topology: Topology
    positions: Float[Tensor, "frames atoms 3"]
    charges: tuple[int, ...] | None = None


def read_structure(path: str | Path) -> Structure:
    """The molecule in a PDB, mmCIF, SDF or SMILES file; the suffix says which, and a file without a known one is PDB.

    Bonds are those of standard residues and of CONECT records in PDB files, of the records of bonds in the others.
    OpenMM knows standard residues, MDTraj stands in for it with PDB files; OpenMM reads mmCIF, RDKit SDF and SMILES.

    Raises:
        FileFormatError: If there is no such file, or it is of another format.
        TopologyError: If an element or a hydrogen is missing.
        MissingDependencyError: If the package that reads the format is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f'There is no file "{path}". Give the path of a PDB, mmCIF, SDF or SMILES file.')
    read = _READERS.get(path.suffix.lower(), _read_pdb)
    try:
        structure = read(path)
    except SmoothflowError as error:
        if path.suffix.lower() in ("", ".pdb", ".ent", *_READERS):
            raise
        raise FileFormatError(
            f'The suffix of "{path}" is not that of a structure file ({", ".join(STRUCTURE_SUFFIXES)}), and it is not '
            f"a PDB file either: {error} Convert it to one of these formats."
        ) from error
    except Exception as error:  # the readers raise whatever a malformed line leads to
        raise FileFormatError(
            f'"{path}" cannot be read as {_FORMATS[read]} ({type(error).__name__}: {error}). It may be truncated, or '
            "of another format."
        ) from error
    if len(structure.topology) == 0:
        raise FileFormatError(f'"{path}" has no atoms. Give a PDB file with ATOM or HETATM records.')
    _require_known_elements(structure.topology, path)
    return structure


def _structure(
    topology: Topology, positions: Float[Tensor, "frames atoms 3"], charges: tuple[int, ...] | None
) -> Structure:
    """A structure whose charged carbon atoms have open valences."""
    ions = {i for i, charge in enumerate(charges or ()) if charge and topology.elements[i] in ION_FORMERS}
    marked = replace(topology, open_valences=tuple(sorted(ions | set(topology.open_valences))))
    return Structure(marked, positions, charges)


def _require_known_elements(topology: Topology, path: Path) -> None:
    """Atoms of standard residues are called by their elements' letters: HG is a hydrogen there, and no mercury."""
    for atom in topology.atoms:
        known = atom.name.lstrip("0123456789'")[:1]
        if atom.residue_name in STANDARD_RESIDUES and known in ELEMENTS and atom.element != known:
            raise TopologyError(
                f'"{path}" says that atom {atom} is {atom.element}, and in a standard residue it is {known}. Correct '
                "the element (columns 77-78 of a PDB file), or the names of atom and residue."
            )


def topology_from_pdb(path: str | Path) -> tuple[Topology, Float[Tensor, "frames atoms 3"]]:
    """The topology and the positions (nm) of a structure file, as `read_structure` reads them."""
    structure = read_structure(path)
    return structure.topology, structure.positions


def _read_pdb(path: Path) -> Structure:
    content = parse_pdb(read_text(path), f'"{path}"')
    if find_spec("openmm") is None and find_spec("mdtraj") is not None:
        mdtraj = import_optional("mdtraj", "Reading a PDB file", "mdtraj")
        # MDTraj reads from a name
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.pdb"
            plain.write_text(content.text, encoding="utf-8")
            topology = topology_from_mdtraj(mdtraj.load_pdb(str(plain)).topology)
    else:
        app = import_optional("openmm.app", "Reading a PDB file", "openmm")
        topology = topology_from_openmm(app.PDBFile(io.StringIO(content.text)).topology)
    positions = torch.from_numpy(content.positions)
    if len(topology) != positions.shape[1]:
        raise FileFormatError(f'"{path}" has atoms that are written in an unknown way. Write it anew with OpenMM.')
    return _structure(topology, positions, content.charges)


def _read_mmcif(path: Path) -> Structure:
    app = import_optional("openmm.app", "Reading an mmCIF file", "openmm")
    from openmm import unit
    from openmm.app.internal.pdbx.reader.PdbxReader import PdbxReader
    from openmm.app.internal.pdbx.writer.PdbxWriter import PdbxWriter

    blocks: list[Any] = []
    PdbxReader(io.StringIO(read_text(path))).read(blocks)
    if not blocks or blocks[0].getObj("atom_site") is None:
        raise FileFormatError(f'"{path}" has no atoms: it is not an mmCIF file with records of atom_site.')
    if len(blocks) > 1:
        raise FileFormatError(
            f'"{path}" holds {len(blocks)} blocks of data, and each may be a molecule. Give a file with one.'
        )
    sites = blocks[0].getObj("atom_site")
    rows = _one_location(sites, path)
    text = io.StringIO()
    PdbxWriter(text).write(blocks)
    file = app.PDBxFile(io.StringIO(text.getvalue()))
    if file.topology.getPeriodicBoxVectors() is not None:
        warnings.warn(
            f'"{path}" has a periodic box (cell), which is left out: the molecule is taken to be whole, and in free '
            "space.",
            StructureWarning,
            stacklevel=3,
        )
    frames = [file.getPositions(asNumpy=True, frame=i) for i in range(file.getNumFrames())]
    if len({len(frame) for frame in frames}) > 1:
        raise FileFormatError(f'The models of "{path}" have different numbers of atoms. Give models of one molecule.')
    positions = np.stack([frame.value_in_unit(unit.nanometer) for frame in frames])
    n = positions.shape[1]
    said = [
        tuple(row[i] for i in map(sites.getAttributeIndex, ("type_symbol", "pdbx_formal_charge")) if i >= 0)
        for row in rows
    ]
    different = next((i for i in range(n, len(said)) if said[i] != said[i % n]), None)
    if different is not None:
        raise FileFormatError(
            f'"{path}": atom {different % n} has another element or charge in model {different // n + 1} than in model '
            "1. Give models of one molecule."
        )
    charge = sites.getAttributeIndex("pdbx_formal_charge")
    charges = [row[charge] for row in rows[:n]] if charge >= 0 else []
    return _structure(
        topology_from_openmm(file.topology),
        torch.from_numpy(positions),
        None if all(c in ("?", ".") for c in charges) else tuple(0 if c in ("?", ".") else _whole(c) for c in charges),
    )


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text} is not a whole number")
    return int(number)


def _one_location(sites: Any, path: Path) -> list[list[str]]:
    """The rows of atom_site, of alternate locations those of the highest occupancy of their residue, and no others."""
    place = [i for i in map(sites.getAttributeIndex, _RESIDUE) if i >= 0]
    alternate, occupancy = sites.getAttributeIndex("label_alt_id"), sites.getAttributeIndex("occupancy")
    rows: list[list[str]] = sites.getRowList()
    if alternate < 0:
        return rows
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        if row[alternate] not in (".", "?"):
            sums = found.setdefault(tuple(row[i] for i in place), {})
            share = row[occupancy] if occupancy >= 0 else "1"
            sums[row[alternate]] = sums.get(row[alternate], 0.0) + (1.0 if share in (".", "?") else float(share))
    best = {residue: max(sums, key=lambda location: sums[location]) for residue, sums in found.items()}
    if any(len(sums) > 1 for sums in found.values()):
        warnings.warn(
            f'"{path}" has alternate locations: those of the highest occupancy of each residue are read.',
            StructureWarning,
            stacklevel=4,
        )
    kept = [row for row in rows if row[alternate] in (".", "?", best.get(tuple(row[i] for i in place)))]
    sites.setRowList(kept)
    return kept


_RESIDUE = ("pdbx_PDB_model_num", "label_asym_id", "auth_asym_id", "label_seq_id", "auth_seq_id", "pdbx_PDB_ins_code")
"""What tells residues apart in mmCIF files."""


def _read_sdf(path: Path) -> Structure:
    chem = import_optional("rdkit.Chem", "Reading an SDF file", "smiles")
    supplier = chem.SDMolSupplier()
    text = read_text(path)
    if not text.strip():
        raise FileFormatError(f'"{path}" is empty. Give an SDF file with one molecule.')
    supplier.SetData(text, removeHs=False)
    with _quiet_rdkit():
        molecules = list(supplier)
    if not molecules or any(molecule is None for molecule in molecules):
        raise FileFormatError(
            f'RDKit cannot read "{path}" as an SDF file: a block is damaged, or has an atom of an impossible valence.'
        )
    data = sorted({name for molecule in molecules for name in molecule.GetPropNames()})
    if data:
        warnings.warn(
            f'Not read from "{path}": {", ".join(data[:8])}{", ..." * (len(data) > 8)} (data items of the SDF file).',
            StructureWarning,
            stacklevel=3,
        )
    structures = [_structure_from_rdkit(molecule, f'"{path}"') for molecule in molecules]
    if any(s.topology != structures[0].topology for s in structures):
        raise TopologyError(f'"{path}" holds several molecules, or one in several orders of its atoms. Keep one.')
    if any(not molecule.GetConformer().Is3D() for molecule in molecules):
        raise FileFormatError(f'"{path}" is a drawing in two dimensions. Give a structure in three.')
    return replace(structures[0], positions=torch.cat([structure.positions for structure in structures]))


def _read_smiles(path: Path) -> Structure:
    lines = [line.split() for line in read_text(path).split("\n") if line.strip()]
    if len(lines) != 1:
        raise FileFormatError(f'"{path}" must hold one line with one SMILES string; it has {len(lines)}.')
    return _structure_from_smiles(lines[0][0])


_Reader = Callable[[Path], Structure]
_READERS: dict[str, _Reader] = {
    **dict.fromkeys((".cif", ".mmcif", ".pdbx"), _read_mmcif),
    **dict.fromkeys((".sdf", ".sd", ".mol"), _read_sdf),
    **dict.fromkeys((".smi", ".smiles"), _read_smiles),
}
_FORMATS: dict[_Reader, str] = {
    _read_pdb: "a PDB file",
    _read_mmcif: "an mmCIF file",
    _read_sdf: "an SDF file",
    _read_smiles: "a SMILES file",
}
STRUCTURE_SUFFIXES = (".pdb", ".ent", *_READERS)
"""What `read_structure` reads."""


def topology_from_smiles(smiles: str, seed: int = 0) -> tuple[Topology, Float[Tensor, "1 atoms 3"]]:
    """The topology of a SMILES string with its hydrogens added, and a conformation in nm embedded and relaxed by RDKit.

    Raises:
        TopologyError: If RDKit cannot parse or embed it.
        MissingDependencyError: If RDKit is not installed.
    """
    structure = _structure_from_smiles(smiles, seed)
    return structure.topology, structure.positions


def _structure_from_smiles(smiles: str, seed: int = 0) -> Structure:
    chem = import_optional("rdkit.Chem", "Reading SMILES", "smiles")
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    with _quiet_rdkit():
        parsed = chem.MolFromSmiles(smiles)
        if parsed is None or parsed.GetNumAtoms() == 0:
            raise TopologyError(f'"{smiles}" is not a valid SMILES string. Check its rings, brackets and valences.')
        molecule = chem.AddHs(parsed)
        # a large molecule is embedded only from random coordinates
        if all(rdDistGeom.EmbedMolecule(molecule, randomSeed=seed, useRandomCoords=r) != 0 for r in (False, True)):
            raise TopologyError(f'RDKit finds no conformation of "{smiles}". Give a structure file instead.')
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    structure = _structure_from_rdkit(molecule, f'"{smiles}"')
    chosen = _unspecified(chem, parsed, structure.topology)
    if chosen:
        warnings.warn(
            f'"{smiles}" does not say the configuration of {", ".join(chosen[:5])}{", ..." * (len(chosen) > 5)}: one '
            "stereoisomer is taken. Write it with @, @@, / and \\ if you mean another.",
            StructureWarning,
            stacklevel=3,
        )
    return structure


def _unspecified(chem: Any, molecule: Any, topology: Topology) -> list[str]:
    """Centres and double bonds whose configuration nobody said."""
    found = []
    ranks = list(chem.CanonicalRankAtoms(molecule, breakTies=False))
    for place in chem.FindPotentialStereo(molecule):
        if place.specified != chem.StereoSpecified.Unspecified:
            continue
        if place.type == chem.StereoType.Atom_Tetrahedral:
            found.append(topology.atoms[place.centeredOn].name)
        elif place.type == chem.StereoType.Bond_Double:
            bond = molecule.GetBondWithIdx(place.centeredOn)
            ends = (bond.GetBeginAtom(), bond.GetEndAtom())
            # neither linear groups, like azides, nor ends with two equal groups, as in guanidine, have isomers
            if all(
                end.GetHybridization() != chem.HybridizationType.SP
                and len({ranks[near.GetIdx()] for near in end.GetNeighbors()}) == end.GetDegree()
                for end in ends
            ):
                found.append(f"the double bond of {' and '.join(topology.atoms[end.GetIdx()].name for end in ends)}")
    return found


@contextmanager
def _quiet_rdkit() -> Iterator[None]:
    """Without what RDKit writes to standard error by itself."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


def _structure_from_rdkit(molecule: Any, source: str) -> Structure:
    """The structure of an RDKit molecule with conformations."""
    topology = topology_from_rdkit(molecule, source)
    marked = [atom for atom in molecule.GetAtoms() if atom.GetIsotope()]
    if marked:
        isotopes = [f"{atom.GetIdx()} ({atom.GetIsotope()}{atom.GetSymbol()})" for atom in marked]
        warnings.warn(
            f"{source} has isotopes, atoms {', '.join(isotopes[:5])}{', ...' * (len(isotopes) > 5)}: they are given "
            "the standard masses of their elements.",
            StructureWarning,
            stacklevel=4,
        )
    positions = np.stack([conformer.GetPositions() for conformer in molecule.GetConformers()]) * ANGSTROM
    return _structure(topology, torch.from_numpy(positions), tuple(a.GetFormalCharge() for a in molecule.GetAtoms()))
