"""Atomic numbers, as programs that know no symbols ask for them."""

from __future__ import annotations

from ...core.errors import TopologyError
from ...core.topology import Topology

SYMBOLS = [
    *("H", "He", "Li", "Be", "B", "C", "N", "O", "F", "Ne", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "Ar"),
    *("K", "Ca", "Sc", "Ti", "V", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn", "Ga", "Ge", "As", "Se", "Br", "Kr"),
    *("Rb", "Sr", "Y", "Zr", "Nb", "Mo", "Tc", "Ru", "Rh", "Pd", "Ag", "Cd", "In", "Sn", "Sb", "Te", "I", "Xe"),
    *("Cs", "Ba", "La", "Ce", "Pr", "Nd", "Pm", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu", "Hf"),
    *("Ta", "W", "Re", "Os", "Ir", "Pt", "Au", "Hg", "Tl", "Pb", "Bi", "Po", "At", "Rn"),
]
"""Symbols of the elements in the order of their atomic numbers, from 1."""


def atomic_numbers(topology: Topology) -> list[int]:
    """The atomic number of each atom.

    Raises:
        TopologyError: If an element is unknown.
    """
    for i, atom in enumerate(topology.atoms):
        if atom.element not in SYMBOLS:
            raise TopologyError(f'Atom {i} ({atom}) is of an unknown element "{atom.element}". Correct its symbol.')
    return [SYMBOLS.index(element) + 1 for element in topology.elements]


def symbol(number: int) -> str:
    """The symbol of an atomic number; the number itself where there is none."""
    return SYMBOLS[number - 1] if 1 <= number <= len(SYMBOLS) else str(number)
