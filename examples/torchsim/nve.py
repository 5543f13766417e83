"""A model in TorchSim (Python 3.12): ``python nve.py model.safetensors`` runs 8 samples at constant energy."""

from __future__ import annotations

import sys

import ase
import torch
import torch_sim
from smoothflow import load
from smoothflow.backends.engines.torchsim import TorchSimModel

model = load(sys.argv[1])
with torch.no_grad():
    positions, _ = model.sample(8, seed=0)
elements = model.coordinates.topology.elements
start = [ase.Atoms(elements, positions=10 * x.numpy()) for x in positions]  # nm to Å
end = torch_sim.integrate(
    system=start,
    model=TorchSimModel(model),
    integrator=torch_sim.Integrator.nve,
    n_steps=100,
    temperature=300,
    timestep=0.0005,
)
print("potential energies, eV:", end.energy.tolist())
