"""A flow on capped alanine, untrained but not trivial."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from smoothflow import FlowPotential, FlowSettings, InternalCoordinates, build_flow
from smoothflow.core.architecture import transforms_for
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.manifolds import Circle
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb

WIDE = ("phi", "psi", "methyl")


def small_settings(name: str) -> FlowSettings:
    return FlowSettings(transforms=transforms_for(name), interval_pairs=1, circle_pairs=1, hidden=16, seed=3)


@pytest.fixture(scope="session")
def make_potential() -> Callable[[str], FlowPotential]:
    """A float64 potential of capped alanine with a flow named after one transform."""
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    coordinates = InternalCoordinates(topology)
    q, _ = coordinates.encode(positions)

    def make(name: str) -> FlowPotential:
        settings = small_settings(name)
        charts = []
        for column, value in zip(coordinates.codomain, q[0].tolist(), strict=True):
            if column.name.startswith(WIDE):
                charts.append(ColumnChart("circle", 0.0))
            elif isinstance(column.manifold, Circle):
                charts.append(ColumnChart("arc", value, 0.08))
            elif column.name.startswith("bond"):
                charts.append(ColumnChart("standard", value, 0.005, 0.003))
            else:
                charts.append(ColumnChart("standard", value, 0.08, 0.06))
        flow = build_flow(settings, Chart(coordinates.codomain, charts))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return FlowPotential(flow, coordinates, 300.0).double()

    return make
