"""A model in LAMMPS: ``python nve.py model.safetensors`` runs 100 steps at constant energy from a sample."""

from __future__ import annotations

import sys

import torch
from smoothflow import load_model
from smoothflow.backends.engines.lammps import attach_to_lammps, new_lammps
from smoothflow.coordinates.elements import ELEMENTS

model = load_model(sys.argv[1])
with torch.no_grad():
    positions, _ = model.sample(1, torch.Generator().manual_seed(0))
elements = model.coordinates.topology.elements
kinds = sorted(set(elements))

lmp = new_lammps()
lmp.commands_string(f"""
units real
atom_style atomic
boundary s s s
region everywhere block -100 100 -100 100 -100 100
create_box {len(kinds)} everywhere
""")
ids = list(range(1, len(elements) + 1))
types = [kinds.index(element) + 1 for element in elements]
lmp.create_atoms(len(ids), ids, types, (10 * positions).flatten().tolist())  # nm to Å
for kind, element in enumerate(kinds, start=1):
    lmp.command(f"mass {kind} {ELEMENTS[element].mass}")
attach_to_lammps(lmp, model, kinds)
lmp.command("fix motion all nve")
lmp.command("timestep 0.5")
for _ in range(5):
    lmp.command("run 20")
    print(f"step {lmp.extract_global('ntimestep')}: {lmp.get_thermo('etotal'):.6f} kcal/mol")
