"""Topologies from the structures of other packages, and back."""

from __future__ import annotations

import io
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import FileFormatError, MissingDependencyError, SmoothflowError, TopologyError
from ..core.files import read_text
from ..core.topology import Atom, Topology
from ..core.units import ANGSTROM
from .checks import require_unit
from .elements import ELEMENTS, element
from .pdb import STANDARD_RESIDUES
from .pdb_reader import StructureWarning, parse_pdb

if TYPE_CHECKING:
    import ase
    import mdtraj
    import openmm.app

BOND_TOLERANCE = 1.25
"""Two atoms are taken to be bonded if they are nearer than this times the sum of their covalent radii."""


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
    # a carbanion or carbocation has a charge and fewer neighbours
    charged = {
        i
        for i, charge in enumerate(structure.charges or ())
        if charge and structure.topology.elements[i] in ("B", "C", "Si")
    }
    topology = structure.topology
    marked = replace(topology, open_valences=tuple(sorted(charged | set(topology.open_valences))))
    return replace(structure, topology=marked)


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
    if find_spec("openmm") is not None:
        from openmm.app import PDBFile

        topology = topology_from_openmm(PDBFile(io.StringIO(content.text)).topology)
    elif find_spec("mdtraj") is not None:
        import mdtraj

        # MDTraj reads from a name
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.pdb"
            plain.write_text(content.text, encoding="utf-8")
            topology = topology_from_mdtraj(mdtraj.load_pdb(str(plain)).topology)
    else:
        raise MissingDependencyError("Reading a PDB file", "openmm", "openmm")
    positions = torch.from_numpy(content.positions)
    if len(topology) != positions.shape[1]:
        raise FileFormatError(f'"{path}" has atoms that are written in an unknown way. Write it anew with OpenMM.')
    return Structure(topology, positions, content.charges)


def _read_mmcif(path: Path) -> Structure:
    if find_spec("openmm") is None:
        raise MissingDependencyError("Reading an mmCIF file", "openmm", "openmm")
    from openmm import unit
    from openmm.app import PDBxFile
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
    file = PDBxFile(io.StringIO(text.getvalue()))
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
    return Structure(
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
    chem = _import_rdkit("Reading an SDF file")
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


def topology_from_openmm(topology: openmm.app.Topology) -> Topology:
    """The topology of an OpenMM one.

    Raises:
        TopologyError: If an atom has no element (a virtual site).
    """
    atoms = [
        Atom(_symbol(atom.element, atom.name), atom.name, atom.residue.name, atom.residue.index)
        for atom in topology.atoms()
    ]
    return _topology(atoms, [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds()])


def topology_from_mdtraj(topology: mdtraj.Topology) -> Topology:
    """The topology of an MDTraj one.

    Raises:
        TopologyError: If an atom has no element (a virtual site).
    """
    atoms = [
        Atom(_symbol(atom.element, atom.name), atom.name, atom.residue.name, atom.residue.index)
        for atom in topology.atoms
    ]
    return _topology(atoms, [(bond.atom1.index, bond.atom2.index) for bond in topology.bonds])


def topology_from_ase(atoms: ase.Atoms) -> Topology:
    """The topology of ASE atoms.

    ASE knows no bonds. They are **guessed**: two atoms are bonded if they are nearer than 1.25 times the sum of their
    covalent radii. Start from an ordinary, relaxed geometry. Atoms are named by element and count: C1, C2, H1.

    Raises:
        GeometryError: If the positions seem to be in nm.
    """
    positions = torch.from_numpy(atoms.get_positions() * ANGSTROM)
    symbols = list(atoms.get_chemical_symbols())
    return _topology(_numbered(symbols), _guessed_bonds(symbols, positions))


def topology_from_smiles(smiles: str, seed: int = 0) -> tuple[Topology, Float[Tensor, "1 atoms 3"]]:
    """The topology of a SMILES string with its hydrogens added, and a conformation in nm embedded and relaxed by RDKit.

    Raises:
        TopologyError: If RDKit cannot parse or embed it.
        MissingDependencyError: If RDKit is not installed.
    """
    structure = _structure_from_smiles(smiles, seed)
    return structure.topology, structure.positions


def _structure_from_smiles(smiles: str, seed: int = 0) -> Structure:
    chem = _import_rdkit("Reading SMILES")
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


def _import_rdkit(feature: str) -> Any:
    if find_spec("rdkit") is None:
        raise MissingDependencyError(feature, "rdkit", "smiles")
    from rdkit import Chem

    return Chem


@contextmanager
def _quiet_rdkit() -> Iterator[None]:
    """Without what RDKit writes to standard error by itself."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


def _structure_from_rdkit(molecule: Any, source: str) -> Structure:
    """The structure of an RDKit molecule with conformations; it knows which valences are open."""
    atoms = list(molecule.GetAtoms())
    lacking = [atom for atom in atoms if atom.GetTotalNumHs() > 0]
    if lacking:
        raise TopologyError(
            f"{source} lacks hydrogens: atom {lacking[0].GetIdx()} ({lacking[0].GetSymbol()}) has "
            f"{lacking[0].GetTotalNumHs()} that are not written out. Add them, for example with rdkit.Chem.AddHs."
        )
    isotopes = [f"{atom.GetIdx()} ({atom.GetIsotope()}{atom.GetSymbol()})" for atom in atoms if atom.GetIsotope()]
    if isotopes:
        warnings.warn(
            f"{source} has isotopes, atoms {', '.join(isotopes[:5])}{', ...' * (len(isotopes) > 5)}: they are given "
            "the standard masses of their elements.",
            StructureWarning,
            stacklevel=4,
        )
    symbols = [atom.GetSymbol() for atom in atoms]
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    positions = np.stack([conformer.GetPositions() for conformer in molecule.GetConformers()]) * ANGSTROM
    charges = tuple(atom.GetFormalCharge() for atom in atoms)
    unpaired = tuple(atom.GetIdx() for atom in atoms if atom.GetNumRadicalElectrons() or _is_carbon_ion(atom))
    topology = replace(_topology(_numbered(symbols), bonds), open_valences=unpaired)
    return Structure(topology, torch.from_numpy(positions), charges)


def _is_carbon_ion(atom: Any) -> bool:
    return bool(atom.GetSymbol() in ("B", "C", "Si") and atom.GetFormalCharge())


def topology_to_openmm(topology: Topology) -> openmm.app.Topology:
    """The OpenMM topology: one chain, with the same atoms, residues and bonds."""
    if find_spec("openmm") is None:
        raise MissingDependencyError("An OpenMM topology", "openmm", "openmm")
    from openmm import app

    converted = app.Topology()
    chain = converted.addChain()
    residues: dict[int, Any] = {}
    atoms = []
    for atom in topology.atoms:
        if atom.residue_index not in residues:
            residues[atom.residue_index] = converted.addResidue(atom.residue_name, chain)
        symbol = app.Element.getBySymbol(atom.element)
        atoms.append(converted.addAtom(atom.name, symbol, residues[atom.residue_index]))
    for first, second in topology.bonds:
        converted.addBond(atoms[first], atoms[second])
    return converted


def _symbol(found: Any, name: str) -> str:
    symbol = "" if found is None else str(found.symbol)
    if symbol in ("", "VS"):
        raise TopologyError(
            f'Atom "{name}" has no element: virtual sites have no internal coordinates. Use a model without them, or '
            "give the element in columns 77-78 of the PDB file."
        )
    return symbol


def _topology(atoms: list[Atom], bonds: list[tuple[int, int]]) -> Topology:
    return Topology(tuple(atoms), tuple(sorted({(min(bond), max(bond)) for bond in bonds})))


def _numbered(symbols: list[str]) -> list[Atom]:
    """Atoms of one residue, named by element and count."""
    count: dict[str, int] = {}
    atoms = []
    for symbol in symbols:
        count[symbol] = count.get(symbol, 0) + 1
        atoms.append(Atom(symbol, f"{symbol}{count[symbol]}", "MOL", 0))
    return atoms


def _guessed_bonds(symbols: list[str], positions: Float[Tensor, "atoms 3"]) -> list[tuple[int, int]]:
    radii = torch.tensor([element(symbol).radius for symbol in symbols], dtype=positions.dtype)
    ratios = torch.cdist(positions, positions) / (radii[:, None] + radii)
    if len(symbols) > 1:
        # the nearest atom is bonded, in the right unit
        require_unit(ratios.fill_diagonal_(math.inf).min(-1).values)
    return [(i, j) for i, j in (ratios < BOND_TOLERANCE).triu(1).nonzero().tolist()]
