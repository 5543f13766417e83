"""Topologies from the structures of other packages, and back."""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import FileFormatError, MissingDependencyError, SmoothflowError, TopologyError
from ..core.topology import Atom, Topology
from ..core.units import ANGSTROM
from .checks import require_unit
from .elements import element

if TYPE_CHECKING:
    import ase
    import mdtraj
    import openmm.app

BOND_TOLERANCE = 1.25
"""Two atoms are taken to be bonded if they are nearer than this times the sum of their covalent radii."""


def topology_from_pdb(path: str | Path) -> tuple[Topology, Float[Tensor, "frames atoms 3"]]:
    """The topology of a PDB file, and its positions in nm (one frame per model).

    Bonds are those of standard residues and of CONECT records; OpenMM reads the file, or MDTraj where it is missing.

    Raises:
        FileFormatError: If there is no such file, or it is no PDB file.
        MissingDependencyError: If neither OpenMM nor MDTraj is installed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileFormatError(f'There is no file "{path}". Give the path of a PDB file.')
    try:
        if find_spec("openmm") is not None:
            topology, positions = _read_with_openmm(path)
        elif find_spec("mdtraj") is not None:
            topology, positions = _read_with_mdtraj(path)
        else:
            raise MissingDependencyError("Reading a PDB file", "openmm", "openmm")
    except SmoothflowError:
        raise
    except Exception as error:  # the readers raise whatever a malformed line leads to
        raise FileFormatError(
            f'"{path}" cannot be read as a PDB file ({type(error).__name__}: {error}). It may be truncated, or of '
            "another format."
        ) from error
    if len(topology) == 0:
        raise FileFormatError(f'"{path}" has no atoms. Give a PDB file with ATOM or HETATM records.')
    return topology, torch.from_numpy(positions)


def _read_with_openmm(path: Path) -> tuple[Topology, np.ndarray[Any, np.dtype[np.float64]]]:
    from openmm import unit
    from openmm.app import PDBFile

    with path.open() as stream, warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*duplicate atom")
        try:
            pdb = PDBFile(stream)
        except UserWarning as warning:
            atom = " ".join(str(warning).partition("(")[2].split()[1:6])
            raise TopologyError(f'"{path}" has an atom twice: {atom}. Remove one of the two.') from warning
    frames = [pdb.getPositions(asNumpy=True, frame=i) for i in range(pdb.getNumFrames())]
    return topology_from_openmm(pdb.topology), np.stack([frame.value_in_unit(unit.nanometer) for frame in frames])


def _read_with_mdtraj(path: Path) -> tuple[Topology, np.ndarray[Any, np.dtype[np.float64]]]:
    import mdtraj

    trajectory = mdtraj.load_pdb(str(path))
    return topology_from_mdtraj(trajectory.topology), trajectory.xyz.astype(np.float64)


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
    if find_spec("rdkit") is None:
        raise MissingDependencyError("Reading SMILES", "rdkit", "smiles")
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    parsed = Chem.MolFromSmiles(smiles)
    if parsed is None:
        raise TopologyError(f'"{smiles}" is no valid SMILES string. Check its rings, brackets and valences.')
    molecule = Chem.AddHs(parsed)
    # a large molecule is embedded only from random coordinates
    if all(rdDistGeom.EmbedMolecule(molecule, randomSeed=seed, useRandomCoords=r) != 0 for r in (False, True)):
        raise TopologyError(f'RDKit finds no conformation of "{smiles}". Give a structure file instead.')
    rdForceFieldHelpers.MMFFOptimizeMolecule(molecule)
    symbols = [atom.GetSymbol() for atom in molecule.GetAtoms()]
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    positions = torch.from_numpy(molecule.GetConformer().GetPositions() * ANGSTROM)
    return _topology(_numbered(symbols), bonds), positions[None]


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
