"""A potential as an ASE calculator, in ASE."""

from __future__ import annotations

import math
import subprocess
import sys

import ase
import ase.units
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from ase.mep import NEB
from ase.optimize import BFGS
from ase.vibrations import Vibrations, VibrationsData
from closed_forms import DoubleWell, Springs
from smoothflow import FlowPotential
from smoothflow.backends.engines import ase as backend
from smoothflow.backends.engines.ase import ASEPotential, SmoothflowCalculator
from smoothflow.core.committee import CommitteePotential
from smoothflow.core.errors import (
    ConfigurationError,
    GeometryError,
    MissingDependencyError,
    SimulationError,
    TopologyError,
)
from smoothflow.core.potential import Potential
from torch import Tensor

EV = 96.48533212  # kJ/mol, CODATA 2018
STIFFNESS = 1e6
DIATOMIC = ([(0, 1)], 0.11, STIFFNESS)
"""A bond of 0.11 nm; kJ/mol/nm^2."""


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
    atoms.calc = SmoothflowCalculator(Springs(*DIATOMIC))
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=0.001)
    vibrations.run()
    # omega = sqrt(k / mu) is in 1/ps with k in kJ/mol/nm^2 and mu in amu; c in cm/ps
    mu = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    expected = math.sqrt(STIFFNESS / mu) / (2 * math.pi * 0.0299792458)
    assert vibrations.get_frequencies()[-1].real == pytest.approx(expected, rel=1e-5)  # finite differences of 1e-3 Å


def test_an_optimizer_finds_the_minimum() -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [1.3, 0.1, 0]])
    atoms.calc = SmoothflowCalculator(Springs(*DIATOMIC))
    assert BFGS(atoms, logfile=None).run(fmax=1e-4, steps=50)
    assert atoms.get_distance(0, 1) == pytest.approx(1.1, abs=1e-5)  # fmax / k


def test_ase_dynamics_keeps_the_period_of_a_diatomic() -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [1.11, 0, 0]])
    atoms.calc = SmoothflowCalculator(Springs(*DIATOMIC))
    mu = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    period = 2 * math.pi / math.sqrt(STIFFNESS / mu) * 1000 * ase.units.fs  # of ps
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
    atoms = atoms_of(not_finite, chain_positions[0])
    atoms.get_forces()
    for x, what in ((20.0, "force on"), (np.nan, "position of")):
        atoms.positions[0, 0] = x
        for _ in range(2):  # nothing is kept of a calculation that failed
            with pytest.raises(SimulationError, match=rf"the {what} atom 0 \(MOL1-C1\) is not finite"):
                atoms.get_forces()


def test_a_potential_without_a_molecule_is_refused() -> None:
    toy = Springs(*DIATOMIC)
    toy.shape = (2,)
    with pytest.raises(ConfigurationError, match="not a molecule's"):
        SmoothflowCalculator(toy)


def test_float32_potentials_are_given_float32(chain: Potential, chain_positions: Tensor) -> None:
    single = type(chain)(torch.float32)
    energy = atoms_of(single, chain_positions[0]).get_potential_energy()
    # rounding of float32 positions (1e-8 nm) under forces of 1e4 kJ/mol/nm
    assert energy == pytest.approx(atoms_of(chain, chain_positions[0]).get_potential_energy(), rel=1e-4)
    assert energy != atoms_of(chain, chain_positions[0]).get_potential_energy()


def test_a_hessian_is_that_of_finite_differences_in_ase(flow: FlowPotential, positions: Tensor, tmp_path: str) -> None:
    atoms = ase.Atoms(flow.topology.elements, 10 * positions[0].numpy(), calculator=SmoothflowCalculator(flow))
    found = atoms.calc.get_hessian(atoms)
    vibrations = Vibrations(atoms, name=str(tmp_path / "vib"), delta=1e-5)
    vibrations.run()
    expected = vibrations.get_vibrations().get_hessian()
    # eV/Å^2; the error of the differences falls with delta^2, from 4.5 at 5e-4 Å
    assert abs(found).max() > 10
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    # rounding of sums of 1e2
    np.testing.assert_allclose(found.reshape(66, 66), found.reshape(66, 66).T, rtol=0, atol=1e-9)
    # nothing changes when the molecule is moved as a whole
    np.testing.assert_allclose(found.sum(2), 0, atol=1e-8)


def test_vibrations_from_the_hessian_have_the_frequency_of_a_diatomic() -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [1.1, 0, 0]], calculator=SmoothflowCalculator(Springs(*DIATOMIC)))
    frequencies = VibrationsData(atoms, atoms.calc.get_hessian(atoms)).get_frequencies()
    mu = np.prod(atoms.get_masses()) / atoms.get_masses().sum()
    expected = math.sqrt(STIFFNESS / mu) / (2 * math.pi * 0.0299792458)
    assert frequencies[-1].real == pytest.approx(expected, rel=1e-6)  # ASE's constants are of CODATA 2014


def test_a_hessian_is_refused_as_forces_are(flow: FlowPotential, chain: Potential, chain_positions: Tensor) -> None:
    atoms = atoms_of(ASEPotential(EMT(), ase.Atoms("CNOH")), chain_positions[0])
    with pytest.raises(ConfigurationError, match="Second derivatives"):
        atoms.calc.get_hessian(atoms)
    atoms = atoms_of(chain, chain_positions[0])
    with pytest.raises(TopologyError, match="has 22 atoms and the Atoms object has 4"):
        SmoothflowCalculator(flow).get_hessian(atoms)
    atoms.pbc = True
    with pytest.raises(ConfigurationError, match=r"atoms\.pbc = False"):
        atoms.calc.get_hessian(atoms)


class Corner(Springs):
    """The bond, with a term that has no second derivative where the first atom is at the origin."""

    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + positions[:, 0, 0].abs() ** 1.5


def test_a_hessian_that_is_not_finite_is_refused() -> None:
    atoms = ase.Atoms("CO", positions=[[0, 0, 0], [1.1, 0, 0]], calculator=SmoothflowCalculator(Corner(*DIATOMIC)))
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(SimulationError, match="second derivatives of the energy are not finite"):
        atoms.calc.get_hessian(atoms)


@pytest.mark.parametrize("shared", [False, True])
def test_a_nudged_elastic_band_finds_the_barrier(shared: bool) -> None:
    images = [ase.Atoms("H", positions=[[x, 0, 0]]) for x in np.linspace(-1, 1, 5)]
    calculator = SmoothflowCalculator(DoubleWell())
    for image in images:
        image.calc = calculator if shared else SmoothflowCalculator(DoubleWell())
    band = NEB(images, climb=True, method="improvedtangent", allow_shared_calculator=shared)
    assert BFGS(band, logfile=None).run(fmax=1e-3, steps=100)
    np.testing.assert_allclose(images[2].positions, [[0, 0.3, 0]], atol=1e-3)  # fmax over the curvature
    assert images[2].get_potential_energy() * EV == pytest.approx(20, abs=1e-4)


@pytest.mark.parametrize(
    ("factor", "message"), [(10.0, "positions in Å seem to have been taken for nm"), (0.1, "Multiply them by 10")]
)
def test_positions_in_another_unit_are_seen_at_the_first_evaluation(
    chain: Potential, chain_positions: Tensor, factor: float, message: str
) -> None:
    atoms = atoms_of(chain, factor * chain_positions[0])
    for _ in range(2):
        with pytest.raises(GeometryError, match=message):
            atoms.get_potential_energy()
    atoms.positions /= factor
    atoms.get_potential_energy()


def test_equal_elements_in_another_order_are_seen_in_their_distances(flow: FlowPotential, positions: Tensor) -> None:
    names = [str(atom) for atom in flow.topology.atoms]
    i, j = names.index("ACE1-CH3"), names.index("NME3-C")
    x = 10 * positions[0].numpy()
    x[[i, j]] = x[[j, i]]
    atoms = ase.Atoms(flow.topology.elements, x, calculator=SmoothflowCalculator(flow))
    with pytest.raises(GeometryError, match="Check the order of the atoms"):
        atoms.get_potential_energy()


def test_ase_finds_the_calculator_among_its_plugins() -> None:
    # ASE has plug-ins from 3.29 on; before, the calculator is imported
    pytest.importorskip("ase._4.plugins")
    # in a process of its own: ASE looks once, and other tests hide things from it
    program = """
from ase._4.plugins import plugins
(plugin,) = (plugin for plugin in plugins.calculators if plugin.name == "smoothflow")
print(plugin.package, plugin().__name__)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["smoothflow", "SmoothflowCalculator"]


def test_ase_absent_or_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.delattr("ase.calculators.calculator.BaseCalculator")
        with pytest.raises(ConfigurationError, match=rf"ASE {ase.__version__} has no BaseCalculator"):
            _ = backend.SmoothflowCalculator
    monkeypatch.setitem(sys.modules, "ase", None)
    with pytest.raises(MissingDependencyError, match=r"smoothflow\[ase\]"):
        _ = backend.SmoothflowCalculator


def test_a_committee_tells_its_spread_beside_mean_energy_and_forces(chain: Potential, chain_positions: Tensor) -> None:
    other = Springs([(0, 1), (1, 2), (2, 3), (0, 3)], 0.13, 3e4, chain.topology)
    committee = CommitteePotential([chain, other])
    atoms = ase.Atoms("CNOH", positions=10 * chain_positions[0].numpy())
    atoms.calc = SmoothflowCalculator(committee)
    energies, forces = zip(*(member.energy_and_forces(chain_positions[0]) for member in (chain, other)), strict=True)
    n_before = chain.n_evaluations
    assert atoms.get_potential_energy() == pytest.approx(float(sum(energies)) / 2 / EV, rel=1e-9)
    np.testing.assert_allclose(atoms.get_forces(), (forces[0] + forces[1]).numpy() / 2 / (10 * EV), rtol=1e-9)
    # of two numbers the standard deviation is their distance over the root of 2
    apart = float((energies[0] - energies[1]).abs()) / math.sqrt(2)
    assert atoms.calc.results["energy_std"] == pytest.approx(apart / EV, rel=1e-9)
    distance = (forces[0] - forces[1]).norm(dim=-1).numpy() / math.sqrt(2)
    np.testing.assert_allclose(atoms.calc.results["forces_std"], distance / (10 * EV), rtol=1e-9)
    assert chain.n_evaluations == n_before + 1
    assert "energy_percentile" not in atoms.calc.results


def test_a_single_potential_has_no_spread_and_percentiles_if_asked(chain: Potential, chain_positions: Tensor) -> None:
    atoms = ase.Atoms("CNOH", positions=10 * chain_positions[0].numpy())
    energy = float(chain.energy(chain_positions[0]))
    atoms.calc = SmoothflowCalculator(chain, percentiles=lambda energies: 2 * energies)
    atoms.get_potential_energy()
    assert atoms.calc.results["energy_percentile"] == pytest.approx(2 * energy)
    assert "energy_std" not in atoms.calc.results
    atoms.calc = SmoothflowCalculator(chain)
    atoms.get_potential_energy()
    assert set(atoms.calc.results) == {"energy", "free_energy", "forces"}
