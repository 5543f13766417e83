"""Flows as potentials: forces, invariances, and densities in Cartesian space."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from smoothflow import FlowPotential, FlowSettings, InternalCoordinates, build_flow
from smoothflow.core.charts import Chart
from smoothflow.core.errors import ManifoldError
from smoothflow.core.manifolds import Circle, Product

MakePotential = Callable[[str], FlowPotential]
TRANSFORMS = ["smooth", "spline", "affine"]


# not the spline: the forces of a C^1 transform jump at its knots, and differences across a jump are not a gradient
@pytest.mark.parametrize("name", ["smooth", "affine"])
def test_forces_are_the_negative_gradient_of_the_energy(make_potential: MakePotential, name: str) -> None:
    potential = make_potential(name)
    x, _ = potential.sample(3, torch.Generator().manual_seed(0))
    _, forces = potential.energy_and_forces(x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6
    difference = (potential.energy(x + step * direction) - potential.energy(x - step * direction)) / (2 * step)
    # the error of central differences, h^2 U'''/6, with third derivatives of about 1e8 kJ/mol/nm^3 along the way
    torch.testing.assert_close(-(forces * direction).sum((1, 2)), difference.detach(), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_samples_have_the_density_that_is_stated(make_potential: MakePotential, name: str) -> None:
    potential = make_potential(name)
    x, log_prob = potential.sample(50, torch.Generator().manual_seed(0))
    # rounding of 60 columns' root finding, seen through slopes of up to 1e3 per nm
    torch.testing.assert_close(potential.log_prob(x), log_prob, rtol=0, atol=1e-8)


def test_energy_is_minus_kT_log_p(make_potential: MakePotential) -> None:
    potential = make_potential("smooth")
    x, log_prob = potential.sample(5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(potential.energy(x), -8.31446261815324e-3 * 300 * log_prob, rtol=1e-10, atol=0)


def test_energy_is_invariant_under_rigid_motion_but_not_under_reflection(make_potential: MakePotential) -> None:
    potential = make_potential("smooth")
    x, _ = potential.sample(5, torch.Generator().manual_seed(0))
    rotation, _ = torch.linalg.qr(torch.randn((3, 3), generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation)
    energy, forces = potential.energy_and_forces(x)
    moved = x @ rotation.T + torch.tensor([1.0, -2.0, 3.0])
    torch.testing.assert_close(potential.energy(moved), energy, rtol=1e-9, atol=1e-8)
    # the other hand of the molecule is far outside the density
    assert bool((potential.energy(-x) > energy + 100).all())
    assert forces.sum(1).abs().max() < 1e-7
    assert torch.linalg.cross(x, forces, dim=-1).sum(1).abs().max() < 1e-7


def test_a_flow_on_other_columns_is_refused(make_potential: MakePotential) -> None:
    coordinates: InternalCoordinates = make_potential("smooth").coordinates
    flow = build_flow(FlowSettings(hidden=4), Product.of(Circle(2 * math.pi), ["a"]).replace({0: Circle()}))
    topology = coordinates.topology
    with pytest.raises(ManifoldError, match="build both from one topology"):
        FlowPotential(flow, coordinates, topology, 300.0)


@pytest.mark.parametrize("name", ["smooth", "affine"])
def test_every_derivative_of_the_energy_is_continuous_over_whole_turns_of_every_torsion(
    make_potential: MakePotential, name: str
) -> None:
    potential = make_potential(name)
    x, _ = potential.sample(1, torch.Generator().manual_seed(0))
    q, _ = potential.coordinates.encode(x)
    (chart,) = (layer for layer in potential.flow.modules() if isinstance(layer, Chart))
    torsions = potential.coordinates.codomain.indices(Circle)
    assert len(torsions) == 19
    # next to the point opposite to the centre of each chart, on either side, and where (-pi, pi] ends
    gap = 1e-9
    places = [chart.columns[i].location + math.pi for i in torsions] + [math.pi] * len(torsions)
    rows = q.detach().repeat(2 * len(places), 1)
    columns = torch.tensor(2 * torsions).repeat_interleave(2)
    around = torch.tensor(places, dtype=torch.float64).repeat_interleave(2)
    rows[torch.arange(len(rows)), columns] = around + gap * torch.tensor([-1.0, 1.0]).repeat(len(places))
    turned = rows.requires_grad_()
    value = -potential.flow.log_prob(turned)
    for order in range(4):
        before, after = value.detach().reshape(-1, 2).T
        (slope,) = torch.autograd.grad(value.sum(), turned, create_graph=order < 3)
        slope = slope.gather(1, columns[:, None])[:, 0]
        # over the gap, the quantity changes by its slope times 2e-9
        change = slope.detach().abs().reshape(-1, 2).amax(1) * 2.1 * gap
        # rounding of angles, seen through ever higher derivatives: each is at most some 100 times the one before
        limit = change + 1e-10 * 100**order * (1 + before.abs())
        assert bool(((after - before).abs() <= limit).all()), (order, (after - before).abs().max())
        value = slope


@pytest.mark.parametrize("name", TRANSFORMS)
def test_crossing_to_the_mirror_image_of_a_centre_costs_a_finite_high_energy(
    make_potential: MakePotential, name: str
) -> None:
    potential = make_potential(name)
    x, _ = potential.sample(1, torch.Generator().manual_seed(0))
    q, _ = potential.coordinates.encode(x)
    (column,) = (i for i, n in enumerate(potential.coordinates.codomain.names) if n == "improper CB")
    turns = q.repeat(181, 1)
    turns[:, column] += torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)
    energy = potential.energy(potential.coordinates.decode(turns)[0]).detach() / potential.kT
    torch.testing.assert_close(energy[0], energy[-1], rtol=1e-10, atol=0)
    assert 40 < float(energy.max() - energy[0]) < 120


@pytest.mark.parametrize("name", TRANSFORMS)
def test_atoms_that_approach_one_another_meet_a_wall(make_potential: MakePotential, name: str) -> None:
    potential = make_potential(name)
    x, _ = potential.sample(1, torch.Generator().manual_seed(0))
    q, _ = potential.coordinates.encode(x)
    names = potential.coordinates.codomain.names
    distance = 10.0 ** torch.arange(-1.5, -12, -0.5, dtype=torch.float64)
    for column in [i for i, name in enumerate(names) if name.startswith(("bond", "angle"))]:
        close = q.repeat(len(distance), 1)
        close[:, column] = distance
        energy = potential.energy(potential.coordinates.decode(close)[0]).detach() / potential.kT
        assert bool(energy.isfinite().all()), names[column]
        assert bool((energy > potential.energy(x).detach() / potential.kT + 20).all()), names[column]
        assert bool((energy.diff() > 0).all()), (names[column], energy)
