"""Atomic numbers, masses and covalent radii.

The table is written out because every molecule needs it, also where no optional package is installed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import TopologyError
from ..core.topology import Topology, atom_name


class Element(NamedTuple):
    """Atomic number, standard atomic weight (amu, IUPAC 2016; of the longest-lived isotope where there is none) and
    covalent radius (nm).

    References of the radii: Cordero et al., Covalent radii revisited, Dalton Trans. 2008, 2832; from Bk on Pyykkö and
    Atsumi, Molecular single-bond covalent radii, Chem. Eur. J. 15, 186 (2009).
    """

    number: int
    mass: float
    radius: float


ELEMENTS: dict[str, Element] = {
    "H": Element(1, 1.008, 0.031),
    "He": Element(2, 4.0026, 0.028),
    "Li": Element(3, 6.94, 0.128),
    "Be": Element(4, 9.01218, 0.096),
    "B": Element(5, 10.81, 0.084),
    "C": Element(6, 12.011, 0.076),
    "N": Element(7, 14.007, 0.071),
    "O": Element(8, 15.999, 0.066),
    "F": Element(9, 18.9984, 0.057),
    "Ne": Element(10, 20.1797, 0.058),
    "Na": Element(11, 22.9898, 0.166),
    "Mg": Element(12, 24.305, 0.141),
    "Al": Element(13, 26.9815, 0.121),
    "Si": Element(14, 28.085, 0.111),
    "P": Element(15, 30.9738, 0.107),
    "S": Element(16, 32.06, 0.105),
    "Cl": Element(17, 35.45, 0.102),
    "Ar": Element(18, 39.948, 0.106),
    "K": Element(19, 39.0983, 0.203),
    "Ca": Element(20, 40.078, 0.176),
    "Sc": Element(21, 44.9559, 0.17),
    "Ti": Element(22, 47.867, 0.16),
    "V": Element(23, 50.9415, 0.153),
    "Cr": Element(24, 51.9961, 0.139),
    "Mn": Element(25, 54.938, 0.139),
    "Fe": Element(26, 55.845, 0.132),
    "Co": Element(27, 58.9332, 0.126),
    "Ni": Element(28, 58.6934, 0.124),
    "Cu": Element(29, 63.546, 0.132),
    "Zn": Element(30, 65.38, 0.122),
    "Ga": Element(31, 69.723, 0.122),
    "Ge": Element(32, 72.63, 0.12),
    "As": Element(33, 74.9216, 0.119),
    "Se": Element(34, 78.971, 0.12),
    "Br": Element(35, 79.904, 0.12),
    "Kr": Element(36, 83.798, 0.116),
    "Rb": Element(37, 85.4678, 0.22),
    "Sr": Element(38, 87.62, 0.195),
    "Y": Element(39, 88.9058, 0.19),
    "Zr": Element(40, 91.224, 0.175),
    "Nb": Element(41, 92.9064, 0.164),
    "Mo": Element(42, 95.95, 0.154),
    "Tc": Element(43, 97.9072, 0.147),
    "Ru": Element(44, 101.07, 0.146),
    "Rh": Element(45, 102.906, 0.142),
    "Pd": Element(46, 106.42, 0.139),
    "Ag": Element(47, 107.868, 0.145),
    "Cd": Element(48, 112.414, 0.144),
    "In": Element(49, 114.818, 0.142),
    "Sn": Element(50, 118.71, 0.139),
    "Sb": Element(51, 121.76, 0.139),
    "Te": Element(52, 127.6, 0.138),
    "I": Element(53, 126.904, 0.139),
    "Xe": Element(54, 131.293, 0.14),
    "Cs": Element(55, 132.905, 0.244),
    "Ba": Element(56, 137.327, 0.215),
    "La": Element(57, 138.905, 0.207),
    "Ce": Element(58, 140.116, 0.204),
    "Pr": Element(59, 140.908, 0.203),
    "Nd": Element(60, 144.242, 0.201),
    "Pm": Element(61, 144.913, 0.199),
    "Sm": Element(62, 150.36, 0.198),
    "Eu": Element(63, 151.964, 0.198),
    "Gd": Element(64, 157.25, 0.196),
    "Tb": Element(65, 158.925, 0.194),
    "Dy": Element(66, 162.5, 0.192),
    "Ho": Element(67, 164.93, 0.192),
    "Er": Element(68, 167.259, 0.189),
    "Tm": Element(69, 168.934, 0.19),
    "Yb": Element(70, 173.054, 0.187),
    "Lu": Element(71, 174.967, 0.187),
    "Hf": Element(72, 178.49, 0.175),
    "Ta": Element(73, 180.948, 0.17),
    "W": Element(74, 183.84, 0.162),
    "Re": Element(75, 186.207, 0.151),
    "Os": Element(76, 190.23, 0.144),
    "Ir": Element(77, 192.217, 0.141),
    "Pt": Element(78, 195.084, 0.136),
    "Au": Element(79, 196.967, 0.136),
    "Hg": Element(80, 200.592, 0.132),
    "Tl": Element(81, 204.38, 0.145),
    "Pb": Element(82, 207.2, 0.146),
    "Bi": Element(83, 208.98, 0.148),
    "Po": Element(84, 208.982, 0.14),
    "At": Element(85, 209.987, 0.15),
    "Rn": Element(86, 222.018, 0.15),
    "Fr": Element(87, 223.02, 0.26),
    "Ra": Element(88, 226.025, 0.221),
    "Ac": Element(89, 227.028, 0.215),
    "Th": Element(90, 232.038, 0.206),
    "Pa": Element(91, 231.036, 0.2),
    "U": Element(92, 238.029, 0.196),
    "Np": Element(93, 237.048, 0.19),
    "Pu": Element(94, 244.064, 0.187),
    "Am": Element(95, 243.061, 0.18),
    "Cm": Element(96, 247.07, 0.169),
    "Bk": Element(97, 247.07, 0.168),
    "Cf": Element(98, 251.08, 0.168),
    "Es": Element(99, 252.083, 0.165),
    "Fm": Element(100, 257.095, 0.167),
    "Md": Element(101, 258.098, 0.173),
    "No": Element(102, 259.101, 0.176),
    "Lr": Element(103, 262.11, 0.161),
    "Rf": Element(104, 267.122, 0.157),
    "Db": Element(105, 268.126, 0.149),
    "Sg": Element(106, 271.134, 0.143),
    "Bh": Element(107, 270.133, 0.141),
    "Hs": Element(108, 269.134, 0.134),
    "Mt": Element(109, 278.156, 0.129),
    "Ds": Element(110, 281.165, 0.128),
    "Rg": Element(111, 281.166, 0.121),
    "Cn": Element(112, 285.177, 0.122),
    "Nh": Element(113, 286.182, 0.136),
    "Fl": Element(114, 289.19, 0.143),
    "Mc": Element(115, 289.194, 0.162),
    "Lv": Element(116, 293.204, 0.175),
    "Ts": Element(117, 293.208, 0.165),
    "Og": Element(118, 294.214, 0.157),
}


def element(symbol: str) -> Element:
    """The element of that symbol.

    Raises:
        TopologyError: If it is not among those known here.
    """
    if symbol not in ELEMENTS:
        raise TopologyError(f'"{symbol}" is not the symbol of an element. Correct it, as in H, C or Cl.')
    return ELEMENTS[symbol]


def masses(topology: Topology) -> Float[Tensor, "atoms"]:
    """Atomic masses in amu, float64.

    Raises:
        TopologyError: If an element is unknown; names the atom.
    """
    return torch.tensor([known.mass for known in _elements(topology)], dtype=torch.float64)


def covalent_lengths(topology: Topology) -> Float[Tensor, "bonds"]:
    """The sum of the covalent radii of each bond's atoms, nm, float64; nan of virtual bonds, which may have any length.

    Raises:
        TopologyError: If an element is unknown; names the atom.
    """
    radii = [known.radius for known in _elements(topology)]
    lengths = [
        math.nan if (first, second) in topology.virtual_bonds else radii[first] + radii[second]
        for first, second in topology.bonds
    ]
    return torch.tensor(lengths, dtype=torch.float64)


def atomic_numbers(topology: Topology) -> list[int]:
    """The atomic number of each atom.

    Raises:
        TopologyError: If an element is unknown; names the atom.
    """
    return [known.number for known in _elements(topology)]


def symbol_of(number: int) -> str:
    """The symbol of an atomic number; the number itself where there is none."""
    return SYMBOLS.get(number, str(number))


SYMBOLS = {known.number: symbol for symbol, known in ELEMENTS.items()}
"""Symbols by atomic number."""


def _elements(topology: Topology) -> list[Element]:
    for i, symbol in enumerate(topology.elements):
        if symbol not in ELEMENTS:
            raise TopologyError(
                f'"{symbol}" of {atom_name(topology, i)} is not the symbol of an element. Correct it, as in H, C or Cl.'
            )
    return [ELEMENTS[symbol] for symbol in topology.elements]
