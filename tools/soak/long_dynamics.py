"""A long NVT run of a model that ships: whether a bond breaks, the temperature stays, and memory does not grow.

    python tools/soak/long_dynamics.py --package smooth.pt2 --json docs/reliability/long-dynamics.json

Our Langevin integrator at 1 fs, with the model compiled (in minutes, if the package is not there), checkpoints and a
look at the molecule every 100 steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from array import array
from pathlib import Path

import psutil
import torch
from record import keep
from smoothflow.analysis.correlation import mean_of_time_series
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import SimulationError
from smoothflow.core.integrator import State, maxwell_boltzmann
from smoothflow.core.reporter import Reporter
from smoothflow.core.topology import Topology
from smoothflow.core.units import FEMTOSECOND
from smoothflow.integrators.simulation import Simulation
from smoothflow.molecules.elements import masses
from smoothflow.potentials.shipped import load
from smoothflow.studies.physics.dynamics import atom_temperatures, broken_lengths

LOOK_EVERY = 100


class Look(Reporter):
    """Bonds, temperature and memory, at every report."""

    def __init__(self, topology: Topology, timestep: float) -> None:
        self.topology = topology
        self.timestep = timestep
        self.limits = broken_lengths(topology)
        self.bonds = torch.tensor(topology.bonds)
        self.longest = torch.zeros(len(topology.bonds), dtype=torch.float64)
        self.temperatures = array("d")
        self.memory = array("d")
        self._process = psutil.Process()

    def report(self, step: int, state: State) -> None:
        first, second = self.bonds.T
        lengths = (state.positions[:, first] - state.positions[:, second]).norm(dim=-1).amax(0).double()
        self.longest = torch.maximum(self.longest, lengths)
        self.temperatures.append(float(atom_temperatures(state, self.timestep).mean()))
        self.memory.append(self._process.memory_info().rss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ala2-smooth")
    parser.add_argument("--package", type=Path, help="the compiled model; without, the model as it is")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60.0, help="stop after so long")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load(arguments.model)
    topology, temperature = model.coordinates.topology, model.temperature
    potential = model if arguments.package is None else model.compile(arguments.package)
    began = time.monotonic()
    settings = DynamicsSettings(
        arguments.steps, FEMTOSECOND, "nvt", temperature=temperature, friction=1.0, report_every=LOOK_EVERY, seed=0
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        positions, _ = model.sample(1, generator)
    mass = masses(topology).to(positions)
    velocities = maxwell_boltzmann(mass, 1, temperature, generator)
    look = Look(topology, settings.timestep)
    start = State.start(potential, positions, velocities, mass)
    simulation = Simulation(potential, "langevin", start, settings, [look])
    error = ""
    with tempfile.TemporaryDirectory() as folder:
        try:
            simulation.run(Path(folder) / "run.checkpoint", lambda: time.monotonic() - began > 60 * arguments.minutes)
        except SimulationError as stopped:
            error = str(stopped)
    seconds = time.monotonic() - began
    worst = int((look.longest / look.limits).argmax())
    first, second = (topology.atoms[i] for i in topology.bonds[worst])
    # the first hundredth fills caches
    early = look.memory[len(look.memory) // 100]
    figures = {
        "model": arguments.model,
        "steps of 1 fs": simulation.step,
        "steps per second": round(simulation.step / seconds),
        "energies or forces that are not finite": error or 0,
        "broken bonds": int((look.longest > look.limits).sum()),
        "largest bond length / length that counts as broken": f"{float(look.longest[worst] / look.limits[worst]):.3f}",
        "of the bond": f"{first} {second}, {float(look.longest[worst]):.4f} nm",
        f"mean temperature, K (thermostat: {temperature:g} K; {len(look.temperatures)} looks)": str(
            mean_of_time_series(torch.tensor(look.temperatures))
        ),
        "memory after 1 % of the run, MiB": round(early, 1),
        "memory at the end, MiB": round(look.memory[-1], 1),
    }
    keep(arguments.json, "A long NVT run", figures, began)
    if error or bool((look.longest > look.limits).any()):
        sys.exit(1)


if __name__ == "__main__":
    main()
