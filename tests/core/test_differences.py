"""Numerical derivatives of potentials with closed forms, and jumps that are or are not there."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import HarmonicWell, Power
from smoothflow.core.differences import (
    Scan,
    asymmetry,
    net_force_and_torque,
    numerical_forces,
    numerical_hessian,
    straight_scan,
    worst_break,
)
from torch import Tensor


def along_x(t: Tensor) -> Tensor:
    """Configurations whose first coordinate is ``t``."""
    x = torch.full((len(t), 2, 3), 0.1, dtype=torch.float64)
    x[:, 0, 0] = t
    return x


def test_numerical_derivatives_of_a_polynomial() -> None:
    potential = Power(4, 0.0)
    x = 0.2 * torch.randn((2, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, forces = potential.energy_and_forces(x[None])
    # a fourth-order stencil is exact for quartics: rounding is left, 1e-15 / 2e-5
    torch.testing.assert_close(numerical_forces(potential, x), forces[0], rtol=0, atol=1e-8)
    hessian = torch.func.hessian(lambda q: potential.energy(q[None])[0])(x).reshape(6, 6)
    found = numerical_hessian(potential, x)
    torch.testing.assert_close(found, hessian, rtol=0, atol=1e-7)
    assert asymmetry(found) < 1e-9
    assert asymmetry(torch.tensor([[0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(2)
    assert asymmetry(torch.zeros(2, 2)) == 0


def test_net_force_and_torque_of_a_couple() -> None:
    x = torch.tensor([[[5.0, 0.0, 0.0], [7.0, 0.0, 0.0]]])
    up = torch.tensor([0.0, 3.0, 0.0])
    force, torque = net_force_and_torque(x, torch.stack([-up, up])[None])
    # forces 3 and -3 at arms 1 and -1
    assert force.tolist() == [[0, 0, 0]]
    assert torque.tolist() == [[0, 0, 6]]
    force, torque = net_force_and_torque(x, torch.stack([up, up])[None])
    assert (force.tolist(), torque.tolist()) == ([[0, 6, 0]], [[0, 0, 0]])


@pytest.mark.parametrize("at", [0.0, 0.0371, -0.5 / 3])
@pytest.mark.parametrize(("power", "broken"), [(1, 0), (2, None), (3, None), (4, None)])
def test_a_jump_of_the_force_is_found_where_it_is(at: float, power: float, broken: int | None) -> None:
    scan = Scan("x", -0.4, 0.5, along_x)
    found = worst_break(Power(power, at), scan, order=0)
    assert found.continuous == (broken is None)
    if broken is None:
        # what a cell shrunk to 1/4096 leaves of a change that goes with its width
        assert found.share < 2e-3
    else:
        assert found.size == pytest.approx(80, rel=1e-3)
        # the cell's width
        assert found.at == pytest.approx(at, abs=1e-5)


class Kink(Power):
    """40 x |x|: the force 80 |x| is continuous and has a kink."""

    def energy(self, positions: Tensor) -> Tensor:
        stretch = positions[:, 0, 0] - self.at
        return super().energy(positions) + 40 * stretch * stretch.abs() - 40 * stretch.abs() ** self.power


@pytest.mark.parametrize("at", [0.0, 0.0371])
def test_a_kink_of_the_force_is_found_as_a_jump_of_its_gradient(at: float) -> None:
    scan = Scan("x", -0.4, 0.5, along_x)
    assert worst_break(Kink(2, at), scan, order=0).continuous
    found = worst_break(Kink(2, at), scan, order=1)
    assert not found.continuous
    # the gradient changes by 160; the kink may lie between two of the points that are differenced
    assert 79 < found.size < 161
    assert found.at == pytest.approx(at, abs=1e-5)
    # |x|^3: the gradient of its force has a kink, and no jump
    assert worst_break(Power(3, at), scan, order=1).continuous


def test_rounding_does_not_count_as_a_kink() -> None:
    """Second differences of a force that is a straight line are rounding and nothing else."""
    found = worst_break(HarmonicWell(2, 2e3), Scan("x", -0.4, 0.5, along_x), order=1)
    assert found.share < 1e-3
    # they are compared with the gradient of the force
    assert found.before == pytest.approx(2e3, rel=1e-9)


def test_parts_above_the_ceiling_are_not_looked_at() -> None:
    potential = Power(1, 0.3)
    # the corner's own energy, and that of the scan's beginning
    low, high = (float(potential.energy_and_forces(along_x(torch.tensor([x])))[0]) for x in (0.3, -0.4))
    assert high > low
    assert not worst_break(potential, Scan("x", -0.4, 0.5, along_x, ceiling=high), order=0).continuous
    nothing = worst_break(potential, Scan("x", -0.4, 0.5, along_x, ceiling=low - 1), order=0)
    assert (nothing.size, nothing.share, nothing.at, nothing.continuous) == (0, 0, -0.4, True)
    assert worst_break(potential, Scan("x", 0.31, 0.5, along_x), order=0).continuous


class Hollow(Power):
    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) * (1 + 0 * positions[:, 0, 0].sqrt())


def test_forces_that_are_not_finite_are_not_continuous() -> None:
    assert not worst_break(Hollow(2, 0.0), Scan("x", -0.4, 0.5, along_x), order=0).continuous


def test_a_straight_scan_has_its_length() -> None:
    x = torch.zeros((2, 3), dtype=torch.float64)
    scan = straight_scan(x, torch.Generator().manual_seed(0), 0.5)
    ends = scan.place(torch.tensor([scan.low, scan.high]))
    assert float((ends[1] - ends[0]).norm()) == pytest.approx(0.5)
    assert math.isinf(scan.ceiling)
