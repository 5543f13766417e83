"""How energy fluctuations of NVE runs with a model scale with the time step: 2 for a smooth potential.

python benchmarks/energy_scaling.py smoothflow-demo/smooth/model.safetensors smoothflow-demo/frames.h5
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from smoothflow.analysis.comparison import conservation_run
from smoothflow.analysis.conservation import PotentialSource, run_conservation
from smoothflow.analysis.dynamics import energy_conservation, scaling_exponent
from smoothflow.core.engine import DynamicsSettings
from smoothflow.training.frames_file import read_frames

TIMESTEPS = (0.00025, 0.0005, 0.001)  # ps
DURATION = 1.0  # ps
N_REPLICAS = 10


def main(model: Path, frames: Path) -> None:
    torch.set_num_threads(1)
    data = read_frames(frames)
    runs = [
        conservation_run(
            f"{1000 * timestep:g} fs",
            PotentialSource(model=model),
            "verlet",
            data,
            N_REPLICAS,
            # the same instants are recorded at every time step
            DynamicsSettings(round(DURATION / timestep), timestep, report_every=round(0.005 / timestep)),
        )
        for timestep in TIMESTEPS
    ]
    found = run_conservation(runs, 2, lambda done, total: None)
    fluctuations = []
    for title, trajectory in found.items():
        conserved = energy_conservation(trajectory)
        fluctuations.append(conserved.std_per_dof)
        print(f"{title}: std / (3n - 6) = {conserved.std_per_dof} kJ/mol, |drift| = {conserved.abs_drift} kJ/mol/ps")
    print(f"log-log slope: {scaling_exponent(TIMESTEPS, fluctuations)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
