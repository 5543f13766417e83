"""A flow of a real molecule in our own integrators and in other engines."""

from __future__ import annotations

import ase
import numpy as np
import openmm
import pytest
import torch
from smoothflow import FlowPotential, SmoothflowCalculator, to_openmm_force
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.core.plugins import registry
from torch import Tensor

F64 = torch.float64
MASSES = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999}


def in_openmm(system: openmm.System, positions: Tensor) -> tuple[float, np.ndarray]:
    reference = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), reference)
    context.setPositions(positions.numpy())
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def test_energies_and_forces_are_the_same_everywhere(flow: FlowPotential, positions: Tensor) -> None:
    energy, forces = flow.energy_and_forces(positions[:1])
    system = openmm.System()
    for element in flow.topology.elements:
        system.addParticle(MASSES[element])
    system.addForce(to_openmm_force(flow))
    restored = openmm.XmlSerializer.deserialize(openmm.XmlSerializer.serialize(system))
    for each in (system, restored):
        found, force = in_openmm(each, positions[0])
        assert found == pytest.approx(energy.item(), rel=1e-12)
        np.testing.assert_allclose(force, forces[0].numpy(), rtol=1e-9, atol=1e-8)
    atoms = ase.Atoms(flow.topology.elements, 10 * positions[0].numpy(), calculator=SmoothflowCalculator(flow))
    assert atoms.get_potential_energy() * 96.48533212 == pytest.approx(energy.item(), rel=1e-9)  # digits of the factor
    # positions are multiplied by 10 and by 0.1: rounding of 1e-17 nm under curvatures of 1e6 kJ/mol/nm^2
    np.testing.assert_allclose(atoms.get_forces() * 964.8533212, forces[0].numpy(), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["openmm", "ase", "ipi", "lammps"])
def test_nve_is_one_trajectory(name: str, flow: FlowPotential, positions: Tensor) -> None:
    masses = torch.tensor([MASSES[element] for element in flow.topology.elements], dtype=F64)
    velocities = maxwell_boltzmann(masses, 2, 300.0, torch.Generator().manual_seed(0))
    settings = DynamicsSettings(n_steps=100, timestep=0.0005, report_every=25)
    start = (flow, masses, positions[:2], velocities, settings)
    ours, theirs = (registry().engine(engine)().run(*start) for engine in ("native", name))
    # rounding, grown by the instability of the motion over 100 steps
    torch.testing.assert_close(theirs.positions, ours.positions, rtol=0, atol=1e-10)
    torch.testing.assert_close(theirs.total_energy, ours.total_energy, rtol=0, atol=1e-6)


def test_a_flow_in_float32_runs_in_float32(flow: FlowPotential, positions: Tensor) -> None:
    flow = flow.float()
    masses = torch.tensor([MASSES[element] for element in flow.topology.elements], dtype=F64)
    settings = DynamicsSettings(n_steps=10, timestep=0.0005)
    start = (flow, masses, positions[:1].float(), torch.zeros_like(positions[:1]).float(), settings)
    ours, theirs = (registry().engine(engine)().run(*start) for engine in ("native", "openmm"))
    # float32 positions are 1e-8 nm apart, and forces of 1e4 kJ/mol/nm move hydrogens by 1e-3 nm in 10 steps
    torch.testing.assert_close(theirs.positions.float(), ours.positions, rtol=0, atol=1e-6)
