"""Write the files beside this script: one of every format, as version 0.1 writes them, and what is computed from them.

    python tests/data/v1/make.py

They were written once, and ``tests/test_old_files.py`` reads them ever after. A new schema gets a folder of its own,
made by a copy of this script, and this one stays as it is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from smoothflow import FlowPotential, FlowSettings, InternalCoordinates, Simulation, State, build_flow, registry
from smoothflow.core.architecture import transforms_for
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.files import write_atomically
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.core.manifolds import Circle
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import FramesWriter, read_frames
from smoothflow.potentials.model_file import read_model, save_model
from smoothflow.runs.progress import Progress
from smoothflow.runs.settings_file import write_yaml
from smoothflow.studies.comparison.settings import ComparisonSettings, FramesPlan
from smoothflow.training.config import TrainSettings, write_settings
from smoothflow.training.run import train

HERE = Path(__file__).parent
PEROXIDE = Topology(
    (Atom("H", "H1", "HPO", 0), Atom("O", "O1", "HPO", 0), Atom("O", "O2", "HPO", 0), Atom("H", "H2", "HPO", 0)),
    bonds=((0, 1), (1, 2), (2, 3)),
)
PLACES = {"bond": (0.12, 0.005), "angle": (1.8, 0.1)}
TEMPERATURE = 300.0
N_FRAMES = 48
TRAINING = TrainSettings(
    flow=FlowSettings(hidden=4, n_hidden_layers=1, interval_pairs=1, circle_pairs=1, seed=2),
    steps=20,
    batch_size=8,
    validate_every=10,
    validation_fraction=0.5,
    averaging=0.5,
    seed=5,
)
DYNAMICS = DynamicsSettings(n_steps=20, timestep=0.0005, ensemble="nvt", report_every=5, seed=1)


class Stopped(Exception):
    """Half way through the training."""


def make_model(name: str) -> FlowPotential:
    """Hydrogen peroxide with a small flow of one transform, of random weights; written to a file."""
    coordinates = InternalCoordinates(PEROXIDE)
    settings = FlowSettings(transforms_for(name), hidden=4, n_hidden_layers=1, interval_pairs=1, circle_pairs=1, seed=3)
    charts = []
    for column in coordinates.codomain:
        if isinstance(column.manifold, Circle):
            charts.append(ColumnChart("cut" if settings.cuts_circles else "circle", 0.0))
        else:
            charts.append(ColumnChart("standard", *PLACES[column.name.partition(" ")[0]]))
    flow = build_flow(settings, Chart(coordinates.codomain, charts))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    potential = FlowPotential(flow, coordinates, TEMPERATURE)
    path = HERE / "models" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_model(potential, path, {"name": name, "made": "by tests/data/v1/make.py"})
    return read_model(path)


def values_of(potential: FlowPotential) -> dict[str, Any]:
    """Samples (nm), and their energies (kJ/mol) and forces (kJ/mol/nm)."""
    with torch.no_grad():
        positions, _ = potential.sample(4, torch.Generator().manual_seed(0))
    energies, forces = potential.energy_and_forces(positions)
    return {"positions": positions.tolist(), "energies": energies.tolist(), "forces": forces.tolist()}


def make_frames(potential: FlowPotential) -> dict[str, Any]:
    """Frames with everything that frames can have."""
    with torch.no_grad():
        positions, _ = potential.sample(N_FRAMES, torch.Generator().manual_seed(4))
    energies, forces = potential.energy_and_forces(positions)
    frames = Frames(
        PEROXIDE,
        TEMPERATURE,
        positions=positions.numpy(),
        forces=forces.numpy(),
        energies=energies.numpy(),
        log_weights=np.linspace(-1, 0, N_FRAMES),
        replica=np.arange(N_FRAMES) // 6,
        times=0.1 * (np.arange(N_FRAMES) % 6),
        provenance={"made": "by tests/data/v1/make.py"},
    )
    path = HERE / "frames.h5"
    path.unlink(missing_ok=True)
    state = {"walkers": np.arange(6.0).reshape(2, 3)}
    with FramesWriter.create(path, frames, state) as writer:
        writer.append(frames, state)
    stored = read_frames(path)
    columns = ("positions", "forces", "energies", "log_weights", "replica", "times")
    return {"digest": stored.digest(), **{name: getattr(stored, name).tolist() for name in columns}}


def make_run() -> dict[str, Any]:
    """A training stopped half way, and what it comes to when it goes on."""
    folder = HERE / "run"
    shutil.rmtree(folder, ignore_errors=True)
    frames = read_frames(HERE / "frames.h5")

    def stop(progress: Progress) -> None:
        if progress.done > TRAINING.validate_every:
            raise Stopped

    try:
        train(frames, TRAINING, folder, on_progress=stop)
    except Stopped:
        (folder / ".lock").unlink()
    whole = HERE / "whole"
    found = values_of(read_model(train(frames, TRAINING, whole)))
    shutil.rmtree(whole)
    return found


def make_dynamics(potential: FlowPotential) -> dict[str, Any]:
    """Dynamics stopped half way, and where it comes to when it goes on."""
    generator = torch.Generator().manual_seed(6)
    weights = masses(PEROXIDE)
    with torch.no_grad():
        positions, _ = potential.sample(2, generator)
    start = State.start(potential, positions, maxwell_boltzmann(weights, 2, TEMPERATURE, generator), weights)
    simulation = Simulation(potential, "langevin", start, DYNAMICS, provenance={"made": "by tests/data/v1/make.py"})
    checkpoint = HERE / "md.checkpoint"
    checkpoint.unlink(missing_ok=True)
    simulation.run(checkpoint, stopped=lambda: simulation.step == DYNAMICS.n_steps // 2)
    simulation.run()
    return {"positions": simulation.state.positions.tolist(), "velocities": simulation.state.velocities.tolist()}


def main() -> None:
    torch.set_num_threads(1)
    models = {name: make_model(name) for name in registry().names("transform")}
    comparison = ComparisonSettings(
        frames=FramesPlan(n_frames=100, n_held_out=50, ladder=(350.0,)),
        training=TRAINING,
        transforms={"smooth": {}},
        objectives={"nll+fm": {"force": 0.01}},
    )
    write_atomically(HERE / "config.yaml", write_settings(TRAINING).encode())
    write_atomically(HERE / "comparison.yaml", write_yaml(comparison).encode())
    values = {
        "models": {name: values_of(model) for name, model in models.items()},
        "frames": make_frames(models["smooth"]),
        "run": make_run(),
        "dynamics": make_dynamics(models["smooth"]),
    }
    write_atomically(HERE / "values.json", (json.dumps(values) + "\n").encode())


if __name__ == "__main__":
    main()
