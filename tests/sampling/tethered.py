"""A run with every kind of file, and a potential that kills its own process at some evaluation.

python tests/sampling/tethered.py FOLDER EVALUATIONS_BEFORE_THE_KILL
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import State
from smoothflow.core.potential import Potential
from smoothflow.core.reporter import Reporter
from smoothflow.integrators.simulation import Simulation
from smoothflow.molecules.elements import masses
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.sampling.reporters import CSVReporter, FramesReporter, TrajectoryReporter
from torch import Tensor

TOPOLOGY, PLACES = topology_from_pdb(molecule_path("capped-alanine"))
SETTINGS = DynamicsSettings(n_steps=400, ensemble="nvt", report_every=6, seed=1)
N_REPLICAS = 2


class Tethered(Potential):
    """Every atom of capped alanine on an anharmonic tether to its place."""

    def __init__(self, n_evaluations: int | None = None) -> None:
        super().__init__()
        self.shape = (len(TOPOLOGY), 3)
        self.topology = TOPOLOGY
        self.places = PLACES[0]
        self.n_left = n_evaluations

    def energy(self, positions: Tensor) -> Tensor:
        if self.n_left is not None:
            self.n_left -= 1
            if self.n_left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        away = (positions - self.places.to(positions)).square()
        return (2000 * away + 1e5 * away.square()).sum((1, 2))


def start(dtype: torch.dtype = torch.float64) -> State:
    x = PLACES.to(dtype).repeat(N_REPLICAS, 1, 1)
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return State.start(Tethered(), x, v, masses(TOPOLOGY).to(dtype))


def reporters(folder: Path) -> list[Reporter]:
    return [
        CSVReporter(folder / "run.csv"),
        TrajectoryReporter(folder / "run.xtc"),
        TrajectoryReporter(folder / "run.dcd"),
        FramesReporter(folder / "run.h5", TOPOLOGY, SETTINGS.temperature, {"potential": "tethers"}),
    ]


def run(folder: Path, n_evaluations: int | None = None) -> Simulation:
    """Begin, or go on with what is in the folder."""
    checkpoint, potential = folder / "run.checkpoint", Tethered(n_evaluations)
    if checkpoint.exists():
        simulation = Simulation.load(checkpoint, potential, reporters(folder))
    else:
        simulation = Simulation(potential, "langevin", start(), SETTINGS, reporters(folder))
    # often, but not at every step: files get ahead of the checkpoint
    simulation.run(checkpoint, seconds=0.02)
    return simulation


if __name__ == "__main__":
    run(Path(sys.argv[1]), int(sys.argv[2]))
