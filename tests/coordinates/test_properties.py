"""For any tree of atoms and any internal coordinates: they come back, wherever the molecule is and however it lies."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.manifolds import FULL_TURN
from smoothflow.core.topology import Atom, Topology
from torch import Tensor

MOST_BONDS = 4


@st.composite
def molecules(draw: st.DrawFn) -> tuple[InternalCoordinates, Tensor]:
    """A molecule without rings, and one configuration of it."""
    n = draw(st.integers(3, 10))
    bonds: list[tuple[int, int]] = []
    for atom in range(1, n):
        free = [i for i in range(atom) if sum(i in bond for bond in bonds) < MOST_BONDS]
        bonds.append((draw(st.sampled_from(free)), atom))
    topology = Topology(tuple(Atom("Si", f"S{i}", "MOL", 0) for i in range(n)), tuple(sorted(bonds)))
    coordinates = InternalCoordinates(topology)
    places = {"bond": st.floats(0.08, 0.3), "angle": st.floats(0.2, 2.9), "torsion": st.floats(0, 6.28)}
    kinds = ["bond"] * (n - 1) + ["angle"] * (n - 2) + ["torsion"] * (n - 3)
    return coordinates, torch.tensor([[draw(places[kind]) for kind in kinds]], dtype=torch.float64)


def rotation(angles: tuple[float, float, float]) -> Tensor:
    """Turns about z, y and z."""

    def turn(angle: float, axis: int) -> Tensor:
        generator = torch.zeros(3, 3, dtype=torch.float64)
        generator[axis - 2, axis - 1], generator[axis - 1, axis - 2] = -angle, angle
        return torch.linalg.matrix_exp(generator)

    first, second, third = angles
    return turn(first, 2) @ turn(second, 1) @ turn(third, 2)


def assert_same(coordinates: InternalCoordinates, found: Tensor, expected: Tensor, atol: float) -> None:
    difference = found - expected
    n_torsions = len(coordinates.topology) - 3
    split = difference.shape[-1] - n_torsions
    assert float(difference[:, :split].abs().max()) < atol
    turns = difference[:, split:]
    assert n_torsions == 0 or float((turns - FULL_TURN * torch.round(turns / FULL_TURN)).abs().max()) < atol


@given(molecules())
def test_internal_coordinates_come_back(molecule: tuple[InternalCoordinates, Tensor]) -> None:
    coordinates, q = molecule
    positions, decoded = coordinates.decode(q)
    back, encoded = coordinates.encode(positions)
    # rounding, through up to ten levels of atoms, and more where angles are small: 1 / sin(0.2)^2 at each
    assert_same(coordinates, back, q, 1e-9)
    assert float((encoded + decoded).abs()) < 1e-8


@given(molecules(), st.tuples(*[st.floats(-math.pi, math.pi)] * 3), st.tuples(*[st.floats(-10, 10)] * 3))
def test_rigid_motions_change_nothing(
    molecule: tuple[InternalCoordinates, Tensor], angles: tuple[float, float, float], shift: tuple[float, float, float]
) -> None:
    coordinates, q = molecule
    positions, _ = coordinates.decode(q)
    expected, log_abs_det = coordinates.encode(positions)
    moved = positions @ rotation(angles).T + torch.tensor(shift, dtype=torch.float64)
    found, log_abs_det_moved = coordinates.encode(moved)
    # positions of 10 nm are rounded to 1e-15, and short sides of triangles are 0.02
    assert_same(coordinates, found, expected, 1e-9)
    assert float((log_abs_det_moved - log_abs_det).abs()) < 1e-8
