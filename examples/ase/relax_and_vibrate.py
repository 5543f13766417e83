r"""A model as an ASE calculator: relax a molecule, and find its vibrations from the Hessian.

python examples/ase/relax_and_vibrate.py smoothflow-demo/smooth/model.safetensors \
    molecules/structures/capped-alanine.pdb
"""

from __future__ import annotations

import argparse

import smoothflow
import torch
from ase.io import read
from ase.optimize import BFGS
from ase.vibrations import VibrationsData

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("model", help="a model file")
parser.add_argument("structure", help="PDB file of its molecule")
parser.add_argument("--steps", type=int, default=500, help="of the optimizer, at most")
arguments = parser.parse_args()

torch.set_num_threads(1)  # one small molecule does not fill more
atoms = read(arguments.structure)
atoms.pbc = False
atoms.calc = smoothflow.SmoothflowCalculator(smoothflow.load(arguments.model))

converged = BFGS(atoms, logfile=None).run(fmax=0.001, steps=arguments.steps)
print(f"energy {atoms.get_potential_energy():.4f} eV, {'converged' if converged else 'not converged'}")

vibrations = VibrationsData(atoms, atoms.calc.get_hessian(atoms))
print(vibrations.tabulate())
