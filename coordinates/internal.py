"""Internal coordinates: bonds, angles and torsions of a z-matrix, and back."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.display import described
from ..core.manifolds import FULL_TURN, Circle, Column, Interval, Product
from ..core.topology import Topology
from ..molecules.geometry import norm, take_rows
from ..molecules.topology_checks import require_molecule
from .checks import check_geometry
from .naming import angle_names, bond_names, torsion_names
from .zmatrix import ZMatrix

QUICK_TORSIONS = ("methyl", "improper", "omega")
"""Torsions that cross their barriers quickly, or hardly ever even at the temperatures of a replica exchange."""


class InternalCoordinates(nn.Module):
    r"""Cartesian positions modulo rigid motion, to and from the bonds, angles and torsions of a z-matrix.

    Atom a with references b, c, d has the vectors u = a - b, v = c - b, w = d - c and the coordinates

    .. math::
        r = |u|, \qquad \theta = \operatorname{atan2}(|u \times v|, u \cdot v), \qquad
        \phi = \operatorname{atan2}(-|v|\, u \cdot (v \times w), -(u \times v) \cdot (v \times w)),

    with torsions in (-pi, pi], signed after IUPAC. The measure on positions is the Cartesian one divided by that of
    rigid motions (translations, and rotations by angles about three axes), so that

    .. math:: \left| \det \frac{\partial x}{\partial q} \right| = \prod_{i \ge 1} r_i^2 \prod_{i \ge 2} \sin \theta_i

    over rows 0, 1, 2, ... of the z-matrix, the three reference atoms included.

    Args:
        topology: One connected molecule of 3 atoms or more.
        zmatrix: How its atoms are placed; `ZMatrix.from_topology` if not given.

    Raises:
        TopologyError: If the topology is not a single complete molecule, or the z-matrix is not one of it.
    """

    def __init__(self, topology: Topology, zmatrix: ZMatrix | None = None) -> None:
        super().__init__()
        require_molecule(topology)
        zmatrix = ZMatrix.from_topology(topology) if zmatrix is None else zmatrix
        zmatrix.require_fits(topology)
        self.topology = topology
        self.zmatrix = zmatrix
        self.codomain = internal_columns(topology, zmatrix)
        """The 3n - 6 named columns: bonds (nm), then angles, then torsions (radians), each in the rows' order."""

        rows = torch.tensor(zmatrix.rows)
        a, b, c, d = rows.T
        # vectors u of rows 1.., v of rows 2.. and w of rows 3..
        ends = torch.cat([a[1:], c[2:], d[3:]])
        starts = torch.cat([b[1:], b[2:], c[3:]])
        n_rows = len(rows)
        self.n_vectors = [n_rows - 1, n_rows - 2, n_rows - 3]
        self._add("vectors", torch.cat([ends, starts]))

        levels = zmatrix.levels[3:]
        order = torch.tensor([0, 1, 2, *(row for level in levels for row in level)])
        place = torch.empty_like(order)  # when each atom is placed
        place[a[order]] = torch.arange(n_rows)
        references = [place[rows[list(level), 1:].T].flatten() for level in levels]
        self.level_sizes = [len(level) for level in levels]
        self.bends_back = bool(b[2] == a[1])
        self._add("order", order[3:] - 3)
        self._add("references", torch.cat([*references, order[:0]]))
        self._add("place", place)
        self.vectors: Tensor
        self.order: Tensor
        self.references: Tensor
        self.place: Tensor

    def __repr__(self) -> str:
        return described(self, self.topology.summary, f"{len(self.codomain)} columns: {self.codomain.kinds}")

    def _add(self, name: str, indices: Tensor) -> None:
        # derived from the z-matrix, so not part of the weights
        self.register_buffer(name, indices, persistent=False)

    def check_geometry(self, positions: Float[Tensor, "batch atoms 3"]) -> None:
        """Raise a `GeometryError` unless positions (nm) have internal coordinates; warn of nearly collinear triples.

        `encode` itself checks nothing: it is called at every step of molecular dynamics.
        """
        check_geometry(self.topology, self.zmatrix, positions)

    def encode(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch"]]:
        """Internal coordinates q of positions x (nm), and log|det dq/dx|."""
        # one row per vector: gathering copies whole rows, and the batch runs fastest
        atoms = positions.permute(1, 2, 0)
        ends, starts = take_rows(atoms, self.vectors).chunk(2)
        u, v, w = torch.split(ends - starts, self.n_vectors)
        u_bent, u_twisted, v_twisted = u[1:], u[2:], v[1:]
        uv = torch.linalg.cross(u_bent, v, dim=1)
        vw = torch.linalg.cross(v_twisted, w, dim=1)
        bonds = norm(u, 1)
        angles = torch.atan2(norm(uv, 1), (u_bent * v).sum(1))
        sine = -norm(v_twisted, 1) * (u_twisted * vw).sum(1)
        cosine = -(uv[1:] * vw).sum(1)
        torsions = torch.atan2(sine, cosine)
        q = torch.cat([bonds, angles, torsions]).T.contiguous()
        return q, -log_volume(bonds, angles)

    def decode(self, q: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, "batch"]]:
        """Positions x (nm) of internal coordinates q, and log|det dx/dq|.

        The first row's atom is at the origin, the second's on the positive x axis, the third's in the x-y plane at
        y > 0.
        """
        bonds, angles, torsions = torch.split(q.T, self.n_vectors)
        r, theta, phi = bonds[2:], angles[1:], torsions
        across = r * theta.sin()
        local = torch.stack([r * theta.cos(), across * phi.cos(), -across * phi.sin()], dim=1)
        local = take_rows(local, self.order)
        placed = self._first_three(bonds, angles)
        sizes = [3 * size for size in self.level_sizes]
        for level, references in zip(
            torch.split(local, self.level_sizes), torch.split(self.references, sizes), strict=True
        ):
            b, c, d = take_rows(placed, references).chunk(3)
            v = c - b
            normal = torch.linalg.cross(v, d - c, dim=1)
            along = v / norm(v, 1).unsqueeze(1)
            normal = normal / norm(normal, 1).unsqueeze(1)
            inward = torch.linalg.cross(normal, along, dim=1)
            atoms = b + level[:, 0:1] * along + level[:, 1:2] * inward + level[:, 2:3] * normal
            placed = torch.cat([placed, atoms])
        positions = take_rows(placed, self.place).permute(2, 0, 1).contiguous()
        return positions, log_volume(bonds, angles)

    def log_volume_of_reference_atoms(self, q: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        r"""The part of log|det dx/dq| that the first three atoms lose when they are put into a standard frame.

        .. math:: \log \left( r_1^2 \, r_2 \sin \theta_2 \right)

        With the first atom at the origin, the second moves on an axis, and its volume :math:`r_1^2\,dr_1` becomes
        :math:`dr_1`; the third moves in a half-plane, and its :math:`r_2^2 \sin\theta_2\,dr_2\,d\theta_2` becomes
        :math:`r_2\,dr_2\,d\theta_2`. A program that counts only these has this number more in its log-densities.

        Args:
            q: Internal coordinates, nm and radians.
        """
        first, second, theta = q[:, 0], q[:, 1], q[:, self.n_vectors[0]]
        return 2 * first.log() + second.log() + theta.sin().log()

    def _first_three(
        self, bonds: Float[Tensor, "n_bonds batch"], angles: Float[Tensor, "n_angles batch"]
    ) -> Float[Tensor, "3 3 batch"]:
        """The reference atoms in the standard frame."""
        first, second, theta = bonds[0], bonds[1], angles[0]
        zero = torch.zeros_like(first)
        x, y = second * theta.cos(), second * theta.sin()
        third_x = first - x if self.bends_back else x
        coordinates = [zero, zero, zero, first, zero, zero, third_x, y, zero]
        return torch.stack(coordinates).reshape(3, 3, first.shape[0])


def internal_columns(topology: Topology, zmatrix: ZMatrix) -> Product:
    """The named columns of a z-matrix: bonds, then angles, then torsions, each in the rows' order."""
    rows = zmatrix.rows
    bonds = bond_names(topology, [row[:2] for row in rows[1:]])
    angles = angle_names(topology, [row[:3] for row in rows[2:]])
    torsions = torsion_names(topology, [row[:4] for row in rows[3:]])
    return Product(
        (
            *(Column(name, Interval(0.0, math.inf)) for name in bonds),
            *(Column(name, Interval(0.0, math.pi)) for name in angles),
            *(Column(name, Circle(FULL_TURN)) for name in torsions),
        )
    )


def log_volume(
    bonds: Float[Tensor, "n_bonds batch"], angles: Float[Tensor, "n_angles batch"]
) -> Float[Tensor, "batch"]:
    r"""The logarithm of :math:`\prod r_i^2 \prod \sin \theta_i`."""
    return 2 * bonds.log().sum(0) + angles.sin().log().sum(0)


def is_slow(torsion: str) -> bool:
    """Whether a torsion of that name crosses barriers rarely, but does."""
    return not torsion.startswith(QUICK_TORSIONS)


def slow_torsions(topology: Topology) -> list[str]:
    """Names of the torsions that replica exchange is for."""
    columns = InternalCoordinates(topology).codomain
    return [columns.names[i] for i in columns.indices(Circle) if is_slow(columns.names[i])]
