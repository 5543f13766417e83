"""Write the files beside this script: models whose charts are arcs and softened, and what is computed from them.

    python tests/data/v2/make.py

They were written once, and ``tests/test_old_files.py`` reads them ever after. A new schema gets a folder of its own,
made by a copy of this script, and this one stays as it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from smoothflow import FlowPotential, FlowSettings, InternalCoordinates, build_flow
from smoothflow.core.architecture import transforms_for
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.files import write_atomically
from smoothflow.core.topology import Atom, Topology
from smoothflow.potentials.model_file import read_model, save_model

HERE = Path(__file__).parent
AMMONIA = Topology(
    tuple(Atom(name[0], name, "NH3", 0) for name in ("N", "H1", "H2", "H3")), bonds=((0, 1), (0, 2), (0, 3))
)
CHARTS = {
    "bond": ColumnChart("standard", 0.101, 0.003, 0.0025),
    "angle": ColumnChart("standard", 1.86, 0.08, 0.05),
    "improper": ColumnChart("arc", 2.0, 0.1),
}


def make_model(name: str) -> dict[str, Any]:
    """Ammonia with a small flow of one transform, of random weights; samples (nm), energies and forces."""
    coordinates = InternalCoordinates(AMMONIA)
    settings = FlowSettings(transforms_for(name), hidden=4, n_hidden_layers=1, interval_pairs=1, circle_pairs=0, seed=3)
    charts = [CHARTS[column.name.partition(" ")[0]] for column in coordinates.codomain]
    flow = build_flow(settings, Chart(coordinates.codomain, charts))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    path = HERE / f"{name}.safetensors"
    save_model(FlowPotential(flow, coordinates, 300.0), path, {"made": "by tests/data/v2/make.py"})
    potential = read_model(path)
    with torch.no_grad():
        positions, _ = potential.sample(4, torch.Generator().manual_seed(0))
    energies, forces = potential.energy_and_forces(positions)
    return {"positions": positions.tolist(), "energies": energies.tolist(), "forces": forces.tolist()}


def main() -> None:
    torch.set_num_threads(1)
    values = {name: make_model(name) for name in ("smooth", "spline", "affine")}
    write_atomically(HERE / "values.json", (json.dumps(values) + "\n").encode())


if __name__ == "__main__":
    main()
