"""Units against the exact constants of the SI."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import constants
from smoothflow.core import units


def test_constants_are_those_of_the_si() -> None:
    # two of the constants that the SI of 2019 defines, multiplied: rounding is left
    per_mole = constants.Avogadro / constants.kilo
    assert pytest.approx(constants.Boltzmann * per_mole, rel=1e-15) == units.BOLTZMANN
    assert pytest.approx(constants.elementary_charge * per_mole, rel=1e-15) == units.ELECTRONVOLT
    assert pytest.approx(constants.angstrom / constants.nano, rel=1e-15) == units.ANGSTROM
    assert pytest.approx(constants.femto / constants.pico, rel=1e-15) == units.FEMTOSECOND
    assert pytest.approx(constants.calorie, rel=1e-15) == units.KILOCALORIE
    assert pytest.approx(constants.Planck * per_mole / constants.pico, rel=1e-14) == units.PLANCK
    per_centimetre = constants.speed_of_light / constants.centi
    assert pytest.approx(2 * constants.pi * per_centimetre * constants.pico, rel=1e-14) == units.WAVENUMBER
    assert pytest.approx(constants.bar * constants.nano**3 * per_mole, rel=1e-14) == units.BAR
    assert pytest.approx(constants.Avogadro / constants.liter * constants.nano**3, rel=1e-14) == units.MOLAR
    # measured, and told anew every four years in their tenth digit
    hartree = constants.physical_constants["Hartree energy"][0] * constants.Avogadro / constants.kilo
    assert pytest.approx(hartree, rel=1e-9) == units.HARTREE
    assert pytest.approx(constants.physical_constants["Bohr radius"][0] / constants.nano, rel=1e-8) == units.BOHR
    # an acceleration of 1 eV/Å/amu for one such time gives a velocity of one Å in it
    assert pytest.approx(units.ANGSTROM**2, rel=1e-14) == units.ELECTRONVOLT * units.ELECTRONVOLT_TIME**2


def test_masses_velocities_and_energies_are_consistent() -> None:
    # amu (nm/ps)^2 in kJ/mol; the molar mass constant is measured, to 3e-10
    unit = constants.atomic_mass * (constants.nano / constants.pico) ** 2 * constants.Avogadro / constants.kilo
    assert unit == pytest.approx(1, rel=2e-9)


@given(st.floats(0, 1e6), st.floats(0, 1e3))
def test_thermal_energy_is_proportional_to_temperature(temperature: float, factor: float) -> None:
    expected = factor * units.thermal_energy(temperature)
    assert units.thermal_energy(factor * temperature) == pytest.approx(expected, rel=1e-12, abs=1e-300)
    assert units.thermal_energy(temperature) == units.BOLTZMANN * temperature
