"""A potential as an ASE calculator, in ASE."""

from __future__ import annotations

import math

import ase
import ase.units
import numpy as np
import pytest
import torch
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.vibrations import Vibrations
from smoothflow.backends.engines.ase import SmoothflowCalculator
from smoothflow.core.errors import ConfigurationError, SimulationError, TopologyError
from smoothflow.core.potential import Potential
from torch import Tensor

EV = 96.48533212  # kJ/mol, CODATA 2018


class Diatomic(Potential):
    """A harmonic bond of 0.11 nm, k in kJ/mol/nm^2."""

    stiffness = 1e6

    def __init__(self) -> None:
        super().__init__()
        self.shape = (2, 3)

    def energy(self, positions: Tensor) -> Tensor:
        return 0.5 * self.stiffness * ((positions[:, 1] - positions[:, 0]).norm(dim=-1) - 0.11) ** 2


def atoms_of(chain: Potential, positions: Tensor) -> ase.Atoms:
    atoms = ase.Atoms("CNOH", positions=10 * positions.numpy())
    atoms.calc = SmoothflowCalculator(chain)
    return atoms


def test_units_are_ev_and_angstrom(chain: Potential, chain_positions: Tensor) -> None:
    atoms = atoms_of(chain, chain_positions[0])
    energy, forces = chain.energy_and_forces(chain_positions[:1])
    assert atoms.get_potential_energy() == pytest.approx(energy.item() / EV, rel=1e-9)  # digits of EV above
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_forces(), forces[0].numpy() / (10 * EV), rtol=1e-9)


def test_one_evaluation_serves_energy_and_forces_until_something_moves(
    chain: Potential, chain_positions: Tensor
) -> None:
    atoms = atoms_of(chain, chain_positions[0])
    for _ in range(2):
        atoms.get_potential_energy()
        atoms.get_forces()
    assert chain.n_evaluations == 1
    first = atoms.get_potential_energy()
    atoms.positions[0, 0] += 0.01
    assert atoms.get_potential_energy() != first
    assert chain.n_evaluations == 2


def test_a_diatomic_vibrates_at_its_frequency(tmp_path: str) -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [1.1, 0, 0]])
    atoms.calc = SmoothflowCalculator(Diatomic())
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.001)
    vibrations.run()
    # omega = sqrt(k / mu) is in 1/ps with k in kJ/mol/nm^2 and mu in amu; c in cm/ps
    mu = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    expected = math.sqrt(Diatomic.stiffness / mu) / (2 * math.pi * 0.0299792458)
    assert vibrations.get_frequencies()[-1].real == pytest.approx(expected, rel=1e-5)  # finite differences of 1e-3 Å


def test_an_optimizer_finds_the_minimum() -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [1.3, 0.1, 0]])
    atoms.calc = SmoothflowCalculator(Diatomic())
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=50)
    assert atoms.get_distance(0, 1) == pytest.approx(1.1, abs=1e-5)  # fmax / k


def test_ase_dynamics_keeps_the_period_of_a_diatomic() -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [1.11, 0, 0]])
    atoms.calc = SmoothflowCalculator(Diatomic())
    mu = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    period = 2 * math.pi / math.sqrt(Diatomic.stiffness / mu) * 1000 * ase.units.fs  # of ps
    VelocityVerlet(atoms, period / 400).run(400)
    # the discrete oscillator is early by (omega dt)^2 / 24 of a period, 1e-5, and cosine is flat
    assert atoms.get_distance(0, 1) == pytest.approx(1.11, abs=1e-7)


def test_periodic_boundaries_are_refused(chain: Potential, chain_positions: Tensor) -> None:
    atoms = atoms_of(chain, chain_positions[0])
    atoms.set_cell([10, 10, 10])
    atoms.pbc = (False, True, False)
    with pytest.raises(ConfigurationError, match=r"atoms\.pbc = False"):
        atoms.get_potential_energy()


def test_elements_and_their_order_are_checked(chain: Potential, chain_positions: Tensor) -> None:
    atoms = ase.Atoms("CONH", positions=10 * chain_positions[0].numpy(), calculator=SmoothflowCalculator(chain))
    with pytest.raises(TopologyError, match="atom 1 is N in the first and O in the second"):
        atoms.get_forces()
    atoms = ase.Atoms("CNO", positions=10 * chain_positions[0, :3].numpy(), calculator=SmoothflowCalculator(chain))
    with pytest.raises(TopologyError, match="has 4 atoms and the Atoms object has 3"):
        atoms.get_forces()


def test_numbers_that_are_not_finite_are_named(not_finite: Potential, chain_positions: Tensor) -> None:
    x = chain_positions[0].clone()
    x[0, 0] = 2.0
    with pytest.raises(SimulationError, match=r"the force on atom 0 \(MOL1-C1\) is not finite"):
        atoms_of(not_finite, x).get_forces()


def test_a_potential_that_is_no_molecule_is_refused() -> None:
    toy = Diatomic()
    toy.shape = (2,)
    with pytest.raises(ConfigurationError, match="no molecule's"):
        SmoothflowCalculator(toy)


def test_float32_potentials_are_given_float32(chain: Potential, chain_positions: Tensor) -> None:
    single = type(chain)(torch.float32)
    energy = atoms_of(single, chain_positions[0]).get_potential_energy()
    # rounding of float32 positions (1e-8 nm) under forces of 1e4 kJ/mol/nm
    assert energy == pytest.approx(atoms_of(chain, chain_positions[0]).get_potential_energy(), rel=1e-4)
    assert energy != atoms_of(chain, chain_positions[0]).get_potential_energy()
