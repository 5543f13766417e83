"""OpenMM's description of a molecule as ours."""

from __future__ import annotations

from typing import Any

from ...core.errors import TopologyError
from ...core.topology import Atom, Topology


def core_topology(topology: Any) -> Topology:
    """The topology itself if it is ours, or ours of an ``openmm.app.Topology``.

    Raises:
        TopologyError: If a particle has no element, like a virtual site.
    """
    if isinstance(topology, Topology):
        return topology
    atoms = []
    for atom in topology.atoms():
        if atom.element is None:
            raise TopologyError(
                f"Particle {atom.index} ({atom.residue.name}{atom.residue.index + 1}-{atom.name}) has no element. "
                "Virtual sites and extra particles are not supported; use a force field without them."
            )
        atoms.append(Atom(atom.element.symbol, atom.name, atom.residue.name, atom.residue.index))
    bonds = {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds()}
    return Topology(tuple(atoms), tuple(sorted(bonds)))
