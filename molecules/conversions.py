"""Topologies of other programs as ours, and ours as theirs.

One rule for all: an atom without an element is an error, a residue ends where its name or index changes, and bonds are
sorted pairs without repetition, whatever their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError, TopologyError
from ..core.optional import import_optional
from ..core.topology import Atom, Topology, atom_name
from ..core.units import ANGSTROM
from .checks import require_unit
from .elements import element

if TYPE_CHECKING:
    import ase
    import mdtraj
    import openmm.app

BOND_TOLERANCE = 1.25
"""Two atoms are taken to be bonded if they are nearer than this times the sum of their covalent radii."""

NO_ELEMENT = ("", "VS")
"""What stands for the element of a virtual site: nothing, or MDTraj's symbol."""


def make_topology(atoms: Iterable[Atom], bonds: Iterable[tuple[int, int]]) -> Topology:
    """The topology of these atoms and bonds, whatever the order of the bonds and of their two atoms.

    Raises:
        TopologyError: If an atom has no element (a virtual site).
    """
    return _require_elements(_sorted(atoms, bonds))


def _sorted(atoms: Iterable[Atom], bonds: Iterable[tuple[int, int]]) -> Topology:
    return Topology(tuple(atoms), tuple(sorted({(min(bond), max(bond)) for bond in bonds})))


def _require_elements(topology: Topology, particles: Sequence[int] = ()) -> Topology:
    for i, atom in enumerate(topology.atoms):
        if atom.element in NO_ELEMENT:
            raise TopologyError(
                f"Atom {particles[i] if particles else i} ({atom}) has no element: virtual sites have no internal "
                "coordinates. Use a model without them, or give the element in columns 77-78 of the PDB file."
            )
    return topology


def topology_from_openmm(topology: openmm.app.Topology | Topology, particles: Sequence[int] = ()) -> Topology:
    """The topology of an OpenMM one, or of some of its particles; ours stays as it is.

    Args:
        topology: OpenMM's or ours.
        particles: Indices of the atoms that are wanted, in the order that is wanted; all if empty.

    Raises:
        ConfigurationError: If there is no such particle.
        TopologyError: If one of the atoms has no element (a virtual site).
    """
    if isinstance(topology, Topology):
        whole = topology
    else:
        whole = _sorted(map(_atom, topology.atoms()), _bonds(topology.bonds()))
    outside = [i for i in particles if not 0 <= i < len(whole)]
    if outside:
        raise ConfigurationError(f"Particle {outside[0]} does not exist: the topology has {len(whole)} atoms.")
    return _require_elements(whole.take(particles) if particles else whole, particles)


def topology_from_mdtraj(topology: mdtraj.Topology) -> Topology:
    """The topology of an MDTraj one.

    Raises:
        TopologyError: If an atom has no element (a virtual site).
    """
    return make_topology(map(_atom, topology.atoms), _bonds(topology.bonds))


def _atom(atom: Any) -> Atom:
    """An atom of OpenMM's or MDTraj's, which have the same attributes."""
    symbol = "" if atom.element is None else str(atom.element.symbol)
    return Atom(symbol, atom.name, atom.residue.name, atom.residue.index)


def _bonds(bonds: Iterable[Any]) -> list[tuple[int, int]]:
    return [(first.index, second.index) for first, second in bonds]


def topology_to_openmm(topology: Topology) -> openmm.app.Topology:
    """The OpenMM topology: one chain, with the same atoms, residues and bonds.

    Raises:
        TopologyError: If OpenMM does not know an element.
        MissingDependencyError: If OpenMM is not installed.
    """
    app = import_optional("openmm.app", "An OpenMM topology", "openmm")
    made = app.Topology()
    elements = foreign_elements(topology, app.Element.getBySymbol, "OpenMM")
    _fill(topology, elements, made.addChain(), made.addResidue, made.addAtom, made.addBond)
    return made


def topology_to_mdtraj(topology: Topology) -> mdtraj.Topology:
    """The MDTraj topology: one chain, with the same atoms, residues and bonds.

    Raises:
        TopologyError: If MDTraj does not know an element.
        MissingDependencyError: If MDTraj is not installed.
    """
    mdtraj = import_optional("mdtraj", "An MDTraj topology", "mdtraj")
    made = mdtraj.Topology()
    elements = foreign_elements(topology, mdtraj.element.Element.getBySymbol, "MDTraj")
    _fill(topology, elements, made.add_chain(), made.add_residue, made.add_atom, made.add_bond)
    return made


def foreign_elements(topology: Topology, by_symbol: Callable[[str], Any], program: str) -> list[Any]:
    """The element of each atom in a program's own table.

    Raises:
        TopologyError: If it is not there; names the atom.
    """
    found = []
    for i, symbol in enumerate(topology.elements):
        try:
            found.append(by_symbol(symbol))
        except KeyError as error:
            raise TopologyError(
                f'{program} does not know the element "{symbol}" of {atom_name(topology, i)}. Correct its symbol.'
            ) from error
    return found


def _fill(
    topology: Topology,
    elements: Sequence[Any],
    chain: Any,
    add_residue: Callable[[str, Any], Any],
    add_atom: Callable[[str, Any, Any], Any],
    add_bond: Callable[[Any, Any], Any],
) -> None:
    """Build atoms, residues and bonds; a program goes through atoms residue by residue, and must meet our order."""
    last, residue, made = None, None, []
    for atom, its_element in zip(topology.atoms, elements, strict=True):
        if last is None or (atom.residue_index, atom.residue_name) != (last.residue_index, last.residue_name):
            residue = add_residue(atom.residue_name, chain)
        made.append(add_atom(atom.name, its_element, residue))
        last = atom
    for first, second in topology.bonds:
        add_bond(made[first], made[second])


def topology_from_ase(atoms: ase.Atoms, guess_bonds: bool = True) -> Topology:
    """The topology of ASE atoms, with names and residues where a PDB file gave them.

    ASE knows no bonds. They are **guessed**: two atoms are bonded if they are nearer than 1.25 times the sum of their
    covalent radii. Start from an ordinary, relaxed geometry. Atoms without names are then named by element and count:
    C1, C2, H1. Without guessing, there are no bonds, and such atoms are named like their elements.

    Raises:
        GeometryError: If bonds are guessed and the positions seem to be in nm.
    """
    symbols = list(atoms.get_chemical_symbols())
    arrays = atoms.arrays
    residue_names = arrays.get("residuenames", np.full(len(symbols), "MOL"))
    numbers = np.unique(arrays.get("residuenumbers", np.zeros(len(symbols), dtype=int)), return_inverse=True)[1]
    named = [
        Atom(symbol, str(name).strip(), str(residue).strip(), int(index))
        for symbol, name, residue, index in zip(
            symbols, arrays.get("atomtypes", symbols), residue_names, numbers, strict=True
        )
    ]
    if not guess_bonds:
        return make_topology(named, ())
    guessed = guess_topology(symbols, torch.from_numpy(atoms.get_positions() * ANGSTROM))
    # where a program keeps types in the place of names, they do not tell atoms apart
    told_apart = "atomtypes" in arrays and len({(atom.residue_index, atom.name) for atom in named}) == len(named)
    return make_topology(named, guessed.bonds) if told_apart else guessed


def guess_topology(elements: Sequence[str], positions: Float[Tensor, "atoms 3"]) -> Topology:
    """Atoms named by element and count, with the bonds that distances show; see `topology_from_ase`.

    Args:
        elements: Symbols.
        positions: nm.

    Raises:
        GeometryError: If the positions seem to be in another unit.
    """
    radii = torch.tensor([element(symbol).radius for symbol in elements], dtype=positions.dtype)
    ratios = torch.cdist(positions, positions) / (radii[:, None] + radii)
    if len(elements) > 1:
        # the nearest atom is bonded, in the right unit
        require_unit(ratios.fill_diagonal_(math.inf).min(-1).values)
    bonds = (ratios < BOND_TOLERANCE).triu(1).nonzero().tolist()
    return make_topology(_numbered(elements), [(i, j) for i, j in bonds])


def topology_to_ase(
    topology: Topology, positions: Float[Tensor, "atoms 3"], charges: Sequence[int] | None = None
) -> ase.Atoms:
    """ASE atoms with names, residues and formal charges, as `topology_from_ase` finds them; ASE has no bonds.

    Args:
        topology: The molecule.
        positions: nm.
        charges: Formal charge of each atom, in units of e.

    Raises:
        MissingDependencyError: If ASE is not installed.
    """
    made = import_optional("ase", "Atoms of ASE", "ase").Atoms(topology.elements, positions.numpy() / ANGSTROM)
    made.set_array("atomtypes", np.array([atom.name for atom in topology.atoms]))
    made.set_array("residuenames", np.array([atom.residue_name for atom in topology.atoms]))
    made.set_array("residuenumbers", np.array([atom.residue_index for atom in topology.atoms]))
    if charges is not None:
        made.set_initial_charges(charges)
    return made


def topology_from_rdkit(molecule: Any, source: str) -> Topology:
    """The topology of an RDKit molecule, named by element and count; radicals have open valences.

    Args:
        molecule: An ``rdkit.Chem.Mol`` with all its hydrogens.
        source: Where it is from, for messages.

    Raises:
        TopologyError: If a hydrogen is missing.
    """
    atoms = list(molecule.GetAtoms())
    for atom in atoms:
        if atom.GetTotalNumHs() > 0:
            raise TopologyError(
                f"{source} lacks hydrogens: atom {atom.GetIdx()} ({atom.GetSymbol()}) has {atom.GetTotalNumHs()} that "
                "are not written out. Add them, for example with rdkit.Chem.AddHs."
            )
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in molecule.GetBonds()]
    made = make_topology(_numbered([atom.GetSymbol() for atom in atoms]), bonds)
    radicals = tuple(atom.GetIdx() for atom in atoms if atom.GetNumRadicalElectrons())
    return Topology(made.atoms, made.bonds, radicals)


def _numbered(symbols: Sequence[str]) -> list[Atom]:
    """Atoms of one residue, named by element and count."""
    count: dict[str, int] = {}
    atoms = []
    for symbol in symbols:
        count[symbol] = count.get(symbol, 0) + 1
        atoms.append(Atom(symbol, f"{symbol}{count[symbol]}", "MOL", 0))
    return atoms
