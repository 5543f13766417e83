"""Units: nm, kJ/mol, ps, amu, K and radians inside; conversion happens at an engine's border and nowhere else.

With these units energies, masses and velocities are consistent: 1 amu (nm/ps)^2 = 1 kJ/mol.
"""

from __future__ import annotations

from math import pi, sqrt

BOLTZMANN = 0.00831446261815324
"""Boltzmann constant times Avogadro's number, kJ/mol/K (exact in the SI of 2019)."""

ANGSTROM = 0.1
"""One Å in nm."""

ELECTRONVOLT = 96.48533212331002
"""One eV in kJ/mol (exact in the SI of 2019)."""

ELECTRONVOLT_TIME = ANGSTROM / sqrt(ELECTRONVOLT)
"""The unit of time that goes with Å, eV and amu, Å (amu/eV)^1/2, in ps."""

KILOCALORIE = 4.184
"""One kcal/mol in kJ/mol (exact: the thermochemical calorie)."""

BOHR = 0.0529177210903
"""One Bohr radius in nm (CODATA 2018)."""

HARTREE = 2625.4996394798254
"""One hartree in kJ/mol (CODATA 2018)."""

FEMTOSECOND = 0.001
"""One fs in ps."""

PLANCK = 0.3990312712893431
"""Planck constant times Avogadro's number, kJ/mol ps (exact in the SI of 2019)."""

WAVENUMBER = 2 * pi * 0.0299792458
"""The angular frequency of a wave of one 1/cm, rad/ps (exact)."""

BAR = 0.0602214076
"""One bar in kJ/mol/nm^3 (exact in the SI of 2019)."""

MOLAR = 0.602214076
"""One mol/l in molecules per nm^3 (exact in the SI of 2019)."""


def thermal_energy(temperature: float) -> float:
    """kT in kJ/mol at ``temperature`` in K."""
    return BOLTZMANN * temperature
