"""What positions must satisfy to have internal coordinates."""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import GeometryError
from ..core.topology import Topology
from .elements import element
from .geometry import angle, norm
from .zmatrix import ZMatrix

OVERLAP = 0.02
"""Atoms nearer than this (nm) overlap; the shortest bond there is, H2, has 0.074 nm."""

COLLINEAR = 0.01
"""Angles nearer than this (rad) to 0 or pi define no torsion."""

NEARLY_COLLINEAR = 0.15
"""Angles nearer than this (rad) to 0 or pi are warned about."""

PYRAMIDAL = math.radians(342.0)
"""Sum of the three angles at an atom, half-way from tetrahedral (328.4 degrees) to planar (360)."""


class GeometryWarning(UserWarning):
    """Positions that can be used, but with a numerical risk."""


def check_geometry(topology: Topology, zmatrix: ZMatrix, positions: Float[Tensor, "frames atoms 3"]) -> None:
    """Raise a `GeometryError` unless positions (nm) have internal coordinates; warn of nearly collinear triples.

    Args:
        topology: The molecule.
        zmatrix: The z-matrix whose torsions must be defined.
        positions: nm.
    """
    if positions.ndim != 3 or positions.shape[1:] != (len(topology), 3):
        raise GeometryError(
            f"Positions must have shape (frames, {len(topology)}, 3), one row per atom; got {tuple(positions.shape)}."
        )
    positions = positions.detach()
    finite = positions.isfinite().all(-1)
    if not bool(finite.all()):
        frame, atom = (int(i) for i in (~finite).nonzero()[0])
        raise GeometryError(
            f"The position of atom {atom} ({topology.atoms[atom]}) in frame {frame} is not finite. Leave the frame out."
        )
    _require_bond_lengths(topology, positions)
    _require_apart(topology, positions)
    _require_hydrogens(topology, positions)
    _require_bent(topology, zmatrix, positions)


def _require_bond_lengths(topology: Topology, positions: Float[Tensor, "frames atoms 3"]) -> None:
    bonds = torch.tensor(topology.bonds, device=positions.device)
    radii = positions.new_tensor([element(symbol).radius for symbol in topology.elements])
    expected = radii[bonds].sum(-1)
    lengths = norm(positions[:, bonds[:, 0]] - positions[:, bonds[:, 1]])
    ratios = lengths / expected
    scale = float(ratios.median())
    if 5 < scale < 20:
        raise GeometryError(
            f"Bond lengths are {scale:.1f} times the sum of covalent radii: the positions seem to be in Å. "
            "Divide them by 10; smoothflow works in nm."
        )
    wrong = (ratios > 2.5).nonzero()
    if len(wrong):
        frame, bond = (int(i) for i in wrong[0])
        i, j = topology.bonds[bond]
        raise GeometryError(
            f"Bond {topology.atoms[i]} to {topology.atoms[j]} is {float(lengths[frame, bond]):.3f} nm long in frame "
            f"{frame}; covalent radii give {float(expected[bond]):.3f} nm. Check the order of the atoms and the unit "
            "(nm), and make molecules whole across periodic boundaries."
        )


def _require_apart(topology: Topology, positions: Float[Tensor, "frames atoms 3"]) -> None:
    n = len(topology)
    first, second = torch.triu_indices(n, n, 1, device=positions.device)
    chunk = max(1, 2_000_000 // len(first))
    for start in range(0, len(positions), chunk):
        part = positions[start : start + chunk]
        near = (norm(part[:, first] - part[:, second]) < OVERLAP).nonzero()
        if len(near):
            frame, pair = (int(i) for i in near[0])
            i, j = int(first[pair]), int(second[pair])
            raise GeometryError(
                f"Atoms {i} ({topology.atoms[i]}) and {j} ({topology.atoms[j]}) overlap in frame {start + frame}: "
                f"they are less than {OVERLAP} nm apart. Remove duplicated atoms, or leave the frame out."
            )


def _require_hydrogens(topology: Topology, positions: Float[Tensor, "frames atoms 3"]) -> None:
    """A carbon with three neighbours that is no plane, on average over the frames, lacks one."""
    neighbours = topology.neighbours()
    centres = [i for i, e in enumerate(topology.elements) if e == "C" and len(neighbours[i]) == 3]
    if not centres:
        return
    ends = torch.tensor([neighbours[i] for i in centres], device=positions.device)
    arms = positions[:, ends] - positions[:, centres][:, :, None]
    total = sum(angle(arms[:, :, i], arms[:, :, j]) for i, j in ((0, 1), (1, 2), (2, 0)))
    mean = torch.as_tensor(total).mean(0)
    bad = (mean < PYRAMIDAL).nonzero()
    if len(bad):
        i = centres[int(bad[0])]
        raise GeometryError(
            f"Atom {i} ({topology.atoms[i]}) is carbon with three bonds that do not lie in a plane (their angles sum "
            f"to {math.degrees(float(mean[int(bad[0])])):.0f} degrees): a hydrogen is missing. Add it, for example "
            "with openmm.app.Modeller.addHydrogens."
        )


def _require_bent(topology: Topology, zmatrix: ZMatrix, positions: Float[Tensor, "frames atoms 3"]) -> None:
    triples = collinear_triples(zmatrix).to(positions.device)
    a, b, c = triples.T
    bend = angle(positions[:, a] - positions[:, b], positions[:, c] - positions[:, b])
    straightness = torch.minimum(bend, math.pi - bend)
    worst, frames = straightness.min(0)
    for k in worst.argsort().tolist():
        if worst[k] > NEARLY_COLLINEAR:
            break
        atoms = ", ".join(f"{topology.atoms[i]}" for i in triples[k].tolist())
        degrees = math.degrees(float(bend[frames[k], k]))
        where = f"Atoms {atoms} make an angle of {degrees:.2f} degrees in frame {int(frames[k])}"
        if worst[k] < COLLINEAR:
            raise GeometryError(
                f"{where}: they are collinear, so a torsion about them is undefined. Leave the frame out if it is an "
                "accident; for a linear group give a z-matrix of your own whose angles avoid these atoms."
            )
        warnings.warn(
            f"{where}: they are nearly collinear, so forces and log-densities lose digits there. A z-matrix whose "
            "angles avoid these atoms would not.",
            GeometryWarning,
            stacklevel=4,
        )


def collinear_triples(zmatrix: ZMatrix) -> Int[Tensor, "triples 3"]:
    """The triples that must not be collinear: of every angle, and of the three references of every torsion."""
    found: dict[tuple[int, int, int], None] = {}
    for row in zmatrix.rows[2:]:
        for a, b, c in ((row.atom, row.bond, row.angle), (row.bond, row.angle, row.torsion)):
            if c >= 0 and (c, b, a) not in found:
                found[a, b, c] = None
    return torch.tensor(list(found))
