"""Molecules from structure files and SMILES strings."""

from __future__ import annotations

import io
import tempfile
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
from .pdb_reader import parse_pdb

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
    except SmoothflowError:
        raise
    except Exception as error:  # the readers raise whatever a malformed line leads to
        raise FileFormatError(
            f'"{path}" cannot be read as {_FORMATS[read]} ({type(error).__name__}: {error}). It may be truncated, or '
            "of another format."
        ) from error
    if len(structure.topology) == 0:
        raise FileFormatError(f'"{path}" has no atoms. Give a PDB file with ATOM or HETATM records.')
    return structure


def _structure(
    topology: Topology, positions: Float[Tensor, "frames atoms 3"], charges: tuple[int, ...] | None
) -> Structure:
    """A structure whose charged carbon atoms have open valences."""
    ions = {i for i, charge in enumerate(charges or ()) if charge and topology.elements[i] in ION_FORMERS}
    marked = replace(topology, open_valences=tuple(sorted(ions | set(topology.open_valences))))
    return Structure(marked, positions, charges)


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

    text = read_text(path)
    file = app.PDBxFile(io.StringIO(text))
    frames = [file.getPositions(asNumpy=True, frame=i) for i in range(file.getNumFrames())]
    positions = np.stack([frame.value_in_unit(unit.nanometer) for frame in frames])
    blocks: list[Any] = []
    PdbxReader(io.StringIO(text)).read(blocks)
    sites = blocks[0].getObj("atom_site")
    number, charge = (sites.getAttributeIndex(name) for name in ("id", "pdbx_formal_charge"))
    said = {row[number]: row[charge] for row in sites.getRowList()} if charge >= 0 else {}
    charges = [said.get(atom.id, "?") for atom in file.topology.atoms()]
    return _structure(
        topology_from_openmm(file.topology),
        torch.from_numpy(positions),
        None if all(c in ("?", ".") for c in charges) else tuple(0 if c in ("?", ".") else int(c) for c in charges),
    )


def _read_sdf(path: Path) -> Structure:
    chem = import_optional("rdkit.Chem", "Reading an SDF file", "smiles")
    supplier = chem.SDMolSupplier()
    supplier.SetData(read_text(path), removeHs=False)
    with _quiet_rdkit():
        molecules = list(supplier)
    if not molecules or any(molecule is None for molecule in molecules):
        raise FileFormatError(
            f'RDKit cannot read "{path}" as an SDF file: a block is damaged, or has an atom of an impossible valence.'
        )
    structures = [_structure_from_rdkit(molecule, f'"{path}"') for molecule in molecules]
    if any(s.topology != structures[0].topology for s in structures):
        raise TopologyError(f'"{path}" holds several molecules, or one in several orders of its atoms. Keep one.')
    if any(not molecule.GetConformer().Is3D() for molecule in molecules):
        raise FileFormatError(f'"{path}" is a drawing in two dimensions. Give a structure in three.')
    return replace(structures[0], positions=torch.cat([structure.positions for structure in structures]))


def _read_smiles(path: Path) -> Structure:
    lines = [line.split() for line in read_text(path).splitlines() if line.strip()]
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
        if parsed is None:
            raise TopologyError(f'"{smiles}" is not a valid SMILES string. Check its rings, brackets and valences.')
        molecule = chem.AddHs(parsed)
        # a large molecule is embedded only from random coordinates
        if all(rdDistGeom.EmbedMolecule(molecule, randomSeed=seed, useRandomCoords=r) != 0 for r in (False, True)):
            raise TopologyError(f'RDKit finds no conformation of "{smiles}". Give a structure file instead.')
        rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    return _structure_from_rdkit(molecule, f'"{smiles}"')


@contextmanager
def _quiet_rdkit() -> Iterator[None]:
    """Without what RDKit writes to standard error by itself."""
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


def _structure_from_rdkit(molecule: Any, source: str) -> Structure:
    """The structure of an RDKit molecule with conformations."""
    topology = topology_from_rdkit(molecule, source)
    positions = np.stack([conformer.GetPositions() for conformer in molecule.GetConformers()]) * ANGSTROM
    return _structure(topology, torch.from_numpy(positions), tuple(a.GetFormalCharge() for a in molecule.GetAtoms()))
