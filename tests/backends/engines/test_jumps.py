"""Jumps in simulations of OpenMM and ASE: what they refuse, and that velocities and forces stay right."""

from __future__ import annotations

import copy
from typing import Any

import ase
import ase.units
import numpy as np
import openmm
import pytest
from ase.constraints import FixAtoms
from ase.md.langevin import Langevin
from openmm import app, unit
from smoothflow.backends.engines.ase import ASEJumps, SmoothflowCalculator
from smoothflow.backends.engines.openmm import OpenMMJumps
from smoothflow.core.errors import ConfigurationError, TopologyError
from smoothflow.core.units import ANGSTROM
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.shipped import load

PDB = molecule_path("capped-alanine")


@pytest.fixture(scope="module")
def model() -> FlowPotential:
    """The poorest of the shipped models."""
    return load("ala2-affine")


def simulation(constraints: Any = None, integrator: Any = None) -> app.Simulation:
    pdb = app.PDBFile(str(PDB))
    amber = app.ForceField("amber99sbildn.xml", "amber99_obc.xml")
    system = amber.createSystem(pdb.topology, nonbondedMethod=app.NoCutoff, constraints=constraints)
    if integrator is None:
        integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
        integrator.setRandomNumberSeed(5)
    made = app.Simulation(pdb.topology, system, integrator, openmm.Platform.getPlatform("Reference"))
    made.context.setPositions(pdb.positions)
    made.minimizeEnergy()
    made.context.setVelocitiesToTemperature(300.0, 7)
    return made


def test_jumps_in_openmm_bring_velocities_to_the_instant_of_the_positions_and_back(model: FlowPotential) -> None:
    run = simulation()
    run.step(200)
    jumps = OpenMMJumps(run, model, seed=2)
    masses = np.array([run.system.getParticleMass(i)._value for i in range(22)])[:, None]

    def at_the_instant() -> tuple[np.ndarray, np.ndarray]:
        state = run.context.getState(positions=True, velocities=True, forces=True)
        kick = 0.5 * 0.001 * state.getForces(asNumpy=True)._value / masses
        return state.getPositions(asNumpy=True)._value, state.getVelocities(asNumpy=True)._value + kick

    for _ in range(40):
        (x, v), made = at_the_instant(), jumps.attempt(5)
        after_x, after_v = at_the_instant()
        np.testing.assert_allclose(after_v, v, rtol=0, atol=1e-12)
        assert (made == 0) == np.array_equal(after_x, x)
        np.testing.assert_allclose(after_x.mean(0), x.mean(0), atol=1e-12)
        run.step(20)
        if jumps.accepted:
            break
    assert 0 < jumps.accepted <= jumps.attempted


def test_jumps_in_ase_of_a_model_on_its_own_energy_are_all_made_and_keep_the_temperature(model: FlowPotential) -> None:
    pdb = app.PDBFile(str(PDB))
    atoms = ase.Atoms([a.element.symbol for a in pdb.topology.atoms()], np.array(pdb.positions._value) / ANGSTROM)
    x, _ = model.sample(1, seed=4)
    atoms.set_positions(x[0].numpy() / ANGSTROM)
    atoms.calc = SmoothflowCalculator(model)
    rng = np.random.default_rng(3)
    dynamics = Langevin(
        atoms, 0.5 * ase.units.fs, temperature_K=300, friction=0.02 / ase.units.fs, fixcm=False, rng=rng
    )
    jumps = ASEJumps(atoms, model, temperature=300.0, n=2, seed=1)
    dynamics.attach(jumps, interval=5)
    kinetic = []
    dynamics.attach(lambda: kinetic.append(atoms.get_kinetic_energy() / (1.5 * 22 * ase.units.kB)), interval=1)
    dynamics.run(400)
    assert jumps.accepted == jumps.attempted == 2 * 81
    # 66 velocities with a memory of 50 steps: some 8 independent values of a spread of 17 %; twice the error of 6 %
    assert np.mean(kinetic[100:]) == pytest.approx(300.0, rel=0.15)
    assert np.isfinite(atoms.get_potential_energy())


def test_jumps_in_openmm_refuse_constraints_other_molecules_and_integrators_without_a_temperature(
    model: FlowPotential,
) -> None:
    with pytest.raises(ConfigurationError, match="12 constraints, which no jump would keep"):
        OpenMMJumps(simulation(app.HBonds), model)
    with pytest.raises(ConfigurationError, match="VerletIntegrator has no temperature to jump at"):
        OpenMMJumps(simulation(integrator=openmm.VerletIntegrator(0.001 * unit.picosecond)), model)
    with pytest.raises(TopologyError):
        OpenMMJumps(simulation(), in_another_order(model))


def in_another_order(model: FlowPotential) -> FlowPotential:
    """A model that says it is of the molecule in another order."""
    other = copy.copy(model)
    assert other.topology is not None
    other.topology = other.topology.take(list(reversed(range(22))))
    return other


def test_jumps_in_ase_refuse_constraints_boxes_and_other_molecules(model: FlowPotential) -> None:
    x, _ = model.sample(1, seed=4)
    assert model.topology is not None
    atoms = ase.Atoms(model.topology.elements, x[0].numpy() / ANGSTROM)
    atoms.calc = SmoothflowCalculator(model)
    fixed = atoms.copy()
    fixed.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigurationError, match="The atoms have constraints"):
        ASEJumps(fixed, model, 300.0)
    boxed = atoms.copy()
    boxed.set_cell([20, 20, 20])
    boxed.pbc = True
    with pytest.raises(ConfigurationError, match="The atoms have periodic boundaries"):
        ASEJumps(boxed, model, 300.0)
    with pytest.raises(TopologyError, match="the Atoms object"):
        ASEJumps(atoms[::-1], model, 300.0)
