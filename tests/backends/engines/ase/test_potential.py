"""ASE calculators as potentials, against ASE itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import tblite.ase
import torch
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from smoothflow.backends.engines.ase import ASEPotential, SmoothflowCalculator, ase_provider
from smoothflow.core.errors import ConfigurationError, FileFormatError, MissingDependencyError, SimulationError
from smoothflow.core.potential import Potential
from smoothflow.molecules.shipped import molecule_path
from tblite.interface import Calculator
from torch import Tensor

F64 = torch.float64


@pytest.fixture
def copper() -> ase.Atoms:
    x = np.array([[0, 0, 0], [2.5, 0, 0], [1.2, 2.2, 0], [1.3, 0.7, 2.1]])
    return ase.Atoms("Cu3Au", positions=x)


def batch(atoms: ase.Atoms) -> Tensor:
    """Three configurations, nm."""
    x = torch.tensor(0.1 * atoms.positions)
    return x + 0.005 * torch.randn(3, *x.shape, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("calculator", [EMT(), LennardJones(sigma=2.3, epsilon=0.4, rc=12.0)], ids=["emt", "lj"])
def test_energies_and_forces_are_those_of_ase(copper: ase.Atoms, calculator: Any) -> None:
    x = batch(copper)
    energies, forces = ASEPotential(calculator, copper).energy_and_forces(x)
    for i, configuration in enumerate(x):
        atoms = ase.Atoms(copper.symbols, positions=10 * configuration.numpy(), calculator=calculator)
        # eV and Å to kJ/mol and nm by ASE's own units, which are of CODATA 2014: 1e-8 apart
        energy = atoms.get_potential_energy(force_consistent=True) / (ase.units.kJ / ase.units.mol)
        force = atoms.get_forces() / (ase.units.kJ / ase.units.mol / ase.units.nm)
        assert energies[i].item() == pytest.approx(energy, rel=1e-7)
        np.testing.assert_allclose(forces[i].numpy(), force, rtol=1e-7, atol=1e-8)


def test_a_quantum_chemical_method_of_another_package() -> None:
    water = molecule_path("water")
    potential = ase_provider("tblite:GFN2-xTB", water)
    x = batch(ase.io.read(water))
    energies, forces = potential.energy_and_forces(x)
    for i, configuration in enumerate(x):
        # tblite's own interface, in atomic units
        calculator = Calculator("GFN2-xTB", np.array([8, 1, 1]), configuration.numpy() * 10 / ase.units.Bohr)
        calculator.set("verbosity", 0)
        found = calculator.singlepoint()
        kj, nm = ase.units.kJ / ase.units.mol, ase.units.nm
        # converged to 1e-6 Hartree in the energy, and as much less in the forces as is usual
        assert energies[i].item() == pytest.approx(found.get("energy") * ase.units.Hartree / kj, abs=3e-3)
        expected = -found.get("gradient") * ase.units.Hartree / ase.units.Bohr / kj * nm
        np.testing.assert_allclose(forces[i].numpy(), expected, atol=0.5)


def test_gradient_is_the_finite_difference_of_the_energy(copper: ase.Atoms) -> None:
    potential = ASEPotential(EMT(), copper)
    x = batch(copper).requires_grad_(True)
    (gradient,) = torch.autograd.grad(potential.energy(x).sum(), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    plus, minus = (potential.energy(x.detach() + s * 1e-6 * direction).sum() for s in (1, -1))
    # third derivatives of ~1e6 kJ/mol/nm^3 times 1e-12, and rounding of the energies over 2e-6
    assert (gradient * direction).sum().item() == pytest.approx(((plus - minus) / 2e-6).item(), rel=1e-6)


def test_the_way_to_ase_and_back_is_the_identity(chain: Potential, chain_positions: Tensor) -> None:
    potential = ASEPotential(SmoothflowCalculator(chain), ase.Atoms("CNOH", positions=np.eye(4, 3)))
    for ours, theirs in zip(
        chain.energy_and_forces(chain_positions), potential.energy_and_forces(chain_positions), strict=True
    ):
        torch.testing.assert_close(theirs, ours, rtol=1e-12, atol=1e-10)  # positions are multiplied by 10 and 0.1


def test_provider_reads_a_structure(structure: Path, amber: Potential) -> None:
    potential = ase_provider("lj", structure)
    assert potential.topology.elements == amber.topology.elements
    assert [a.residue_name for a in potential.topology.atoms] == [a.residue_name for a in amber.topology.atoms]
    assert isinstance(ase_provider("ase.calculators.emt:EMT", structure).calculator, EMT)


def test_objects_that_are_not_calculators_are_refused(structure: Path) -> None:
    for name in ("emmt", "no.such.module:Class", "ase.calculators.emt:Nothing", ""):
        with pytest.raises(ConfigurationError, match="There is no ASE calculator"):
            ase_provider(name, structure)
    with pytest.raises(ConfigurationError, match="cannot be made without arguments"):
        ase_provider("ase.calculators.singlepoint:SinglePointCalculator", structure)


def test_files_that_are_missing_or_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="There is no file"):
        ase_provider("emt", tmp_path / "nowhere.pdb")
    text = tmp_path / "text.xyz"
    text.write_text("not a molecule\n")
    with pytest.raises(FileFormatError, match=r"ASE cannot read .*text\.xyz"):
        ase_provider("emt", text)


def test_periodic_boundaries_are_refused(copper: ase.Atoms) -> None:
    copper.pbc = True
    with pytest.raises(ConfigurationError, match=r"atoms\.pbc = False"):
        ASEPotential(EMT(), copper)


def test_a_calculator_without_forces_is_refused(copper: ase.Atoms) -> None:
    with pytest.raises(ConfigurationError, match="gives no forces"):
        ASEPotential(SinglePointCalculator(copper, energy=1.0), copper)


def test_a_calculator_that_fails_says_why() -> None:
    potential = ASEPotential(EMT(), ase.Atoms("Xe2", positions=[[0, 0, 0], [4, 0, 0]]))
    with pytest.raises(SimulationError, match=r"EMT failed .*Xe"):
        potential.energy(torch.zeros(1, 2, 3, dtype=F64))


@pytest.mark.parametrize(("module", "argument", "package"), [("ase", "emt", "ase"), ("tblite.ase", "tblite", "tblite")])
def test_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch, structure: Path, module: str, argument: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=rf'package "{package}".*smoothflow\[{package}\]'):
        ase_provider(argument, structure)


@pytest.fixture
def acetate(tmp_path: Path) -> Path:
    """A PDB file with the charge in its columns."""
    rows = [
        ("C1", "C", "", -0.636, -0.078, -0.001),
        ("C2", "C", "", 0.872, 0.100, 0.001),
        ("O1", "O", "", 1.541, -0.963, -0.122),
        ("O2", "O", "1-", 1.265, 1.294, 0.126),
        ("H1", "H", "", -1.054, 0.293, 0.940),
        ("H2", "H", "", -0.913, -1.130, -0.112),
        ("H3", "H", "", -1.074, 0.485, -0.831),
    ]
    lines = [
        f"HETATM{i:5d}  {name:3} UNL A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00          {element:>2}{charge}"
        for i, (name, element, charge, x, y, z) in enumerate(rows, start=1)
    ]
    path = tmp_path / "acetate.pdb"
    path.write_text("\n".join([*lines, "CONECT    1    2    5    6    7", "CONECT    2    3    4", "END", ""]))
    return path


def test_charges_of_a_file_reach_the_calculator(acetate: Path) -> None:
    atoms = ase.io.read(acetate)
    atoms.calc = tblite.ase.TBLite(method="GFN2-xTB", charge=-1, verbosity=0)
    expected = atoms.get_potential_energy()
    positions = torch.from_numpy(atoms.positions / 10)[None]
    for argument in ("tblite", "tblite:GFN2-xTB,charge=-1", "tblite:GFN2-xTB,charge=-1,multiplicity=1"):
        found = ase_provider(argument, acetate).energy(positions)
        assert float(found) * ase.units.kJ / ase.units.mol == pytest.approx(
            expected, rel=1e-7
        )  # CODATA 2014 there, and SCF


def test_charges_that_cannot_be_are_refused(acetate: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"31 electrons.*--charge -1.*--multiplicity 2"):
        ase_provider("tblite,charge=0", acetate)
    with pytest.raises(ConfigurationError, match="32 electrons"):
        ase_provider("tblite,charge=-1,multiplicity=2", acetate)
    ase_provider("tblite,charge=0,multiplicity=2", acetate)
    acetate.write_text(acetate.read_text().replace("O1-", "O  "))
    with pytest.raises(ConfigurationError, match=r"seems to have charge -1: carboxylate UNL1-C2.*--charge -1"):
        ase_provider("tblite", acetate)
    with pytest.raises(ConfigurationError, match='"emt" takes no charge'):
        ase_provider("emt,charge=-1", acetate)
    with pytest.raises(ConfigurationError, match="neither charge=NUMBER"):
        ase_provider("tblite,charge=minus", acetate)
