"""OpenMM's description of a molecule as ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ....core.errors import ConfigurationError, TopologyError
from ....core.topology import Atom, Topology


def core_topology(topology: Any, particles: Sequence[int] = ()) -> Topology:
    """The topology itself if it is ours, or ours of an ``openmm.app.Topology``; of some particles in their order.

    Raises:
        ConfigurationError: If there is no such particle.
        TopologyError: If a particle has no element, like a virtual site.
    """
    whole = topology if isinstance(topology, Topology) else _converted(topology)
    outside = [i for i in particles if not 0 <= i < len(whole)]
    if outside:
        raise ConfigurationError(f"Particle {outside[0]} does not exist: the topology has {len(whole)} atoms.")
    part = whole.take(particles) if particles else whole
    for i, atom in enumerate(part.atoms):
        if not atom.element:
            raise TopologyError(
                f"Particle {particles[i] if particles else i} ({atom}) has no element. "
                "Virtual sites and extra particles are not supported; use a force field without them."
            )
    return part


def _converted(topology: Any) -> Topology:
    """Particles without element, which a subset may leave out, have an empty one."""
    atoms = tuple(
        Atom(atom.element.symbol if atom.element else "", atom.name, atom.residue.name, atom.residue.index)
        for atom in topology.atoms()
    )
    bonds = {(min(a.index, b.index), max(a.index, b.index)) for a, b in topology.bonds()}
    return Topology(atoms, tuple(sorted(bonds)))
