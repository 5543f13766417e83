r"""A model as a force in LAMMPS: heat a molecule with one of LAMMPS's thermostats, cool it and minimize.

python examples/lammps/anneal.py smoothflow-demo/smooth/model.safetensors \
    molecules/structures/capped-alanine.pdb
"""

from __future__ import annotations

import argparse

import smoothflow
import torch
from ase.io import read
from smoothflow import attach_to_lammps, new_lammps

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a model file")
parser.add_argument("structure", help="PDB file of its molecule")
parser.add_argument("--steps", type=int, default=1000, help="of 0.5 fs")
arguments = parser.parse_args()

torch.set_num_threads(1)  # one small molecule does not fill more
atoms = read(arguments.structure)
masses = dict(zip(atoms.get_chemical_symbols(), atoms.get_masses(), strict=True))
elements = list(masses)

lmp = new_lammps()
lmp.commands_string(f"""
units real
atom_style atomic
atom_modify map array
boundary s s s
region box block -100 100 -100 100 -100 100
create_box {len(elements)} box
""")
for i, element in enumerate(elements, start=1):
    lmp.command(f"mass {i} {masses[element]}")
ids = list(range(1, len(atoms) + 1))
types = [elements.index(symbol) + 1 for symbol in atoms.get_chemical_symbols()]
lmp.create_atoms(len(atoms), ids, types, atoms.positions.ravel().tolist())

attach_to_lammps(lmp, smoothflow.load(arguments.model), elements)
lmp.commands_string("""
timestep 0.5
fix move all nve
fix bath all langevin 300 10 100 1
run 0
""")
print(f"start    {lmp.get_thermo('pe'):.3f} kcal/mol")
lmp.command(f"run {arguments.steps}")
print(f"cooled   {lmp.get_thermo('pe'):.3f} kcal/mol")
lmp.command("unfix bath")
lmp.command(f"minimize 0 1e-4 {arguments.steps} {10 * arguments.steps}")
print(f"minimum  {lmp.get_thermo('pe'):.3f} kcal/mol")
lmp.close()
