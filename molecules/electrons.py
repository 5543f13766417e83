"""Charge and multiplicity of a molecule, for references that compute electrons."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.errors import ConfigurationError
from ..core.topology import Topology
from .elements import element


def require_electrons(
    topology: Topology, charges: Sequence[int] | None, charge: int | None, multiplicity: int | None, name: str
) -> tuple[int, int]:
    """The total charge (e) and the multiplicity 2S + 1 to compute a molecule with.

    Args:
        topology: The molecule.
        charges: Formal charge of each atom; None if the file says none.
        charge: The one that the user gives, which overrides the file's.
        multiplicity: The one that the user gives; by default the lowest, 1, which needs an even number of electrons.
        name: What the reference is called in messages.

    Raises:
        ConfigurationError: If the multiplicity is impossible for the number of electrons, or the charge of a molecule
            with charged groups is unknown.
    """
    said = None if charges is None else sum(charges)
    groups = charged_groups(topology)
    likely = sum(size for _, size in groups)
    if charge is None and said is None and groups and likely != 0:
        shown = ", ".join(f"{what} ({size:+d})" for what, size in groups[:4])
        raise ConfigurationError(
            f"The molecule seems to have charge {likely:+d}: {shown}; its file says no charges. Give --charge "
            f"{likely}, or write formal charges into the file (columns 79-80 of a PDB file). {_HOW.format(name=name)}"
        )
    total = charge if charge is not None else said or 0
    n_electrons = sum(element(symbol).number for symbol in topology.elements) - total
    unpaired = (multiplicity or 1) - 1
    if n_electrons < 1 or unpaired < 0 or unpaired > n_electrons:
        raise ConfigurationError(
            f"Charge {total:+d} and multiplicity {multiplicity or 1} leave {n_electrons} electrons, {unpaired} of them "
            "unpaired, which cannot be."
        )
    if (n_electrons - unpaired) % 2:
        guess = f"--charge {likely}" if groups and likely != total else "--charge"
        raise ConfigurationError(
            f"With charge {total:+d} the molecule has {n_electrons} electrons, which cannot have multiplicity "
            f"{unpaired + 1}. Give its charge ({guess}), or for a radical its multiplicity (--multiplicity 2). "
            f"{_HOW.format(name=name)}"
        )
    return total, unpaired + 1


_HOW = 'Or in the reference: "ase:{name},charge=-1,multiplicity=1".'


def charged_groups(topology: Topology) -> list[tuple[str, int]]:
    """Groups that have a charge whatever the rest of the molecule is: carboxylates, ammonium, guanidinium and the like.

    They are recognized by numbers of neighbours alone; others, like enolates, are not found.
    """
    neighbours = topology.neighbours()
    symbols = topology.elements
    found = []
    for i, atom in enumerate(topology.atoms):
        ends = neighbours[i]
        terminal = sum(symbols[j] == "O" and len(neighbours[j]) == 1 for j in ends)
        amino = [j for j in ends if symbols[j] == "N"]
        if symbols[i] == "N" and len(ends) == 4 and not terminal:
            found.append((f"ammonium {atom}", 1))
        elif symbols[i] == "C" and len(ends) == 3 and terminal >= 2:
            found.append((f"carboxylate {atom}", -1 if terminal == 2 else -2))
        elif symbols[i] == "C" and len(ends) == 3 and len(amino) >= 2 and all(_is_amino(topology, j) for j in amino):
            # urea and amides have an oxygen, neutral guanidine an imine
            if (
                not terminal
                and all(symbols[j] in ("N", "C", "H") for j in ends)
                and not _has_double(topology, i, amino)
            ):
                found.append((f"guanidinium or amidinium {atom}", 1))
        elif symbols[i] == "P" and len(ends) == 4 and terminal >= 2:
            found.append((f"phosphate {atom}", 1 - terminal))
        elif symbols[i] == "S" and len(ends) == 4 and terminal >= 3:
            found.append((f"sulfonate {atom}", 2 - terminal))
    return found


def _is_amino(topology: Topology, atom: int) -> bool:
    """Whether a nitrogen has three neighbours."""
    return len(topology.neighbours()[atom]) == 3


def _has_double(topology: Topology, carbon: int, amino: list[int]) -> bool:
    """Whether a trigonal carbon may have its double bond to a neighbour that is not a nitrogen."""
    neighbours = topology.neighbours()
    others = [j for j in neighbours[carbon] if j not in amino]
    return any(topology.elements[j] == "C" and len(neighbours[j]) <= 3 for j in others)
