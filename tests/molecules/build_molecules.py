"""Builds the PDB files in ``molecules/structures`` from sequences; needs OpenMM, and RDKit for aspirin.

Run ``python tests/molecules/build_molecules.py`` to write them anew. Peptides start from ideal bonds and angles with
extended backbones and are then minimized with amber99sbildn.xml and amber99_obc.xml.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import openmm
import torch
from openmm import app
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.conversions import topology_to_openmm
from smoothflow.molecules.elements import element
from smoothflow.molecules.pdb import write_pdb
from smoothflow.molecules.topologies import topology_from_smiles

FOLDER = Path(__file__).parents[2] / "molecules" / "structures"

PEPTIDES = {
    "capped-alanine": ["ACE", "ALA", "NME"],
    "alanine-tetrapeptide": ["ACE", "ALA", "ALA", "ALA", "NME"],
    "proline-dipeptide": ["ACE", "PRO", "NME"],
    # CLN025, the ten-residue mini-protein of Honda et al. 2008
    "chignolin": ["NTYR", "TYR", "ASP", "PRO", "GLU", "THR", "GLY", "THR", "TRP", "CTYR"],
}

# The caps' atoms in the order, and by the names, of the Protein Data Bank; the force field's own differ.
CAPS = {
    "ACE": {"CH3": "CH3", "HH31": "H1", "HH32": "H2", "HH33": "H3", "C": "C", "O": "O"},
    "NME": {"N": "N", "H": "H", "CH3": "C", "HH31": "H1", "HH32": "H2", "HH33": "H3"},
}

# Right-handed triples of arms (positive triple product) about chiral carbons: L-amino acids, and threonine's CB.
CHIRAL = {("*", "CA"): ("N", "C", "CB"), ("THR", "CB"): ("CA", "OG1", "CG2")}


def peptide_topology(force_field: app.ForceField, sequence: list[str]) -> Topology:
    """The topology of a sequence of force-field templates."""
    atoms: list[Atom] = []
    bonds: list[tuple[int, int]] = []
    previous_carbon: int | None = None
    for index, name in enumerate(sequence):
        template = force_field._templates[name]
        names = CAPS.get(name) or {atom.name: atom.name for atom in template.atoms}
        symbols = {atom.name: atom.element.symbol for atom in template.atoms}
        places = {ours: len(atoms) + i for i, ours in enumerate(names)}
        atoms += [Atom(symbols[ours], named, name[-3:], index) for ours, named in names.items()]
        for bond in template.bonds:
            first, second = (places[template.atoms[end].name] for end in bond)
            bonds.append((min(first, second), max(first, second)))
        if previous_carbon is not None:
            bonds.append((previous_carbon, places["N"]))
        previous_carbon = places["C"] if name != "NME" else None
    return Topology(tuple(atoms), tuple(sorted(bonds)))


def rings(topology: Topology) -> list[frozenset[int]]:
    """The smallest ring through each bond that is in one."""
    neighbours = topology.neighbours()
    found = set()
    for start, end in topology.bonds:
        previous = {start: start}
        reached = [start]
        for atom in reached:
            for other in neighbours[atom]:
                if other not in previous and (atom, other) != (start, end):
                    previous[other] = atom
                    reached.append(other)
        if end in previous:
            ring = [end]
            while ring[-1] != start:
                ring.append(previous[ring[-1]])
            found.add(frozenset(ring))
    return list(found)


def ideal_positions(topology: Topology) -> torch.Tensor:
    """Positions with bonds from covalent radii, ideal angles, extended chains and planar rings."""
    coordinates = InternalCoordinates(topology)
    neighbours = topology.neighbours()
    circuits = rings(topology)
    bonds, angles, torsions = [], [], []
    turned: dict[int, int] = {}
    for i, (a, b, c, d) in enumerate(coordinates.zmatrix.rows):
        if i >= 1:
            bonds.append(element(topology.elements[a]).radius + element(topology.elements[b]).radius)
        if i >= 2:
            ring = next((ring for ring in circuits if {a, b, c} <= ring), None)
            open_angle = 109.47 if len(neighbours[b]) == 4 or topology.elements[b] in "OS" else 120.0
            angles.append(math.radians(open_angle if ring is None else 180.0 - 360.0 / len(ring)))
        if i >= 3 and d in neighbours[b]:
            # siblings stand at +120 and -120 degrees about a tetrahedral centre, opposite at a planar one
            turned[b] = turned.get(b, 0) + 1
            tetrahedral = len(neighbours[b]) == 4
            torsions.append(math.radians((120.0 if turned[b] == 1 else -120.0) if tetrahedral else 180.0))
        elif i >= 3:
            torsions.append(0.0 if any({a, b, c, d} <= ring for ring in circuits) else math.radians(175.0))
    q = torch.tensor([[*bonds, *angles, *torsions]], dtype=torch.float64)
    positions, _ = coordinates.decode(q)
    n = len(topology)
    for centre in range(n):
        hand = handedness(topology, positions[0], centre)
        if hand is not None and hand < 0:
            for i, (_, b, _, d) in enumerate(coordinates.zmatrix.rows[3:]):
                if b == centre and d in neighbours[centre]:
                    q[0, 2 * n - 3 + i] *= -1
            positions, _ = coordinates.decode(q)
    return positions[0]


def handedness(topology: Topology, positions: torch.Tensor, centre: int) -> float | None:
    """The triple product of a chiral centre's arms in the order of `CHIRAL`, or None if the centre is not chiral."""
    atom = topology.atoms[centre]
    names = CHIRAL.get((atom.residue_name, atom.name)) or CHIRAL.get(("*", atom.name))
    ends = {topology.atoms[j].name: j for j in topology.neighbours()[centre]}
    if names is None or not set(names) <= set(ends):
        return None
    arms = torch.stack([positions[ends[name]] - positions[centre] for name in names])
    return float(torch.linalg.det(arms))


def minimized(force_field: app.ForceField, topology: Topology, positions: torch.Tensor) -> torch.Tensor:
    """The nearest minimum, after a little heat to leave saddle points."""
    system = force_field.createSystem(topology_to_openmm(topology), nonbondedMethod=app.NoCutoff)
    integrator = openmm.LangevinMiddleIntegrator(300.0, 10.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions.numpy())
    openmm.LocalEnergyMinimizer.minimize(context, 1.0)
    context.setVelocitiesToTemperature(300.0, 1)
    integrator.step(4000)
    openmm.LocalEnergyMinimizer.minimize(context, 0.01)
    state: Any = context.getState(getPositions=True, getEnergy=True)
    print(f"{len(topology)} atoms, {state.getPotentialEnergy()}")
    return torch.from_numpy(state.getPositions(asNumpy=True)._value)


def write(name: str, topology: Topology, positions: torch.Tensor, title: str) -> None:
    """One centred structure; every chiral centre checked."""
    values = [handedness(topology, positions, i) for i in range(len(topology))]
    assert all(value is None or value > 0 for value in values), "a chiral centre has the wrong hand"
    write_pdb(topology, (positions - positions.mean(0))[None], FOLDER / f"{name}.pdb", title)


def main() -> None:
    force_field = app.ForceField("amber99sbildn.xml", "amber99_obc.xml")
    for name, sequence in PEPTIDES.items():
        topology = peptide_topology(force_field, sequence)
        positions = minimized(force_field, topology, ideal_positions(topology))
        write(name, topology, positions, f"{name.upper()}, MINIMUM OF AMBER99SB-ILDN AND OBC")
    aspirin, conformations = topology_from_smiles("CC(=O)Oc1ccccc1C(=O)O")
    write("aspirin", aspirin, conformations[0], "ASPIRIN, MINIMUM OF MMFF94")
    water = Topology(tuple(Atom(name[0], name, "HOH", 0) for name in ("O", "H1", "H2")), ((0, 1), (0, 2)))
    bond, angle = 0.09572, math.radians(104.52)
    place = [[0.0, 0.0, 0.0], [bond, 0.0, 0.0], [bond * math.cos(angle), bond * math.sin(angle), 0.0]]
    write("water", water, torch.tensor(place), "WATER, GEOMETRY OF TIP3P")


if __name__ == "__main__":
    main()
