"""Part of a system: the selected atoms of a trajectory, their molecules made whole, and the forces on them.

The selected atoms of a Boltzmann distribution have a density of their own, that of the potential of mean force: what is
left out is integrated over. An energy of the system is none of theirs; a force on one of them is, on average over what
is left out.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import ConfigurationError, GeometryError, TopologyError
from ..core.optional import import_optional
from ..core.topology import Topology
from .checks import STRETCHED, bond_ratios, require_unit
from .conversions import topology_to_mdtraj
from .elements import covalent_lengths
from .foreign import ExchangeWarning
from .frames import COLUMNS, PART_OF, Frames
from .label_checks import CONSTRAINED, MIN_FRAMES

if TYPE_CHECKING:
    import mdtraj

CHAIN = "chain"
"""Virtual bonds that are found along the molecule's own bonds."""

OF_THE_WHOLE = ("charge", "multiplicity")
"""What provenance says of a molecule that is not true of a part of it."""

Bond = tuple[int, int]


@dataclass(frozen=True)
class Selection:
    """Which atoms of a system are taken, and what holds them together.

    Attributes:
        text: In MDTraj's selection language.
        bonds: Virtual bonds, between atoms numbered from 0 within the selection; or ``chain``, which joins the pieces
            of the selection where the molecule's own chain of bonds between them is shortest.
    """

    text: str
    bonds: tuple[Bond, ...] | str = ()

    @classmethod
    def parse(cls, text: str, bonds: str | None = None) -> Selection:
        """A selection with bonds as they are written: ``chain``, or pairs like ``0-1,1-2``.

        Raises:
            ConfigurationError: If they are written otherwise.
        """
        if bonds is None or bonds == CHAIN:
            return cls(text, bonds or ())
        pairs = [re.fullmatch(r"\s*(\d{1,6})-(\d{1,6})\s*", pair) for pair in bonds.split(",")]
        if not all(pairs):
            raise ConfigurationError(
                f'"{bonds}" are not bonds. Write pairs of atoms, numbered from 0 within the selection, like 0-1,1-2; '
                f'or "{CHAIN}".'
            )
        found = [(int(pair[1]), int(pair[2])) for pair in pairs if pair is not None]
        return cls(text, tuple(sorted({(min(bond), max(bond)) for bond in found})))

    def indices(self, topology: mdtraj.Topology) -> list[int]:
        """The selected atoms of a topology of MDTraj's, in its order.

        Raises:
            ConfigurationError: If MDTraj does not understand the selection, or no atom is selected.
        """
        try:
            found = [int(i) for i in topology.select(self.text)]
        # MDTraj's parser raises whatever a wrong word leads to
        except Exception as error:
            raise ConfigurationError(
                f'"{self.text}" is not in the selection language of MDTraj ({type(error).__name__}: '
                f'{" ".join(str(error).split())[:100]}). Examples: "protein", "name CA", "not water".'
            ) from error
        if not found:
            raise ConfigurationError(f'The selection "{self.text}" holds none of the {topology.n_atoms} atoms.')
        return found

    def topology(self, whole: Topology, chosen: Sequence[int]) -> Topology:
        """The topology of the chosen atoms, one connected part, with its virtual bonds.

        Atoms that have lost neighbours have open valences: no hydrogen is missed at them.

        Raises:
            ConfigurationError: If a bond is between atoms that are not there.
            TopologyError: If the part is not connected.
        """
        part = whole.take(chosen)
        virtual = sorted(set(self._virtual(whole, chosen, part)) - set(part.bonds))
        lost = {
            i
            for i, (before, after) in enumerate(
                zip((whole.neighbours()[j] for j in chosen), part.neighbours(), strict=True)
            )
            if len(before) != len(after)
        }
        open_valences = sorted({*part.open_valences, *lost, *(i for bond in virtual for i in bond)})
        bonds, virtual = sorted({*part.bonds, *virtual}), sorted({*part.virtual_bonds, *virtual})
        made = Topology(part.atoms, tuple(bonds), tuple(open_valences), tuple(virtual))
        pieces = _pieces(made.neighbours())
        if len(pieces) > 1:
            raise TopologyError(
                f'The selection "{self.text}" is not connected: it has {len(pieces)} pieces, and no chain of its bonds '
                f"joins atom {pieces[0][0]} ({made.atoms[pieces[0][0]]}) and atom {pieces[1][0]} "
                f"({made.atoms[pieces[1][0]]}). {self._remedy}"
            )
        return made

    @property
    def _remedy(self) -> str:
        if self.bonds == CHAIN:
            return "They are in different molecules: select one of them, or name atoms to join, like --bonds 0-1,1-2."
        return (
            f"Select the atoms between them too; or give virtual bonds: --bonds {CHAIN} joins pieces along the "
            "molecule's own bonds, and --bonds 0-1,1-2 the atoms that you name."
        )

    def _virtual(self, whole: Topology, chosen: Sequence[int], part: Topology) -> Iterable[Bond]:
        if isinstance(self.bonds, str):
            return _along_chains(whole, chosen, part)
        for first, second in self.bonds:
            if first == second or int(second) >= len(chosen):
                raise ConfigurationError(
                    f"There is no bond {first}-{second}: the {len(chosen)} selected atoms are numbered from 0 to "
                    f"{len(chosen) - 1} in the order of the file, and a bond joins two of them."
                )
        return [(int(first), int(second)) for first, second in self.bonds]


def select_part(
    frames: Frames, selection: Selection, box: Float[ndarray, "frames 3 3"] | None = None, source: str = "the frames"
) -> Frames:
    """Frames of the selected atoms of a system, with their molecules whole.

    Energies are left out, which are those of the system. Forces are kept. Where a bond of constant length holds an atom
    that is left out to a selected one, the force on both counts: a constraint's own force, which no program writes, is
    nothing to their sum.

    Args:
        frames: Frames of the whole system, which may hold many molecules.
        selection: Which atoms.
        box: Vectors of the periodic box in rows, nm; None where molecules are whole already.
        source: What messages call the frames.

    Raises:
        ConfigurationError: If the selection cannot be read, holds no atoms, or forces cannot be those of its atoms.
        TopologyError: If it is not connected.
        GeometryError: If a molecule is torn.

    Reference: Noid et al., J. Chem. Phys. 128, 244114 (2008), eq. (36); Ciccotti et al., ChemPhysChem 6, 1809 (2005).
    """
    theirs = topology_to_mdtraj(frames.topology)
    return take_part(frames, selection.indices(theirs), selection, len(frames.topology), box, source)


def take_part(
    frames: Frames,
    chosen: Sequence[int],
    selection: Selection,
    n_atoms: int,
    box: Float[ndarray, "frames 3 3"] | None,
    source: str,
) -> Frames:
    """What `select_part` makes of chosen atoms, of frames that may lack other molecules of the system.

    Args:
        frames: All molecules of the chosen atoms at least.
        chosen: Indices of the atoms.
        selection: How they were chosen.
        n_atoms: How many atoms the system has.
        box: As there.
        source: As there.
    """
    whole, text, earlier = frames.topology, selection.text, frames.provenance.get(PART_OF)
    if isinstance(earlier, Mapping):
        # a part of a part
        text, n_atoms = f"{earlier['selection']}, of these {text}", int(earlier["atoms of the system"])
    topology = selection.topology(whole, chosen)
    is_part = len(chosen) < n_atoms
    if frames.energies is not None and is_part:
        warnings.warn(
            f"Energies of {source} are left out: they are those of the whole system, not of a part.",
            ExchangeWarning,
            stacklevel=3,
        )
    if box is not None:
        links = [(chosen[first], chosen[second]) for first, second in topology.virtual_bonds]
        frames = replace(frames, positions=_made_whole(frames, [*whole.bonds, *links], chosen[0], box))
    molecules = sorted({i for piece in _pieces(whole.neighbours()) if set(piece) & set(chosen) for i in piece})
    _require_whole(whole.take(molecules), frames.positions[:, molecules], box is not None, source)
    forces, groups = None, [[i] for i in chosen]
    if frames.forces is not None:
        groups = _rigid_groups(frames, chosen)
        forces = np.stack([frames.forces[:, group].sum(1) for group in groups], axis=1)
    said: dict[str, Any] = {"selection": text, "atoms": len(chosen), "atoms of the system": n_atoms}
    if topology.virtual_bonds:
        said["virtual bonds"] = [list(bond) for bond in topology.virtual_bonds]
    n_summed = sum(len(group) - 1 for group in groups)
    if n_summed:
        said["forces"] = f"with those on {n_summed} atoms that are held to them by constraints"
    kept = {key: value for key, value in frames.provenance.items() if key not in OF_THE_WHOLE}
    columns = {name: getattr(frames, name) for name, (_, of_atoms) in COLUMNS.items() if not of_atoms}
    if not is_part:
        return replace(frames, topology=topology)
    return Frames(
        topology=topology,
        temperature=frames.temperature,
        positions=frames.positions[:, list(chosen)],
        forces=forces,
        provenance={**kept, PART_OF: said},
        **{**columns, "energies": None},
    )


NO_ENERGIES = (
    "a potential of mean force contains the average over all others, and no force field gives its energies. Leave the "
    "force field out; compare averages, like populations of torsions, with those of the simulation."
)
"""Why parts of systems are not compared with force fields."""


def require_system(provenance: Mapping[str, Any], what: str, why: str = NO_ENERGIES) -> None:
    """Raise a `ConfigurationError` if ``what`` is part of a system.

    Args:
        provenance: That of frames, or what a model's file says of the frames that it was trained on.
        what: As messages begin, in the plural.
        why: As they end.
    """
    said = provenance.get(PART_OF)
    if isinstance(said, Mapping):
        raise ConfigurationError(
            f'{what} are {said.get("atoms")} of {said.get("atoms of the system")} atoms ("{said.get("selection")}"): '
            f"{why}"
        )


def molecules_of(topology: mdtraj.Topology, chosen: Sequence[int]) -> list[int]:
    """All atoms of the molecules that have at least one of the chosen atoms, in order."""
    neighbours: list[list[int]] = [[] for _ in range(topology.n_atoms)]
    for first, second in topology.bonds:
        neighbours[first.index].append(second.index)
        neighbours[second.index].append(first.index)
    reached = dict.fromkeys(chosen)
    order = list(reached)
    for atom in order:
        for other in neighbours[atom]:
            if other not in reached:
                reached[other] = None
                order.append(other)
    return sorted(order)


def _pieces(neighbours: Sequence[Sequence[int]]) -> list[list[int]]:
    """The connected pieces of a graph, in the order of their first atoms."""
    seen: set[int] = set()
    pieces = []
    for start in range(len(neighbours)):
        if start not in seen:
            piece = [start]
            seen.add(start)
            for atom in piece:
                new = [i for i in neighbours[atom] if i not in seen]
                seen.update(new)
                piece += new
            pieces.append(piece)
    return pieces


def _along_chains(whole: Topology, chosen: Sequence[int], part: Topology) -> list[Bond]:
    """Bonds that join the pieces of a part, where the molecule's chain of bonds between two of them is shortest.

    A minimum spanning tree of the pieces (Kruskal); of equal chains the one of the first atoms is taken.
    """
    neighbours, place = whole.neighbours(), {atom: i for i, atom in enumerate(chosen)}
    candidates = []
    for start in chosen:
        distance = {start: 0}
        order = [start]
        for atom in order:
            for other in neighbours[atom]:
                if other not in distance:
                    distance[other] = distance[atom] + 1
                    order.append(other)
        candidates += [(distance[i], place[start], place[i]) for i in order if i in place and place[start] < place[i]]
    number = {atom: n for n, piece in enumerate(_pieces(part.neighbours())) for atom in piece}
    found = []
    for _, first, second in sorted(candidates):
        if number[first] != number[second]:
            found.append((first, second))
            joined, into = number[second], number[first]
            number = {atom: into if n == joined else n for atom, n in number.items()}
    return found


def _made_whole(
    frames: Frames, bonds: Sequence[Bond], start: int, box: Float[ndarray, "frames 3 3"]
) -> Float[ndarray, "frames atoms 3"]:
    """Positions with every molecule in one piece: each atom at the image nearest to the one that it is bonded to."""
    neighbours: list[list[int]] = [[] for _ in frames.topology.atoms]
    for first, second in bonds:
        neighbours[first].append(second)
        neighbours[second].append(first)
    ordered: list[Bond] = []
    seen: set[int] = set()
    for first in (start, *range(len(neighbours))):
        if first in seen:
            continue
        seen.add(first)
        order = [first]
        for atom in order:
            new = sorted({i for i in neighbours[atom] if i not in seen})
            seen.update(new)
            order += new
            ordered += [(atom, i) for i in new]
    mdtraj = import_optional("mdtraj", "Making molecules whole", "mdtraj")
    trajectory = mdtraj.Trajectory(frames.positions.copy(), topology_to_mdtraj(frames.topology))
    trajectory.unitcell_vectors = box.astype(np.float32)
    trajectory.make_molecules_whole(inplace=True, sorted_bonds=np.array(ordered, dtype=np.int32).reshape(-1, 2))
    found: ndarray = trajectory.xyz
    return found


def _require_whole(topology: Topology, positions: Float[ndarray, "frames atoms 3"], has_box: bool, source: str) -> None:
    """Raise a `GeometryError` if bonded atoms are nowhere near each other."""
    if not topology.bonds:
        return
    ratios = bond_ratios(topology, torch.from_numpy(np.ascontiguousarray(positions)))
    require_unit(ratios)
    torn = (ratios > STRETCHED).nonzero()
    if len(torn) == 0:
        return
    frame, bond = (int(i) for i in torn[0])
    first, second = (topology.atoms[i] for i in topology.bonds[bond])
    length = float(ratios[frame, bond] * covalent_lengths(topology)[bond])
    what = f"{first} and {second} are bonded, and {length:.3g} nm apart in frame {frame} of {source}"
    if has_box:
        raise GeometryError(f"{what}, by the nearest images in its periodic box. Check the structure and the box.")
    raise GeometryError(
        f"{what}, which has no periodic box by which to make the molecule whole. Give a trajectory with its box, or "
        "make molecules whole in the program that wrote it."
    )


def _rigid_groups(frames: Frames, chosen: Sequence[int]) -> list[list[int]]:
    """Each chosen atom with the atoms left out that bonds of constant length hold to it."""
    if len(frames) < MIN_FRAMES:
        return [[i] for i in chosen]
    held: list[list[int]] = [[] for _ in frames.topology.atoms]
    for first, second in frames.topology.bonds:
        lengths = np.linalg.norm(frames.positions[:, first].astype(float) - frames.positions[:, second], axis=-1)
        if lengths.std() < CONSTRAINED:
            held[first].append(second)
            held[second].append(first)
    kept = set(chosen)
    groups = []
    for start in chosen:
        group = [start]
        for atom in group:
            group += [i for i in held[atom] if i not in kept and i not in group]
        groups.append(group)
    count = Counter(i for group in groups for i in group)
    shared = next((i for i, n in count.items() if n > 1), None)
    if shared is not None:
        raise ConfigurationError(
            f"Constraints hold atom {shared} ({frames.topology.atoms[shared]}), which is left out, to several selected "
            "atoms: the forces of the simulation are not those of the selection. Leave forces out (--forces-key none), "
            "or select that atom too."
        )
    return groups
