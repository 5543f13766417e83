"""Internal coordinates against MDTraj, autograd's Jacobian and rigid motions."""

from __future__ import annotations

import copy
import math

import mdtraj
import pytest
import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.coordinates.zmatrix import ZMatrix
from smoothflow.core.errors import TopologyError
from smoothflow.core.manifolds import FULL_TURN, Circle, Interval
from smoothflow.core.topology import Atom, Topology
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

EXACT = {"rtol": 0, "atol": 1e-10}  # rounding in float64, carried through up to 24 levels of atoms


def distances(positions: Tensor) -> Tensor:
    return torch.linalg.norm(positions[:, :, None] - positions[:, None], dim=-1)


def volumes(positions: Tensor) -> Tensor:
    """Triple products of consecutive atoms."""
    arms = positions[:, 1:] - positions[:, :1]
    return (torch.linalg.cross(arms[:, :-2], arms[:, 1:-1]) * arms[:, 2:]).sum(-1)


def wrapped(difference: Tensor) -> Tensor:
    return difference - FULL_TURN * torch.round(difference / FULL_TURN)


def rigid_motions(positions: Tensor) -> Tensor:
    """The six derivatives of positions with respect to translations and to rotations about the axes: (3n, 6)."""
    n = len(positions)
    translations = torch.eye(3, dtype=positions.dtype).expand(n, 3, 3)
    axes = torch.eye(3, dtype=positions.dtype)
    rotations = torch.stack([torch.linalg.cross(axis.expand(n, 3), positions) for axis in axes], dim=-1)
    return torch.cat([translations, rotations], dim=-1).reshape(3 * n, 6)


def test_positions_come_back_up_to_a_rigid_motion(molecule) -> None:
    positions = molecule.random_positions(20)
    q, encoded = molecule.coordinates.encode(positions)
    back, decoded = molecule.coordinates.decode(q)
    torch.testing.assert_close(distances(back), distances(positions), **EXACT)
    torch.testing.assert_close(encoded, -decoded, **EXACT)
    # distances cannot tell a molecule from its mirror image; a triple product can
    torch.testing.assert_close(volumes(back), volumes(positions), **EXACT)


def test_internal_coordinates_come_back(molecule) -> None:
    q = molecule.random_q(20)
    positions, _ = molecule.coordinates.decode(q)
    back, _ = molecule.coordinates.encode(positions)
    torch.testing.assert_close(wrapped(back - q), torch.zeros_like(q), **EXACT)


def test_round_trip_in_float32(molecule) -> None:
    positions = molecule.random_positions(20).float()
    q, _ = molecule.coordinates.encode(positions)
    back, _ = molecule.coordinates.decode(q)
    assert back.dtype == torch.float32
    assert (distances(back.double()) - distances(positions.double())).abs().max() < 1e-5  # nm, as required


def test_columns_name_every_coordinate(molecule) -> None:
    codomain, n = molecule.coordinates.codomain, molecule.n_atoms
    assert len(codomain) == 3 * n - 6
    manifolds = [column.manifold for column in codomain]
    lengths, angles, torsions = [Interval(0, math.inf)], [Interval(0, math.pi)], [Circle(FULL_TURN)]
    assert manifolds == lengths * (n - 1) + angles * (n - 2) + torsions * (n - 3)
    codomain.require_inside(molecule.coordinates.encode(molecule.random_positions(5))[0], "q")


def test_agrees_with_mdtraj(molecule) -> None:
    positions = molecule.random_positions(5)
    q, _ = molecule.coordinates.encode(positions)
    rows = torch.tensor(molecule.coordinates.zmatrix.rows)
    trajectory = mdtraj.Trajectory(positions.numpy(), None)
    bonds, angles, torsions = torch.split(q, molecule.coordinates.n_vectors, dim=-1)
    expected = torch.from_numpy(mdtraj.compute_distances(trajectory, rows[1:, :2].numpy()))
    torch.testing.assert_close(bonds.float(), expected, rtol=0, atol=1e-6)  # MDTraj computes in float32
    expected = torch.from_numpy(mdtraj.compute_angles(trajectory, rows[2:, :3].numpy()))
    torch.testing.assert_close(angles.float(), expected, rtol=0, atol=2e-4)  # and angles by arc cosine
    if molecule.n_atoms > 3:
        expected = torch.from_numpy(mdtraj.compute_dihedrals(trajectory, rows[3:].numpy()))
        difference = wrapped(torsions.float() - expected)
        torch.testing.assert_close(difference, torch.zeros_like(difference), rtol=0, atol=2e-4)


def test_decode_determinant_with_the_six_rigid_motions_added(molecule) -> None:
    # x = shift + rotation (decode q): at zero shift and rotation the 3n x 3n Jacobian is [dx/dq, rigid motions]
    q = molecule.random_q(1)
    positions, log_abs_det = molecule.coordinates.decode(q)

    def flat(q: Tensor) -> Tensor:
        return molecule.coordinates.decode(q[None])[0].flatten()

    jacobian = torch.autograd.functional.jacobian(flat, q[0], vectorize=True)
    square = torch.cat([jacobian, rigid_motions(positions[0])], dim=-1)
    # the determinant of 498 x 498 numbers loses some digits
    torch.testing.assert_close(torch.linalg.slogdet(square).logabsdet, log_abs_det[0], rtol=0, atol=1e-8)


def test_encode_determinant_by_volumes(molecule) -> None:
    # J = dq/dx has the rigid motions G as its kernel, so |det [dx/dq, G]| = sqrt(det G^T G / det J J^T)
    positions = molecule.random_positions(1)
    _, log_abs_det = molecule.coordinates.encode(positions)

    def flat(x: Tensor) -> Tensor:
        return molecule.coordinates.encode(x.reshape(1, -1, 3))[0].flatten()

    jacobian = torch.autograd.functional.jacobian(flat, positions.flatten(), vectorize=True)
    motions = rigid_motions(positions[0])
    assert (jacobian @ motions).abs().max() < 1e-8
    # half a log-determinant of a Gram matrix, from the singular values of its root
    volume = torch.linalg.svdvals(jacobian).log().sum() - torch.linalg.svdvals(motions).log().sum()
    torch.testing.assert_close(log_abs_det[0], volume, rtol=0, atol=1e-8)


def test_rigid_motions_and_mirrors(alanine) -> None:
    q, log_abs_det = alanine.coordinates.encode(alanine.random_positions(10, seed=3))
    positions, _ = alanine.coordinates.decode(q)
    torch.testing.assert_close(alanine.coordinates.encode(positions)[0], q, **EXACT)
    mirrored, mirrored_log_abs_det = alanine.coordinates.encode(positions * torch.tensor([1.0, 1.0, -1.0]).double())
    n = alanine.n_atoms
    torch.testing.assert_close(mirrored[:, : 2 * n - 3], q[:, : 2 * n - 3], **EXACT)
    torch.testing.assert_close(wrapped(mirrored + q)[:, 2 * n - 3 :], torch.zeros(10, n - 3).double(), **EXACT)
    torch.testing.assert_close(mirrored_log_abs_det, log_abs_det, **EXACT)


def test_standard_frame(molecule) -> None:
    positions, _ = molecule.coordinates.decode(molecule.random_q(4))
    first, second, third = (positions[:, row.atom] for row in molecule.coordinates.zmatrix.rows[:3])
    assert torch.equal(first, torch.zeros_like(first))
    assert torch.equal(second[:, 1:], torch.zeros_like(second[:, 1:]))
    assert torch.equal(third[:, 2], torch.zeros_like(third[:, 2]))
    assert (second[:, 0] > 0).all()
    assert (third[:, 1] > 0).all()


def test_the_reference_atoms_volume_is_what_their_standard_frame_leaves_out(molecule) -> None:
    q = molecule.random_q(1)
    n_atoms = len(molecule.coordinates.topology)
    second, third = (row.atom for row in molecule.coordinates.zmatrix.rows[1:3])

    def in_the_frame(q: Tensor) -> Tensor:
        positions = molecule.coordinates.decode(q[None])[0][0]
        return torch.stack([positions[second, 0], positions[third, 0], positions[third, 1]])

    # the first two bonds and the first angle; the first atom is at the origin
    jacobian = torch.autograd.functional.jacobian(in_the_frame, q[0])[:, [0, 1, n_atoms - 1]]
    left = torch.linalg.slogdet(jacobian).logabsdet
    whole = 2 * q[0, :2].log().sum() + q[0, n_atoms - 1].sin().log()
    found = molecule.coordinates.log_volume_of_reference_atoms(q)
    torch.testing.assert_close(found[0], whole - left, **EXACT)


def small() -> InternalCoordinates:
    """Four atoms, the whole of the mathematics: bond, angle and torsion."""
    atoms = tuple(Atom(symbol, f"{symbol}{i}", "HO2", 0) for i, symbol in enumerate("HOOH"))
    return InternalCoordinates(Topology(atoms, ((0, 1), (1, 2), (2, 3))))


def test_first_and_second_derivatives() -> None:
    coordinates = small()
    q = torch.tensor([[0.147, 0.096, 0.096, 1.7, 1.8, 2.1], [0.147, 0.096, 0.096, 1.7, 1.8, math.pi]]).double()
    positions, _ = coordinates.decode(q)
    for function, point in ((coordinates.encode, positions), (coordinates.decode, q)):
        point = point.detach().requires_grad_(True)

        def smooth(x: Tensor, function=function) -> tuple[Tensor, Tensor]:
            value, log_abs_det = function(x)
            # torsions jump by a full turn at the seam, their cosine and sine do not
            return (value.sin(), log_abs_det) if function == coordinates.encode else (value, log_abs_det)

        assert torch.autograd.gradcheck(smooth, point)
        assert torch.autograd.gradgradcheck(smooth, point)


def test_planar_torsions_have_finite_derivatives() -> None:
    coordinates = small()
    q = torch.tensor([[0.147, 0.096, 0.096, 1.7, 1.8, 0.0], [0.147, 0.096, 0.096, 1.7, 1.8, math.pi]]).double()
    positions = coordinates.decode(q)[0].requires_grad_(True)
    encoded, _ = coordinates.encode(positions)
    (first,) = torch.autograd.grad(encoded.square().sum(), positions, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), positions)
    assert first.isfinite().all()
    assert second.isfinite().all()


def test_any_zmatrix_gives_the_same_measure(alanine) -> None:
    # rows in another order, unbonded references, torsions that no graph suggests
    rows = [(0, -1, -1, -1), (4, 0, -1, -1), (1, 0, 4, -1), (2, 0, 4, 1), (3, 0, 1, 2)]
    placed = [0, 4, 1, 2, 3]
    for atom in range(5, 22):
        bond = next(i for i in alanine.topology.neighbours()[atom] if i in placed)
        others = [i for i in reversed(placed) if i != bond][:2]
        rows.append((atom, bond, *others))
        placed.append(atom)
    coordinates = InternalCoordinates(alanine.topology, ZMatrix(tuple(rows)))
    positions = alanine.random_positions(5)
    q, encoded = coordinates.encode(positions)
    back, decoded = coordinates.decode(q)
    torch.testing.assert_close(distances(back), distances(positions), rtol=0, atol=1e-8)  # some triples are thin
    torch.testing.assert_close(encoded, -decoded, **EXACT)
    jacobian = torch.autograd.functional.jacobian(
        lambda x: coordinates.encode(x[None])[0][0], positions[0], vectorize=True
    )
    motions = rigid_motions(positions[0])
    volume = torch.linalg.svdvals(jacobian.flatten(1)).log().sum() - torch.linalg.svdvals(motions).log().sum()
    torch.testing.assert_close(encoded[0], volume, rtol=0, atol=1e-7)


def test_moves_with_its_module(alanine) -> None:
    coordinates = copy.deepcopy(alanine.coordinates).to(torch.float32)
    q, _ = coordinates.encode(alanine.positions)
    assert q.dtype == torch.float64  # the dtype is that of the positions
    assert not list(coordinates.parameters())
    assert not coordinates.state_dict()  # all is derived from topology and z-matrix


def test_an_empty_batch(alanine) -> None:
    positions, log_abs_det = alanine.coordinates.decode(torch.empty((0, 60)))
    assert positions.shape == (0, 22, 3)
    assert alanine.coordinates.encode(positions)[0].shape == (0, 60)
    assert log_abs_det.shape == (0,)


def test_traces_for_any_batch(alanine) -> None:
    # what compilers of fast forces need: a graph with the gradient in it, and the batch left open
    def log_det_and_gradient(positions: Tensor) -> tuple[Tensor, Tensor]:
        q, log_abs_det = alanine.coordinates.encode(positions)
        value = log_abs_det + q.square().sum(-1)
        return value, torch.autograd.grad(value.sum(), positions)[0]

    # not 3 conformations: equal sizes are taken to be the same
    example = alanine.random_positions(5).requires_grad_(True)
    graph = make_fx(log_det_and_gradient, tracing_mode="symbolic", _allow_non_fake_inputs=True)(example)
    positions = alanine.random_positions(7, seed=5).requires_grad_(True)
    for ours, expected in zip(graph(positions), log_det_and_gradient(positions), strict=True):
        torch.testing.assert_close(ours, expected, **EXACT)


def test_a_user_cannot_split_a_molecule(alanine) -> None:
    apart = Topology(alanine.topology.atoms, tuple(bond for bond in alanine.topology.bonds if bond != (4, 6)))
    with pytest.raises(TopologyError, match="more than one molecule"):
        InternalCoordinates(apart, alanine.coordinates.zmatrix)
