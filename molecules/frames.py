"""Frames: configurations of one molecule with their forces and energies; the training data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from ..core.display import described, html_table
from ..core.errors import FileFormatError, GeometryError
from ..core.potential import Potential
from ..core.topology import Topology

N_LOOKED_AT = 100
"""Frames whose geometry is compared with a potential's molecule."""

BLOCK = 1000
"""Frames that are checked or read at a time."""

PART_OF = "part of"
"""Where the provenance of frames says of what they are a part."""

LOST = 2000.0
"""Farther (nm) from the origin, float32 resolves less than a twentieth of a bond's vibration."""


@dataclass(frozen=True)
class Frames:
    """Configurations of one molecule, drawn from its Boltzmann distribution unless weights say otherwise.

    Attributes:
        topology: The molecule; its atoms in the order of the arrays.
        temperature: In K.
        positions: nm; of molecules farther than 2000 nm from the origin, about their centres.
        forces: kJ/mol/nm; on the same atoms at the same positions.
        energies: kJ/mol.
        log_weights: Logarithms of importance weights, minus infinity for none; without them all frames weigh the same.
        replica: Which independent walker each frame belongs to.
        times: ps since the start of the dynamics.
        provenance: How the frames came to be, in JSON types.

    Raises:
        FileFormatError: If the arrays do not fit one another or the topology.
        GeometryError: If a position is not finite; names the frame.
    """

    topology: Topology
    temperature: float
    positions: Float[ndarray, "frames atoms 3"]
    forces: Float[ndarray, "frames atoms 3"] | None = None
    energies: Float[ndarray, "frames"] | None = None
    log_weights: Float[ndarray, "frames"] | None = None
    replica: Int[ndarray, "frames"] | None = None
    times: Float[ndarray, "frames"] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < np.inf:
            raise FileFormatError(f"The temperature of frames must be positive and finite, not {self.temperature} K.")
        n_frames = len(self.positions)
        for column, (dtype, tail) in COLUMNS.items():
            values = getattr(self, column)
            if values is None:
                continue
            shape = (n_frames, *((len(self.topology), 3) if tail else ()))
            if np.shape(values) != shape:
                raise FileFormatError(
                    f"{column.capitalize()} of {n_frames} frames of {len(self.topology)} atoms must have shape "
                    f"{shape}, not {np.shape(values)}."
                )
            if column == "positions" and np.asarray(values).dtype != dtype:
                values = near_origin(np.asarray(values), LOST)
            if dtype is np.int32:
                _require_whole_numbers(column, np.asarray(values))
            # numbers beyond single precision become infinite, and are refused by their frame
            with np.errstate(over="ignore"):
                values = np.ascontiguousarray(values, dtype=dtype)
            object.__setattr__(self, column, values)
            allowed = np.isfinite(values) | (values == -np.inf if column == "log_weights" else False)
            bad = ~allowed.all(axis=tuple(range(1, values.ndim)))
            if bad.any():
                raise GeometryError(
                    f"{column.capitalize()} are not finite in {bad.sum()} of {n_frames} frames, first in frame "
                    f"{int(bad.argmax())}. Leave these frames out."
                )

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def by_walker(self) -> Int[ndarray, "frames"]:
        """Indices of the frames walker by walker, each in order of time; all in order without walkers."""
        return np.arange(len(self)) if self.replica is None else np.argsort(self.replica, kind="stable")

    def __repr__(self) -> str:
        return described(self, *(value for _, value in self._rows()))

    def _repr_html_(self) -> str:
        said = [(name, str(value)) for name, value in self.provenance.items()]
        return html_table("Frames", [*self._rows(), *said])

    def _rows(self) -> list[tuple[str, str]]:
        """What the frames are, by name."""
        held = [name for name in COLUMNS if getattr(self, name) is not None]
        return [
            ("frames", f"{len(self)} frames"),
            ("molecule", self.topology.summary),
            ("temperature", f"{self.temperature:g} K"),
            ("columns", " + ".join(held)),
        ]

    def __getitem__(self, index: slice | Int[ndarray, "chosen"]) -> Frames:
        """The frames of a slice or of an array of indices."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        picked: dict[str, Any] = {name: None if values is None else values[index] for name, values in columns.items()}
        return replace(self, **picked)

    def require_forces(self) -> Float[ndarray, "frames atoms 3"]:
        """The forces.

        Raises:
            FileFormatError: If there are none.
        """
        if self.forces is None and PART_OF in self.provenance:
            raise FileFormatError(
                "These frames of part of a system hold no forces, which force matching needs. Set weights.force to 0: "
                "a potential of mean force is then trained by likelihood alone."
            )
        if self.forces is None:
            raise FileFormatError(
                "These frames hold no forces, which force matching needs. Set weights.force to 0, or recompute them: "
                "smoothflow convert OLD.h5 NEW.h5 --structure PDB --reference PROVIDER:ARGUMENT."
            )
        return self.forces

    def require_topology(self, topology: Topology, name: str) -> None:
        """Raise a `TopologyError` unless the frames are of the molecule ``topology``, which messages call ``name``."""
        topology.require_same(self.topology, name, "the frames")

    def reordered(self, topology: Topology, name: str) -> Frames:
        """The same frames with their atoms in the order of ``topology``, found by the names of atoms and residues.

        Args:
            topology: The molecule in another order.
            name: What messages call it.

        Raises:
            TopologyError: If the molecule is another one, or its names do not tell the order.
        """
        if len(topology) != len(self.topology):
            self.require_topology(topology, name)
        order = topology.order_by_names(self.topology)
        columns = {column: getattr(self, column) for column, (_, of_atoms) in COLUMNS.items() if of_atoms}
        moved: dict[str, Any] = {k: None if values is None else values[:, order] for k, values in columns.items()}
        frames = replace(self, topology=self.topology.take(order), **moved)
        frames.require_topology(topology, name)
        return frames

    def require_potential(self, potential: Potential, name: str) -> None:
        """Raise unless the frames are of a potential's molecule: `require_topology`, and of its handedness.

        Args:
            potential: Any potential of a molecule.
            name: What messages call it.

        Raises:
            TopologyError: If elements, bonds, names or order of the atoms are not the potential's.
            GeometryError: If a frame, of `N_LOOKED_AT` spread over all, is of another isomer or in another order.
        """
        if potential.topology is not None:
            self.require_topology(potential.topology, name)
        for frame in np.unique(np.linspace(0, len(self) - 1, min(N_LOOKED_AT, len(self))).astype(int)):
            try:
                potential.require_configuration(self.positions[frame].astype(np.float64))
            except GeometryError as error:
                raise GeometryError(f"In frame {frame}: {error}") from error

    def require_precision(self) -> None:
        """Raise a `GeometryError` if a molecule is so far from the origin that float32 has lost its bonds."""
        for start in range(0, len(self), BLOCK):
            farthest = np.abs(self.positions[start : start + BLOCK]).max(axis=(1, 2))
            if farthest.max() > LOST:
                frame = int(farthest.argmax())
                raise GeometryError(
                    f"Frame {start + frame} lies {farthest[frame]:.3g} nm from the origin, where single precision "
                    f"resolves only {np.spacing(farthest[frame]):.1g} nm: its bonds are lost. Centre the molecule in "
                    "the program that wrote it, in double precision."
                )

    def digest(self) -> str:
        """A fingerprint of the data: the SHA-256 of all arrays, topology and temperature."""
        sha = hashlib.sha256(repr((self.topology.to_dict(), self.temperature)).encode())
        for name in COLUMNS:
            values = getattr(self, name)
            if values is not None:
                sha.update(name.encode())
                sha.update(values.data)
        return sha.hexdigest()


def _require_whole_numbers(column: str, values: Int[ndarray, "frames"]) -> None:
    limits = np.iinfo(np.int32)
    if values.dtype.kind not in "iuf" or not (values == np.trunc(values)).all():
        raise FileFormatError(f"{column.capitalize()} must be whole numbers.")
    if values.size and not limits.min <= int(values.min()) <= int(values.max()) <= limits.max:
        raise FileFormatError(f"{column.capitalize()} must be numbers that fit into 32 bits; one is {values.max()}.")


def near_origin(positions: Float[ndarray, "frames atoms 3"], farthest: float) -> Float[ndarray, "frames atoms 3"]:
    """Positions (nm) of which those farther from the origin than ``farthest`` are about their centres instead.

    Energies do not depend on where a molecule is, and float32 holds it best near the origin.
    """
    distances = np.abs(positions).max(axis=(1, 2)) if positions.size else np.zeros(0)
    # what is not finite is refused by name
    far = (distances > farthest) & np.isfinite(distances)
    if not far.any():
        return positions
    centred = positions.astype(np.float64)
    centred[far] -= centred[far].mean(axis=1, keepdims=True)
    return centred


COLUMNS: dict[str, tuple[type[np.generic], bool]] = {
    "positions": (np.float32, True),
    "forces": (np.float32, True),
    "energies": (np.float64, False),
    "log_weights": (np.float64, False),
    "replica": (np.int32, False),
    "times": (np.float64, False),
}
"""The arrays of `Frames`: their precision, and whether they have a vector per atom."""


def concatenate(parts: list[Frames]) -> Frames:
    """All frames of several parts of one molecule, in order; what is missing in one part is missing in the whole."""
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        arrays = [getattr(part, name) for part in parts]
        columns[name] = None if any(a is None for a in arrays) else np.concatenate(arrays)
    kept = {f.name: getattr(parts[0], f.name) for f in fields(Frames) if f.name not in COLUMNS}
    return Frames(**kept, **columns)
