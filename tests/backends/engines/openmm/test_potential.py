"""OpenMM as a potential, against OpenMM itself and finite differences."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import openmm
import pytest
import torch
from openmm import app, unit
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.backends.engines.openmm.potential import fastest_platform
from smoothflow.core.errors import ConfigurationError, GeometryError, TopologyError, UnknownNameError
from smoothflow.core.topology import Atom, Topology
from torch import Tensor

F64 = torch.float64


def argon(n_atoms: int = 2) -> tuple[openmm.System, Topology]:
    """Argon atoms that a harmonic spring holds together."""
    system = openmm.System()
    spring = openmm.HarmonicBondForce()
    for i in range(n_atoms):
        system.addParticle(39.948)
        if i:
            spring.addBond(i - 1, i, 0.3, 1000.0)
    system.addForce(spring)
    return system, Topology(tuple(Atom("Ar", f"AR{i}", "AR", i) for i in range(n_atoms)), ())


def test_energies_and_forces_are_those_of_openmm(amber: OpenMMPotential, pdb: Any, positions: Tensor) -> None:
    # a System and a Context made without our code, and units taken off properly
    force_field = app.ForceField("amber99sbildn.xml", "amber99_obc.xml")
    system = force_field.createSystem(pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None, rigidWater=False)
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), reference)
    energies, forces = amber.energy_and_forces(positions)
    for i, configuration in enumerate(positions.tolist()):
        context.setPositions(configuration * unit.nanometer)
        state = context.getState(energy=True, forces=True)
        energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        force = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        # the same sums in the same order
        assert energies[i].item() == pytest.approx(energy, rel=1e-13)
        torch.testing.assert_close(forces[i], torch.tensor(force), rtol=1e-12, atol=1e-10)


def test_gradient_is_the_finite_difference_of_the_energy(amber: OpenMMPotential, positions: Tensor) -> None:
    x = positions.clone().requires_grad_(True)
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    (gradient,) = torch.autograd.grad((weights * amber.energy(x)).sum(), x)
    step = 1e-5
    direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    plus, minus = amber.energy(positions + step * direction), amber.energy(positions - step * direction)
    slope = (weights * (plus - minus)).sum() / (2 * step)
    # third derivatives of a bond are ~1e8 kJ/mol/nm^3, times step^2
    assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-6, abs=0.05)


def test_gradient_reaches_what_the_positions_were_made_from(amber: OpenMMPotential, positions: Tensor) -> None:
    scale = torch.tensor(1.0, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(amber.energy(scale * positions).sum(), scale)
    _, forces = amber.energy_and_forces(positions)
    assert gradient.item() == pytest.approx(-(forces * positions).sum().item(), rel=1e-12)


def test_second_derivatives_are_refused(amber: OpenMMPotential, positions: Tensor) -> None:
    x = positions.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(amber.energy(x).sum(), x, create_graph=True)
    with pytest.raises(ConfigurationError, match="Second derivatives"):
        torch.autograd.grad((gradient**2).sum(), x)


def test_answers_have_the_precision_of_the_question(amber: OpenMMPotential, positions: Tensor) -> None:
    energy, forces = amber.energy_and_forces(positions.float())
    assert energy.dtype == forces.dtype == torch.float32
    assert amber.energy(positions.float()).dtype == torch.float32


def test_a_copy_and_a_pickle_compute_the_same(amber: OpenMMPotential, positions: Tensor) -> None:
    energy = amber.energy(positions)  # so that there is a Context, which cannot be copied
    for other in (copy.deepcopy(amber), pickle.loads(pickle.dumps(amber))):
        assert torch.equal(other.energy(positions), energy)


def test_the_platform_named_is_the_one_used(positions: Tensor, amber: OpenMMPotential) -> None:
    potential = OpenMMPotential(amber.system, amber.topology, "CPU")
    energy = potential.energy(positions)
    assert potential._context.getPlatform().getName() == "CPU"
    # the CPU platform computes in float32
    torch.testing.assert_close(energy, amber.energy(positions), rtol=1e-5, atol=1e-3)


def test_the_platform_chosen_is_the_one_that_was_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    system, _ = argon()
    positions = torch.zeros(2, 3, dtype=F64).numpy()
    durations = {"Reference": 2.0, "CPU": 1.0}
    clock = {"now": 0.0}
    evaluate = "smoothflow.backends.engines.openmm.potential._evaluate"

    def slow_evaluation(context: Any, positions: Any) -> None:
        clock["now"] += durations[context.getPlatform().getName()]

    monkeypatch.setattr(evaluate, slow_evaluation)
    monkeypatch.setattr("time.perf_counter", lambda: clock["now"])
    monkeypatch.setenv("OPENMM_DEFAULT_PLATFORM", "CPU")
    assert fastest_platform(system, positions) == "CPU"
    durations["CPU"] = 3.0
    assert fastest_platform(system, positions) == "Reference"
    # a large System is left to OpenMM
    large, _ = argon(150)
    assert fastest_platform(large, torch.zeros(150, 3, dtype=F64).numpy()) == "CPU"


def test_a_periodic_system_is_refused() -> None:
    system, topology = argon()
    force = openmm.NonbondedForce()
    force.setNonbondedMethod(openmm.NonbondedForce.PME)
    for _ in range(2):
        force.addParticle(0.0, 0.3, 1.0)
    system.addForce(force)
    with pytest.raises(ConfigurationError, match="periodic"):
        OpenMMPotential(system, topology)


def test_a_constrained_system_is_refused() -> None:
    system, topology = argon()
    system.addConstraint(0, 1, 0.3)
    with pytest.raises(ConfigurationError, match="1 constraints"):
        OpenMMPotential(system, topology)


def test_a_barostat_or_thermostat_is_refused_and_the_center_of_mass_remover_left_out() -> None:
    system, topology = argon()
    system.addForce(openmm.CMMotionRemover())
    assert OpenMMPotential(system, topology).system.getNumForces() == 1
    assert system.getNumForces() == 2  # the caller's System is as it was
    system.addForce(openmm.AndersenThermostat(300, 1))
    with pytest.raises(ConfigurationError, match="AndersenThermostat"):
        OpenMMPotential(system, topology)


def test_number_and_order_of_atoms_are_checked(amber: OpenMMPotential) -> None:
    system, _ = argon()
    with pytest.raises(TopologyError, match="2 particles and the topology 22 atoms"):
        OpenMMPotential(system, amber.topology)
    swapped = list(amber.topology.atoms)
    swapped[0], swapped[1] = swapped[1], swapped[0]
    with pytest.raises(TopologyError, match=r"atom 0 .* which is not that of [CH]\."):
        OpenMMPotential(amber.system, Topology(tuple(swapped), ()))


def test_repartitioned_hydrogen_masses_are_accepted(pdb: Any) -> None:
    force_field = app.ForceField("amber99sbildn.xml", "amber99_obc.xml")
    system = force_field.createSystem(pdb.topology, hydrogenMass=3.0)
    assert OpenMMPotential(system, pdb.topology).shape == (22, 3)


def test_an_unknown_platform_is_refused() -> None:
    with pytest.raises(UnknownNameError, match='Did you mean "Reference"'):
        OpenMMPotential(*argon(), platform="Referenz")


def test_positions_that_are_not_finite_are_named(amber: OpenMMPotential, positions: Tensor) -> None:
    positions[1, 3, 0] = torch.nan
    with pytest.raises(GeometryError, match=r"configuration 1 the position of atom 3 \("):
        amber.energy(positions)


def test_another_number_of_atoms_is_refused(amber: OpenMMPotential, positions: Tensor) -> None:
    with pytest.raises(ConfigurationError, match=r"\(3, 21, 3\); the potential needs \(batch, 22, 3\)"):
        amber.energy(positions[:, :-1])
