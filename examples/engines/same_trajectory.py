"""One model, one start, every engine: how far the trajectories are apart.

python same_trajectory.py MODEL [STEPS]
"""

from __future__ import annotations

import sys

import torch
from smoothflow import DynamicsSettings, load, masses, maxwell_boltzmann, registry
from smoothflow.core.errors import MissingDependencyError


def main(model: str, n_steps: int) -> None:
    torch.set_num_threads(1)
    potential = load(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        positions, _ = potential.sample(1, generator)
    mass = masses(potential.topology)
    velocities = maxwell_boltzmann(mass, 1, potential.temperature, generator)
    settings = DynamicsSettings(n_steps=n_steps, timestep=0.001, ensemble="nve", report_every=max(1, n_steps // 10))
    found = {}
    for name in registry().names("engine"):
        try:
            found[name] = registry().engine(name)().run(potential, mass, positions, velocities, settings)
        except MissingDependencyError as error:
            print(f"{name}: {error}")
    ours = found.pop("native")
    for name, theirs in found.items():
        apart = float((theirs.positions - ours.positions).abs().max())
        energy = float(((theirs.potential_energy - ours.potential_energy) / ours.potential_energy).abs().max())
        print(f"{name}: positions within {apart:.2g} nm, energies within {energy:.2g}, in {n_steps} steps of 1 fs")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
