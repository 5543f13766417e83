"""The physics tests tell smooth flows from splines, on a molecule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from smoothflow import FlowPotential
from smoothflow.molecules.elements import masses
from smoothflow.studies.physics.physics import examine_physics
from smoothflow.studies.physics.report import PhysicsReport
from smoothflow.studies.physics.settings import PhysicsSettings


def examine(potential: FlowPotential, *tests: str) -> PhysicsReport:
    x, _ = potential.sample(4, torch.Generator().manual_seed(4))
    # the flow is untrained, and stiffer than a trained one
    settings = PhysicsSettings(
        n_replicas=6,
        timestep=0.0002,
        equilibration=0.02,
        timesteps=(0.00005, 0.0001, 0.0002),
        scaling_duration=0.04,
        n_frames=1,
    )
    return examine_physics(potential, x.detach(), masses(potential.coordinates.topology), settings, tests)


@pytest.mark.slow
def test_a_smooth_flow_is_consistent_continuous_and_of_second_order(
    make_potential: Callable[[str], FlowPotential],
) -> None:
    report = examine(make_potential("smooth"), "forces", "net force", "hessian", "continuity", "order")
    assert report.passed, report.rows()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("transform", "jumps"),
    [("spline", ["jump of forces", "jump of force gradients"]), ("bspline", ["jump of force gradients"])],
)
def test_the_knots_of_splines_are_found(
    make_potential: Callable[[str], FlowPotential], transform: str, jumps: list[str]
) -> None:
    report = examine(make_potential(transform), "continuity")
    found = [finding.quantity.partition(",")[0] for finding in report.findings if not finding.holds]
    # a transform of class C^k has a density of C^(k-1) and forces of C^(k-2): k is 1 and 2
    assert found == jumps, report.rows()
