"""What positions must satisfy to have internal coordinates."""

from __future__ import annotations

import math
import warnings

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.errors import GeometryError
from ..core.topology import Topology
from ..molecules.checks import GeometryWarning, _atoms, _chunks, check_positions
from ..molecules.geometry import angle
from .zmatrix import ZMatrix

COLLINEAR = 0.01
"""Angles nearer than this (rad) to 0 or pi define no torsion."""

NEARLY_COLLINEAR = 0.15
"""Angles nearer than this (rad) to 0 or pi are warned about."""


def check_geometry(topology: Topology, zmatrix: ZMatrix, positions: Float[Tensor, "frames atoms 3"]) -> None:
    """Raise a `GeometryError` unless positions (nm) have internal coordinates; warn of nearly collinear triples.

    Args:
        topology: The molecule, which the positions must be of: see `check_positions`.
        zmatrix: The z-matrix whose torsions must be defined.
        positions: nm.
    """
    check_positions(topology, positions)
    _check_bends(topology, zmatrix, positions)


def _check_bends(topology: Topology, zmatrix: ZMatrix, positions: Float[Tensor, "frames atoms 3"]) -> None:
    triples = collinear_triples(zmatrix).to(positions.device)
    bent: Float[Tensor, "triples"] = positions.new_full((len(triples),), math.pi)
    for start, part in _chunks(positions):
        bent = torch.minimum(bent, _require_bent(topology, triples, part, start))
    nearly = [
        f"{_atoms(topology, triples[k].tolist())} (within {math.degrees(float(bent[k])):.1f} degrees)"
        for k in bent.argsort().tolist()
        if bent[k] < NEARLY_COLLINEAR
    ]
    if nearly:
        warnings.warn(
            f"Nearly collinear atoms: {'; '.join(nearly[:5])}. Forces and log-densities lose digits there; a z-matrix "
            "whose angles avoid these atoms would not.",
            GeometryWarning,
            stacklevel=3,
        )


def warn_of_bends(topology: Topology, positions: Float[Tensor, "frames atoms 3"]) -> None:
    """Warn where the automatic z-matrix would not do for positions (nm) that are good otherwise."""
    try:
        _check_bends(topology, ZMatrix.from_topology(topology), positions)
    except GeometryError as error:
        warnings.warn(
            f"These positions can be trained on only with a z-matrix of your own: {error}",
            GeometryWarning,
            stacklevel=2,
        )


def collinear_triples(zmatrix: ZMatrix) -> Int[Tensor, "triples 3"]:
    """The triples that must not be collinear: of every angle, and of the three references of every torsion."""
    found: dict[tuple[int, int, int], None] = {}
    for row in zmatrix.rows[2:]:
        for a, b, c in ((row.atom, row.bond, row.angle), (row.bond, row.angle, row.torsion)):
            if c >= 0 and (c, b, a) not in found:
                found[a, b, c] = None
    return torch.tensor(list(found))


def _require_bent(
    topology: Topology, triples: Int[Tensor, "triples 3"], positions: Float[Tensor, "frames atoms 3"], start: int
) -> Float[Tensor, "triples"]:
    """The smallest distance of each triple's angle from 0 and pi."""
    a, b, c = triples.T
    bend = angle(positions[:, a] - positions[:, b], positions[:, c] - positions[:, b])
    smallest, frames = torch.minimum(bend, math.pi - bend).min(0)
    k = int(smallest.argmin())
    if smallest[k] < COLLINEAR:
        frame = int(frames[k])
        raise GeometryError(
            f"Atoms {_atoms(topology, triples[k].tolist())} are collinear in frame {start + frame} (angle "
            f"{math.degrees(float(bend[frame, k])):.2f} degrees), so torsions about them are undefined. Leave the "
            "frame out if it is an accident; for a linear group give a z-matrix whose angles avoid these atoms "
            "(zmatrix in the settings of a training)."
        )
    return smallest
