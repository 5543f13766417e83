"""State functions against ASE's, and the two classical ways against each other where they must agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.thermochemistry import IdealGasThermo
from ase.units import J, mol
from ase.vibrations import VibrationsData
from closed_forms import PEROXIDE, Springs, TwoMinima
from scipy import constants
from smoothflow.analysis.thermodynamics import StandardState, StateFunctions, Vibrations, anharmonic, vibrations
from smoothflow.core.errors import ConfigurationError, GeometryError
from smoothflow.core.potential import Potential, hessian
from smoothflow.core.units import ANGSTROM, ELECTRONVOLT, thermal_energy
from smoothflow.molecules.elements import masses
from torch import Tensor

WATER = torch.tensor([[0.0, 0.0, 0.0], [0.096, 0.0, 0.0], [-0.024, 0.093, 0.0]], dtype=torch.float64)
WATER_MASSES = torch.tensor([15.999, 1.008, 1.008], dtype=torch.float64)


def springs() -> Springs:
    """Water as three springs, at whose lengths it is in its minimum."""
    pairs = [(0, 1), (0, 2), (1, 2)]
    return Springs(pairs, [float((WATER[i] - WATER[j]).norm()) for i, j in pairs], 2e5)


def modes(potential: Potential, positions: Tensor, weights: Tensor) -> Vibrations:
    size = positions.numel()
    second = hessian(potential, positions).reshape(size, size)
    return vibrations(positions, weights, second, float(potential.energy(positions)))


def values(functions: StateFunctions) -> list[float]:
    return [getattr(functions, name).value for name in functions.__dataclass_fields__]


@pytest.mark.parametrize("temperature", [150.0, 298.15, 2000.0])
@pytest.mark.parametrize("pressure", [1.0, 20.0])
def test_quantum_state_functions_are_those_of_ase(temperature: float, pressure: float) -> None:
    found = modes(springs(), WATER, WATER_MASSES)
    second = hessian(springs(), WATER).numpy() * (ANGSTROM**2 / ELECTRONVOLT)
    atoms = Atoms("OHH", WATER.numpy() / ANGSTROM, masses=WATER_MASSES.numpy())
    quanta = VibrationsData(atoms, second).get_energies().real[-3:]
    theirs = IdealGasThermo(quanta, "nonlinear", potentialenergy=0.0, atoms=atoms, symmetrynumber=2, spin=0.0)
    entropy = theirs.get_entropy(temperature, pressure * 1e5, verbose=False) * mol / J
    enthalpy = theirs.get_enthalpy(temperature, verbose=False) * ELECTRONVOLT
    ours = found.quantum(temperature, StandardState(pressure), symmetry_number=2)
    kT = thermal_energy(temperature)
    # constants of CODATA 2014 and of 2019
    assert ours.entropy.value == pytest.approx(entropy, rel=1e-5)
    assert ours.internal_energy.value == pytest.approx(enthalpy - kT, rel=1e-5)
    assert ours.gibbs_energy.value == pytest.approx(enthalpy - temperature * entropy / 1000, rel=1e-5, abs=1e-3)
    assert ours.helmholtz_energy.value == pytest.approx(ours.gibbs_energy.value - kT, abs=1e-9)
    assert found.zero_point_energy == pytest.approx(theirs.get_ZPE_correction() * ELECTRONVOLT, rel=1e-5)
    # a derivative of the energy that was compared above
    step = 1e-3 * temperature
    above, below = (found.quantum(temperature + s, StandardState(), 2).internal_energy.value for s in (step, -step))
    assert ours.heat_capacity.value == pytest.approx(1000 * (above - below) / (2 * step), rel=1e-5)


def test_quantum_vibrations_become_classical_when_it_is_hot() -> None:
    found = modes(springs(), WATER, WATER_MASSES)
    hot = 1e5
    classical, quantum = found.classical(hot, StandardState()), found.quantum(hot, StandardState())
    x = found.frequencies.numpy() * 1e12 * constants.hbar / (constants.k * hot)
    # the first of Wigner's corrections, and the next one, of fourth order
    expected = thermal_energy(hot) * float((x**2).sum()) / 24
    difference = quantum.helmholtz_energy.value - classical.helmholtz_energy.value
    assert difference == pytest.approx(expected, rel=0.05)
    assert classical.heat_capacity.value == pytest.approx(6 * constants.R, rel=1e-9)


def narrow(potential: TwoMinima, kT: float) -> float:
    """log Z of peroxide in one of two minima, were it so cold that nothing but the curvature counts."""
    curvatures = [1e5] * 3 + [400.0] * 2 + [120.0 + potential.b]
    volume = 3 * 2 * math.log(0.12) + 2 * math.log(math.sin(1.8))
    return volume + sum(0.5 * math.log(2 * math.pi * kT / k) for k in curvatures)


@pytest.mark.parametrize("weights", [masses(PEROXIDE), torch.tensor([2.014, 15.999, 130.0, 1.008]).double()])
@pytest.mark.parametrize("temperature", [10.0, 700.0])
def test_harmonic_molecules_have_the_free_energy_of_their_configurational_integral(
    weights: Tensor, temperature: float
) -> None:
    # masses enter the one as frequencies, moments of inertia and their sum, the other as thermal wavelengths alone
    potential, kT = TwoMinima(4.0), thermal_energy(temperature)
    q = torch.tensor([[0.12, 0.12, 0.12, 1.8, 1.8, potential.torsion]], dtype=torch.float64)
    bottom = potential.coordinates.decode(q)[0][0]
    energy = -34.0
    log_z = torch.full((10,), narrow(potential, kT) - energy / kT, dtype=torch.float64)
    standard = StandardState(3.0, "mol/l")
    ours = anharmonic(torch.zeros(10), log_z, weights, temperature, standard, symmetry_number=2)
    theirs = modes(potential, bottom, weights).classical(temperature, standard, symmetry_number=2)
    assert ours.helmholtz_energy.error == 0
    assert ours.helmholtz_energy.value == pytest.approx(theirs.helmholtz_energy.value, abs=1e-8)
    assert values(theirs)[2] == pytest.approx(energy + 9 * kT)
    assert values(theirs)[4] == pytest.approx(9 * constants.R)


def test_a_symmetry_number_lowers_the_entropy_and_nothing_else() -> None:
    energy, weights = torch.linspace(3, 5, 20).double(), torch.linspace(-1, 1, 20).double()
    one, six = (anharmonic(energy, weights, WATER_MASSES, 300.0, StandardState(), n) for n in (1, 6))
    found = [a - b for a, b in zip(values(one), values(six), strict=True)]
    kT = thermal_energy(300.0)
    lower = math.log(6)
    assert found == pytest.approx([-kT * lower, -kT * lower, 0, constants.R * lower, 0], abs=1e-9)


def test_the_standard_states_are_those_of_tables() -> None:
    # 24.79 l/mol at 298.15 K and 1 bar
    litres = StandardState().volume(298.15) * constants.N_A * 1e-24
    assert litres == pytest.approx(24.7896, rel=1e-5)
    assert StandardState(1, "mol/l").volume(298.15) == pytest.approx(StandardState().volume(298.15) / litres)
    assert str(StandardState(0.5, "mol/l")) == "ideal gas at 0.5 mol/l"


@pytest.mark.parametrize(("value", "unit"), [(0.0, "bar"), (-1.0, "bar"), (math.nan, "mol/l"), (1.0, "atm")])
def test_a_standard_state_that_cannot_be_is_refused(value: float, unit: str) -> None:
    with pytest.raises(ConfigurationError, match="standard state"):
        StandardState(value, unit)  # type: ignore[arg-type]


def test_a_saddle_point_and_a_straight_molecule_are_refused() -> None:
    potential = TwoMinima(4.0)
    between = torch.tensor([[0.12, 0.12, 0.12, 1.8, 1.8, potential.torsion + math.pi / 2]], dtype=torch.float64)
    # where the smaller cosine does not push
    potential.b = 0.0
    with pytest.raises(GeometryError, match=r"saddle point \(\d+i 1/cm\)"):
        modes(potential, potential.coordinates.decode(between)[0][0], masses(PEROXIDE))
    straight = torch.tensor(np.diag([0.1, 0.0, 0.0])[[0, 1, 0]] * [[1], [0], [-1]])
    with pytest.raises(GeometryError, match="on a line"):
        vibrations(straight, WATER_MASSES, torch.eye(9, dtype=torch.float64), 0.0)
