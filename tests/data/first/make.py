"""Write the files beside this script, as the first code that could write both formats wrote them.

    mkdir build && git archive --prefix=smoothflow/ b5379ae | tar -x -C build
    PYTHONPATH=build python tests/data/first/make.py

Frames had no times then.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.architecture import FlowSettings, build_flow
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.manifolds import Circle
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import write_frames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.model_file import read_model, save_model

HERE = Path(__file__).parent
PEROXIDE = Topology(
    (Atom("H", "H1", "HPO", 0), Atom("O", "O1", "HPO", 0), Atom("O", "O2", "HPO", 0), Atom("H", "H2", "HPO", 0)),
    bonds=((0, 1), (1, 2), (2, 3)),
)
PLACES = {"bond": (0.12, 0.005), "angle": (1.8, 0.1)}


def main() -> None:
    coordinates = InternalCoordinates(PEROXIDE)
    settings = FlowSettings(hidden=4, n_hidden_layers=1, interval_pairs=1, circle_pairs=1, seed=3)
    charts = [
        ColumnChart("circle", 0.0)
        if isinstance(column.manifold, Circle)
        else ColumnChart("standard", *PLACES[column.name.partition(" ")[0]])
        for column in coordinates.codomain
    ]
    flow = build_flow(settings, Chart(coordinates.codomain, charts))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    provenance = {"made": "by tests/data/first/make.py"}
    save_model(FlowPotential(flow, coordinates, 300.0), HERE / "model.safetensors", provenance)
    potential = read_model(HERE / "model.safetensors")
    with torch.no_grad():
        positions, _ = potential.sample(4, generator)
    energies, forces = potential.energy_and_forces(positions)
    arrays = {"positions": positions.numpy(), "forces": forces.numpy(), "energies": energies.numpy()}
    write_frames(HERE / "frames.h5", Frames(PEROXIDE, 300.0, **arrays, provenance=provenance))
    values = {name: array.tolist() for name, array in arrays.items()}
    (HERE / "values.json").write_text(json.dumps(values) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
