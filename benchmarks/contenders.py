"""What is measured, and the yardsticks: flows of ours without training, and those of zuko of one size."""

from __future__ import annotations

from functools import partial

import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.architecture import FlowSettings, build_flow
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.conditioners import MLPConditioner
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Topology
from smoothflow.potentials.flow_potential import FlowPotential
from torch import Tensor, nn
from zuko.flows import NICE
from zuko.flows.spline import CircularRQSTransform
from zuko.transforms import MonotonicRQSTransform

SETTINGS = FlowSettings(options={"smooth": {"n_components": 6}}, line_pairs=2, interval_pairs=2, hidden=64)
"""Of the flow that is measured unless a model is given: for capped alanine, as large as the published ones."""

PEER_COUPLINGS = 8
PEER_HIDDEN = 48
BINS = 8

WIDTHS = {"bond": 0.003, "angle": 0.05, "torsion": 0.1}
"""Widths of the charts: nm, radians, and radians of torsions that do not turn."""


def untrained_potential(topology: Topology, positions: Tensor, settings: FlowSettings = SETTINGS) -> FlowPotential:
    """A flow with random weights on a molecule, float64; charts are placed at one configuration (nm).

    Torsions about single bonds are wide, as a simulation at room temperature leaves them; all else is narrow. The
    conditioners' outputs vary from one configuration to another as much as trained ones do, so that root finders have
    something to find.
    """
    coordinates = InternalCoordinates(topology)
    place = coordinates.encode(positions.double()[None])[0][0].tolist()
    kinds = ["bond", "angle", "torsion"]
    charts = []
    neighbours = topology.neighbours()
    for kind, first in zip(kinds, (1, 2, 3), strict=True):
        for row in coordinates.zmatrix.rows[first:]:
            location = place[len(charts)]
            if kind == "torsion" and row.torsion not in neighbours[row.bond] and not is_amide(topology, row[1:3]):
                charts.append(ColumnChart("cut" if settings.cuts_circles else "circle", 0.0))
            else:
                charts.append(ColumnChart("standard", location, WIDTHS[kind]))
    flow = build_flow(settings, Chart(coordinates.codomain, charts))
    with torch.no_grad():
        for module in flow.modules():
            if isinstance(module, MLPConditioner):
                module.network[-1].weight.mul_(30)
    return FlowPotential(flow.double(), coordinates, 300.0)


def is_amide(topology: Topology, bond: tuple[int, ...]) -> bool:
    """Whether a bond is between nitrogen and a carbon with three neighbours."""
    carbons = [i for i in bond if topology.elements[i] == "C" and len(topology.neighbours()[i]) == 3]
    return bool(carbons) and "N" in {topology.elements[i] for i in bond}


class Peer(Potential):
    """Another library's flow on vectors of as many columns: energy in kT, no molecule."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.shape = (dim,)

    def log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def energy(self, positions: Tensor) -> Tensor:
        return -self.log_prob(positions)


class ZukoSpline(Peer):
    """Couplings of rational-quadratic splines, bounded or circular, in zuko."""

    def __init__(self, dim: int, circular: bool = False) -> None:
        super().__init__(dim)
        self.flow = NICE(
            dim,
            transforms=PEER_COUPLINGS,
            univariate=CircularRQSTransform if circular else MonotonicRQSTransform,
            shapes=[(BINS,), (BINS,), (BINS - 1,)],
            hidden_features=(PEER_HIDDEN, PEER_HIDDEN),
            activation=nn.SiLU,
        )

    def log_prob(self, x: Tensor) -> Tensor:
        log_prob: Tensor = self.flow().log_prob(x)
        return log_prob

    def sample(self, n_samples: int) -> tuple[Tensor, Tensor]:
        x, log_prob = self.flow().rsample_and_log_prob((n_samples,))
        return x, log_prob


PEERS = {
    "zuko spline": ZukoSpline,
    "zuko circular spline": partial(ZukoSpline, circular=True),
}
"""Makers of the peers by name, from the number of columns; float32."""
