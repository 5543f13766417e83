r"""A model as the force of an OpenMM simulation, with a bias of OpenMM's own on a torsion.

python examples/openmm/biased_dynamics.py smoothflow-demo/smooth/model.safetensors \
    molecules/structures/capped-alanine.pdb
"""

from __future__ import annotations

import argparse

import openmm
import smoothflow
import torch
from openmm import app, unit

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a model file")
parser.add_argument("structure", help="PDB file of its molecule")
parser.add_argument("--steps", type=int, default=1000, help="of 1 fs")
parser.add_argument("--torsion", type=int, nargs=4, default=[4, 6, 8, 14], help="atoms of the biased torsion")
arguments = parser.parse_args()

torch.set_num_threads(1)  # one small molecule does not fill more
pdb = app.PDBFile(arguments.structure)
potential = smoothflow.load(arguments.model)

system = openmm.System()
for atom in pdb.topology.atoms():
    system.addParticle(atom.element.mass)
system.addForce(smoothflow.to_openmm_force(potential, pdb.topology))
bias = openmm.CustomTorsionForce("height * (1 + cos(theta))")
bias.addGlobalParameter("height", 5.0)  # kJ/mol; context.setParameter changes it
bias.addTorsion(*arguments.torsion)
system.addForce(bias)

integrator = openmm.LangevinMiddleIntegrator(potential.temperature, 1 / unit.picosecond, 1 * unit.femtosecond)
# Reference computes in float64, and for a small molecule it is the fastest
platform = openmm.Platform.getPlatformByName("Reference")
simulation = app.Simulation(pdb.topology, system, integrator, platform)
simulation.context.setPositions(pdb.positions)
simulation.context.setVelocitiesToTemperature(potential.temperature)
for _ in range(5):
    simulation.step(arguments.steps // 5)
    state = simulation.context.getState(energy=True)
    print(f"{state.getTime()}  potential {state.getPotentialEnergy()}  kinetic {state.getKineticEnergy()}")
