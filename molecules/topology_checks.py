"""What a topology must satisfy to have internal coordinates: one molecule, with nothing missing."""

from __future__ import annotations

from collections import Counter

from ..core.errors import TopologyError
from ..core.topology import Topology

MAX_NEIGHBOURS = {"H": 1, "He": 0, "F": 1, "Ne": 0, "C": 4, "N": 4, "O": 3, "Ar": 0}
NON_METALS = frozenset(("H", "He", "C", "N", "O", "F", "Ne", "P", "S", "Cl", "Ar", "Se", "Br", "Kr", "I", "Xe"))
"""Bonds to all other elements, like boron and metals, do not count as valences: these bridge and cluster."""


ADD_IT = (
    "Add it, for example with openmm.app.Modeller.addHydrogens; if it is a radical, carbene or ion, give the structure "
    "as an SDF or SMILES file, which says so (or name the atom in Topology.open_valences)."
)
"""What to do about a hydrogen that seems to be missing."""


def require_molecule(topology: Topology) -> None:
    """Raise a `TopologyError` unless ``topology`` is one molecule of 3 atoms or more that can exist."""
    if len(topology) < 3:
        raise TopologyError(f"Internal coordinates need a molecule of 3 atoms or more; this one has {len(topology)}.")
    twice = [
        f"{name} of residue {residue + 1}"
        for (residue, name), count in Counter((a.residue_index, a.name) for a in topology.atoms).items()
        if count > 1
    ]
    if twice:
        raise TopologyError(
            f"Atoms occur more than once: {', '.join(twice[:5])}. Remove duplicates and alternate locations, and give "
            "every atom of a residue its own name."
        )
    _require_connected(topology)
    _require_valences(topology)


def _require_connected(topology: Topology) -> None:
    neighbours = topology.neighbours()
    reached = {0}
    order = [0]
    for index in order:
        for other in neighbours[index]:
            if other not in reached:
                reached.add(other)
                order.append(other)
    if len(reached) == len(topology):
        return
    alone = next(i for i in range(len(topology)) if i not in reached)
    atom = topology.atoms[alone]
    if not neighbours[alone]:
        raise TopologyError(
            f"Atom {alone} ({atom}) has no bond. If it is an ion or another molecule, remove it; if its residue "
            f'"{atom.residue_name}" is not a standard one, add CONECT records to the PDB file.'
        )
    raise TopologyError(
        f"There is more than one molecule: no chain of bonds joins atom 0 ({topology.atoms[0]}) and atom {alone} "
        f"({atom}). Keep one molecule, or add the missing bonds (CONECT records in a PDB file)."
    )


def _require_valences(topology: Topology) -> None:
    neighbours = Topology(topology.atoms, topology.chemical_bonds).neighbours()
    for i, atom in enumerate(topology.atoms):
        symbol, n = atom.element, len(neighbours[i])
        if any(topology.atoms[j].element not in NON_METALS for j in neighbours[i]):
            continue
        if n > MAX_NEIGHBOURS.get(symbol, n):
            raise TopologyError(
                f"Atom {i} ({atom}) is {symbol} with {n} bonds. Remove the wrong bonds or the duplicated atoms."
            )
        if i not in topology.open_valences and _lacks_hydrogen(topology, i, neighbours[i]):
            raise TopologyError(
                f"Atom {i} ({atom}) is {symbol} with {n} bond{'s' if n > 1 else ''}: a hydrogen is missing. {ADD_IT}"
            )


def _lacks_hydrogen(topology: Topology, i: int, neighbours: list[int]) -> bool:
    """True where bonds alone show it; `checks.check_geometry` sees more from the angles."""
    atom = topology.atoms[i]
    others = {topology.atoms[j].name for j in neighbours}
    if atom.element == "C" and len(neighbours) == 1:
        # carbon at the end of a chain: else carbon monoxide or an isonitrile
        return topology.elements[neighbours[0]] not in ("N", "O")
    if atom.element == "C" and atom.name == "CA":
        return {"N", "C"} <= others and len(neighbours) < 4
    # of a peptide bond
    return atom.element == "N" and atom.name == "N" and {"CA", "C"} <= others and len(neighbours) < 3
