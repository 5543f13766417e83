"""What positions must satisfy to have internal coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import GeometryError
from ..core.finite import first_not_finite
from ..core.topology import Topology
from .elements import covalent_lengths
from .geometry import angle, handedness, norm, tetrahedral_centres
from .topology_checks import ADD_IT, NON_METALS

OVERLAP = 0.02
"""Atoms nearer than this (nm) overlap; the shortest bond there is, H2, has 0.074 nm."""


STRETCHED = 1.5
"""Bonds longer than this times the sum of covalent radii are not bonds; atoms two bonds apart are 1.6 or more away."""


COMPRESSED = 0.65
"""Bonds shorter than this times the sum of covalent radii, on average, are of other elements: C-H has 1.0, N2 0.77."""


BENT = math.radians(150.0)
"""The angle half-way between a linear carbon (180 degrees) and a trigonal one that lacks a neighbour."""


PYRAMIDAL = math.radians(342.0)
"""Sum of the three angles at an atom, near the middle of tetrahedral (328 degrees) and planar (360)."""


CHUNK = 4_000_000
"""Numbers handled at a time."""


class GeometryWarning(UserWarning):
    """Positions that can be used, but with a numerical risk."""


def check_positions(topology: Topology, positions: Float[Tensor, "frames atoms 3"]) -> None:
    """Raise a `GeometryError` unless positions (nm) can be those of the molecule, whatever its z-matrix.

    Found are positions that are not finite, in Å, or not in the order of the topology; overlapping atoms; hydrogens
    missing on carbon; and frames of another stereoisomer than the others.
    """
    if positions.ndim != 3 or positions.shape[1:] != (len(topology), 3) or len(positions) == 0:
        raise GeometryError(
            f"Positions must have shape (frames, {len(topology)}, 3), one row per atom, and at least one frame; got "
            f"{tuple(positions.shape)}."
        )
    arranged = []
    for start, part in _chunks(positions):
        _require_finite(topology, part, start)
        ratios = bond_ratios(topology, part)
        require_unit(ratios)
        _require_apart(topology, part, start)
        _require_bonds(topology, ratios, start)
        _require_elements(topology, ratios)
        _require_hydrogens(topology, part)
        arranged.append(handedness(part, topology))
    _require_one_handedness(topology, torch.cat(arranged))


def require_unit(ratios: Float[Tensor, "*batch"]) -> None:
    """Raise a `GeometryError` if bond lengths, in units of the sums of covalent radii, show another unit of length."""
    # virtual bonds have no ratio
    scale = float(ratios.nanmedian())
    seem = "in Å where nm are expected. Divide" if scale > 1 else "in nm where Å are expected. Multiply"
    if 5 < scale < 20 or 0.05 < scale < 0.2:
        raise GeometryError(
            f"Bond lengths are {scale:.3g} times the sums of covalent radii: the positions seem to be {seem} them "
            "by 10."
        )


def _chunks(positions: Float[Tensor, "frames atoms 3"]) -> Iterator[tuple[int, Float[Tensor, "chunk atoms 3"]]]:
    """The positions in parts that fit into memory, each with the number of its first frame."""
    size = max(1, CHUNK // positions.shape[1] ** 2)
    yield from zip(range(0, len(positions), size), torch.split(positions.detach(), size), strict=True)


def _atoms(topology: Topology, indices: list[int]) -> str:
    return ", ".join(str(topology.atoms[i]) for i in indices)


def _require_finite(topology: Topology, positions: Float[Tensor, "frames atoms 3"], start: int) -> None:
    bad = first_not_finite(positions)
    if bad is not None:
        frame, atom = bad[:2]
        raise GeometryError(
            f"The position of atom {atom} ({topology.atoms[atom]}) in frame {start + frame} is not finite. Leave the "
            "frame out."
        )


def bond_ratios(topology: Topology, positions: Float[Tensor, "frames atoms 3"]) -> Float[Tensor, "frames bonds"]:
    """Bond lengths in units of the sums of covalent radii; nan of virtual bonds."""
    bonds = torch.tensor(topology.bonds, device=positions.device)
    return norm(positions[:, bonds[:, 0]] - positions[:, bonds[:, 1]]) / covalent_lengths(topology).to(positions)


def _require_bonds(topology: Topology, ratios: Float[Tensor, "frames bonds"], start: int) -> None:
    wrong = (ratios > STRETCHED).nonzero()
    if len(wrong):
        frame, bond = (int(i) for i in wrong[0])
        first, second = (topology.atoms[i] for i in topology.bonds[bond])
        expected = float(covalent_lengths(topology)[bond])
        raise GeometryError(
            f"The bond of {first} and {second} is {float(ratios[frame, bond]) * expected:.3g} nm long in "
            f"frame {start + frame}; covalent radii give {expected:.3f} nm. Check the order of the atoms "
            "and the unit (nm), and make molecules whole across periodic boundaries."
        )


def _require_elements(topology: Topology, ratios: Float[Tensor, "frames bonds"]) -> None:
    """A calcium that is an alpha carbon has bonds of half the length that it should have."""
    short = (ratios.mean(0) < COMPRESSED).nonzero()
    if len(short):
        bond = int(short[0])
        first, second = (topology.atoms[i] for i in topology.bonds[bond])
        expected = float(covalent_lengths(topology)[bond])
        raise GeometryError(
            f"The bond of {first} ({first.element}) and {second} ({second.element}) is "
            f"{float(ratios[:, bond].mean()) * expected:.3g} nm long on average and not {expected:.3f} nm, "
            "like covalent radii. An element seems to be wrong: correct it (columns 77-78 of a PDB file)."
        )


def _require_apart(topology: Topology, positions: Float[Tensor, "frames atoms 3"], start: int) -> None:
    n = len(topology)
    first, second = torch.triu_indices(n, n, 1, device=positions.device)
    near = (norm(positions[:, first] - positions[:, second]) < OVERLAP).nonzero()
    if len(near):
        frame, pair = (int(i) for i in near[0])
        i, j = int(first[pair]), int(second[pair])
        raise GeometryError(
            f"Atoms {i} ({topology.atoms[i]}) and {j} ({topology.atoms[j]}) overlap in frame {start + frame}: they are "
            f"less than {OVERLAP} nm apart. Remove duplicated atoms, or leave the frame out."
        )


def _require_hydrogens(topology: Topology, positions: Float[Tensor, "frames atoms 3"]) -> None:
    """A carbon with two neighbours not in line, or three not in a plane, on average over the frames, lacks one."""
    neighbours = topology.neighbours()
    for centre, atom in enumerate(topology.atoms):
        ends = neighbours[centre]
        if atom.element != "C" or len(ends) not in (2, 3) or centre in topology.open_valences:
            continue
        if any(topology.elements[end] not in NON_METALS for end in ends):
            continue
        arms = positions[:, ends] - positions[:, centre, None]
        if len(ends) == 2:
            found = float(angle(arms[:, 0], arms[:, 1]).mean())
            lacks, shape = found < BENT, f"two bonds at {math.degrees(found):.0f} degrees"
        else:
            found = float(angle(arms, arms.roll(1, dims=1)).sum(-1).mean())
            lacks, shape = found < PYRAMIDAL, "three bonds that do not lie in a plane"
        if lacks:
            raise GeometryError(f"Atom {centre} ({atom}) is carbon with {shape}: a hydrogen is missing. {ADD_IT}")


def _require_one_handedness(topology: Topology, found: Float[Tensor, "frames centres"]) -> None:
    different = found != torch.where(found.sum(0) < 0, -1, 1)
    if bool(different.any()):
        frame = int(different.any(1).nonzero()[0])
        centre = tetrahedral_centres(topology)[int(different[frame].nonzero()[0])]
        neighbours = _atoms(topology, list(topology.neighbours()[centre]))
        raise GeometryError(
            f"Frame {frame} is another stereoisomer than most frames, or has its atoms in another order: seen from "
            f"atom {centre} ({topology.atoms[centre]}), {neighbours} go round the other way. So it is in "
            f"{int(different.any(1).sum())} of {len(found)} frames: leave them out, or put their atoms into one order."
        )
