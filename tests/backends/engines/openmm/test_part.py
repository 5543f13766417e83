"""A model of part of a system within that system: explicit solvent, a periodic box and a barostat."""

from __future__ import annotations

from typing import Any

import numpy as np
import openmm
import pytest
import torch
from openmm import app, unit
from smoothflow import FlowPotential, FlowSettings, to_openmm_force
from smoothflow.core.errors import TopologyError
from smoothflow.molecules.conversions import topology_from_openmm
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.parts import Selection, select_part
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential

AMBER = app.ForceField("amber99sbildn.xml", "tip3p.xml")
EDGE = 2.0


@pytest.fixture(scope="module")
def solution() -> app.Modeller:
    import smoothflow

    pdb = app.PDBFile(str(smoothflow.molecule_path("capped-alanine")))
    modeller = app.Modeller(pdb.topology, pdb.positions)
    modeller.addSolvent(AMBER, boxSize=openmm.Vec3(EDGE, EDGE, EDGE) * unit.nanometer)
    return modeller


def model_of(pdb: Any, selection: Selection) -> tuple[FlowPotential, list[int]]:
    """An untrained model of some atoms of capped alanine, and their places in it."""
    topology = topology_from_openmm(pdb.topology)
    rng = np.random.default_rng(0)
    x = pdb.getPositions(asNumpy=True)._value + 0.003 * rng.normal(size=(200, len(topology), 3))
    frames = select_part(Frames(topology, 300.0, x), selection)
    settings = TrainSettings(flow=FlowSettings(interval_pairs=1, circle_pairs=1, hidden=8))
    names = [str(atom) for atom in topology.atoms]
    return initial_potential(frames, settings), [names.index(str(atom)) for atom in frames.topology.atoms]


@pytest.mark.parametrize(
    "selection", [Selection("not element H"), Selection("name CH3 CA CB O", "chain")], ids=["heavy", "beads"]
)
def test_a_part_acts_within_explicit_solvent_and_its_molecule_stays_whole(
    pdb: Any, solution: app.Modeller, selection: Selection
) -> None:
    model, particles = model_of(pdb, selection)
    system = AMBER.createSystem(solution.topology, nonbondedMethod=app.CutoffPeriodic, nonbondedCutoff=0.8)
    force = to_openmm_force(model, solution.topology, particles)
    force.setForceGroup(1)
    system.addForce(force)
    system.addForce(openmm.MonteCarloBarostat(1.0, 300.0, 5))
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.0005)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    x = solution.getPositions().value_in_unit(unit.nanometer)
    # the middle of the solute in a corner of the box
    x = np.array([[*place] for place in x])
    context.setPositions(x - x[:22].mean(0))
    openmm.LocalEnergyMinimizer.minimize(context, 100.0, 20)
    for _ in range(3):
        integrator.step(20)
        state = context.getState(positions=True, energy=True, groups={1}, enforcePeriodicBox=True)
        places = state.getPositions(asNumpy=True)._value
        for first, second in topology_from_openmm(pdb.topology).bonds:
            assert np.linalg.norm(places[first] - places[second]) < 0.2
        expected = model.energy(torch.from_numpy(places[particles])[None]).item()
        # the CPU platform holds positions in single precision
        assert state.getPotentialEnergy()._value == pytest.approx(expected, rel=1e-3, abs=0.05)


def test_a_part_of_other_atoms_is_refused(pdb: Any, solution: app.Modeller) -> None:
    model, particles = model_of(pdb, Selection("not element H"))
    hydrogen = next(i for i in range(22) if i not in particles)
    with pytest.raises(TopologyError, match="is C in the first and H in the second"):
        to_openmm_force(model, solution.topology, [*particles[:-1], hydrogen])
