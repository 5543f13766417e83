"""Minimum-energy paths of a potential of hydrogen peroxide whose barrier is known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import PEROXIDE, TwoMinima
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.units import thermal_energy
from smoothflow.runs.progress import silent
from smoothflow.studies.physics.minima import examine_minima
from smoothflow.studies.physics.paths import N_IMAGES, find_paths
from torch import Tensor

COORDINATES = InternalCoordinates(PEROXIDE)
KT = thermal_energy(300.0)
B = 5.0


def at(torsion: float, bond: float = 0.12, angle: float = 1.8) -> Tensor:
    values = [bond if name.startswith("bond") else angle for name in COORDINATES.codomain.names[:-1]]
    return COORDINATES.decode(torch.tensor([[*values, torsion]], dtype=torch.float64))[0]


def ends() -> Tensor:
    return torch.cat([at(TwoMinima.torsion), at(TwoMinima.torsion - math.pi)])


def test_a_path_climbs_over_the_barrier_of_its_closed_form() -> None:
    (path,) = find_paths(TwoMinima(B), ends(), COORDINATES, KT, TwoMinima(0.0))
    q, _ = COORDINATES.encode(path.positions)
    turns = q[:, -1] - TwoMinima.torsion
    # springs are at rest all along, so that the torsion alone has an energy
    torch.testing.assert_close(q[:, :3], torch.full_like(q[:, :3], 0.12), rtol=0, atol=1e-5)
    expected = (-30 * torch.cos(2 * turns) - B * torch.cos(turns) + 30 + B) / KT
    torch.testing.assert_close(path.energy, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(path.reference, (30 - 30 * torch.cos(2 * turns)) / KT, rtol=0, atol=0.01)
    # images are spread evenly over half a turn
    steps = torch.remainder(turns[1:] - turns[:-1] + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(steps.abs(), torch.full_like(steps, math.pi / (N_IMAGES - 1)), rtol=0.02, atol=0)
    top = -B / 120
    barrier = -30 * (2 * top**2 - 1) - B * top + 30 + B
    # the highest image is within half a step of the top, where the curvature is 120 kJ/mol
    missed = 60 * (math.pi / (N_IMAGES - 1) / 2) ** 2
    assert (barrier - missed) / KT < path.barrier < barrier / KT + 0.01
    assert path.largest_difference == pytest.approx(2 * B / KT, abs=0.02)


def test_a_path_relaxes_what_the_straight_line_strains() -> None:
    # ends whose bonds are stretched stay as they are, and images between them go to the minimum of the springs
    strained = torch.cat([at(TwoMinima.torsion, 0.123, 1.85), at(TwoMinima.torsion - math.pi, 0.123, 1.85)])
    (path,) = find_paths(TwoMinima(B), strained, COORDINATES, KT)
    q, _ = COORDINATES.encode(path.positions)
    torch.testing.assert_close(q[[0, -1], :3], torch.full((2, 3), 0.123, dtype=torch.float64), rtol=0, atol=1e-9)
    assert float((q[5:10, :3] - 0.12).abs().max()) < 3e-4
    assert bool(path.reference.isnan().all())


@pytest.mark.parametrize(("b", "error"), [(1.0, 2.0), (9.0, 18.0)])
def test_energies_along_paths_are_compared_with_the_reference(
    b: float, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("smoothflow.studies.physics.minima.CROSSED", 30.0)
    findings = examine_minima(TwoMinima(0.0), ends(), PEROXIDE, 300.0, 0, TwoMinima(b), silent)
    (finding,) = [f for f in findings if "along paths" in f.quantity]
    assert finding.measured.value == pytest.approx(error / KT, abs=0.1)
    assert finding.holds == (error / KT < 2)


def test_barriers_that_nothing_crosses_are_not_judged() -> None:
    findings = examine_minima(TwoMinima(0.0), ends(), PEROXIDE, 300.0, 0, TwoMinima(9.0), silent)
    (finding,) = [f for f in findings if "along paths" in f.quantity]
    assert finding.holds
    # 60 kJ/mol, between images at most half a step away from the top
    assert "the lowest barrier is 2" in finding.note
