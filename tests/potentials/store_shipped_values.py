"""Store what the models that ship compute, for test_shipped_models.py to compare with.

python tests/potentials/store_shipped_values.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from smoothflow import load
from smoothflow.core.files import write_atomically
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.molecules.elements import masses
from smoothflow.potentials.shipped import shipped_models

sys.path.insert(0, str(Path(__file__).parent))

from test_shipped_models import VALUES, digest, run_nve

N_CONFIGURATIONS, N_REPLICAS = 4, 2

DISPLACEMENT = 1e-13
"""Of the start of another run, nm: how far that run has gone astray at its end says how well the end is determined."""


def values_of(name: str) -> dict[str, Any]:
    """Energies (kJ/mol) and forces (kJ/mol/nm) of a few samples, and where 1 ps at constant energy takes two."""
    potential = load(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        positions, _ = potential.sample(N_CONFIGURATIONS, generator)
    mass = masses(potential.coordinates.topology)
    velocities = maxwell_boltzmann(mass, N_REPLICAS, potential.temperature, generator)
    energies, forces = potential.energy_and_forces(positions)
    replicas = positions[:N_REPLICAS]
    displaced = replicas + DISPLACEMENT * torch.randn(replicas.shape, generator=generator, dtype=replicas.dtype)
    start, end = run_nve(potential, replicas, velocities)
    _, other = run_nve(potential, displaced, velocities)
    tensors = {
        "positions": positions,
        "energies": energies,
        "forces": forces,
        "velocities": velocities,
        "first_total_energy": start.total_energy,
        "last_total_energy": end.total_energy,
        "last_positions": end.positions,
        "spread_of_positions": (other.positions - end.positions).abs().max(),
        "spread_of_total_energy": (other.total_energy - end.total_energy).abs().max(),
    }
    return {"sha256": digest(name), **{key: tensor.tolist() for key, tensor in tensors.items()}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    stored = {name: values_of(name) for name in shipped_models()}
    write_atomically(VALUES, (json.dumps(stored) + "\n").encode())
