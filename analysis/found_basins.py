"""Basins that configurations show, without being told where they are, and what frames and samples say of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..coordinates.internal import is_slow
from ..core.manifolds import FULL_TURN, Circle, Product
from .correlation import N_DEGREES, wells
from .estimates import Blocks, Estimate, fraction_of, fraction_of_series, percent, plain
from .observation import Configurations
from .reweighting import free_energy_difference, weighted_fraction
from .structure import ramachandran_pairs

FEWEST_SEEN = 3
"""Fewest configurations of one kind in a basin for which it is reported as missing from the other kind."""


@dataclass(frozen=True)
class FoundBasin:
    """One basin, and how often it is visited.

    Attributes:
        torsions: Names of the torsions that tell it from others.
        centre: Where its density is highest, degrees.
        n_frames: Frames of molecular dynamics in it.
        n_samples: Samples of the flow in it.
        frames: Population by counting frames; None without frames.
        samples: Population in the samples as they are drawn.
        reweighted: Population in the samples by their weights.
        free_energy: Above the most populated basin of the same torsions, by reweighted samples, kT; None for that one.
    """

    torsions: tuple[str, ...]
    centre: tuple[float, ...]
    n_frames: int
    n_samples: int
    frames: Estimate | None
    samples: Estimate
    reweighted: Estimate
    free_energy: Estimate | None

    @property
    def name(self) -> str:
        """The torsions and where they are, in degrees."""
        return ", ".join(f"{name} {angle:+.0f}" for name, angle in zip(self.torsions, self.centre, strict=True))

    @property
    def missing(self) -> str:
        """Which kind of configurations never goes there, in words; empty if both do, or hardly any configuration
        does."""
        if self.frames is None:
            return ""
        if self.n_samples == 0 and self.n_frames >= FEWEST_SEEN:
            return f"{self.name}: {self.n_frames} frames of dynamics, and no sample of the flow"
        if self.n_frames == 0 and self.n_samples >= FEWEST_SEEN:
            share = percent(self.reweighted)
            return f"{self.name}: {self.n_samples} samples of the flow, by weight {share}, and no frame of dynamics"
        return ""

    def row(self) -> tuple[str, ...]:
        """As a row of a table: basin, frames, samples, reweighted, free energy."""
        frames = "" if self.frames is None else percent(self.frames)
        above = "lowest" if self.free_energy is None else str(self.free_energy)
        return (self.name, frames, percent(self.samples), percent(self.reweighted), above)

    def to_dict(self) -> dict[str, object]:
        """The numbers in plain JSON types."""
        return {"basin": self.name, **{name: plain(value) for name, value in vars(self).items()}}


COLUMNS = ("basin, degrees", "frames", "samples", "samples, reweighted", "free energy, kT")
"""Titles of the columns of `FoundBasin.row`."""


def found_basins(
    domain: Product, samples: Configurations, frames: Configurations | None = None, blocks: Blocks | None = None
) -> list[FoundBasin]:
    """The basins of each residue's phi and psi, and of every other slow torsion, by where configurations gather.

    Both kinds of configurations are looked at together, so that what only one of them visits is found as well. A
    torsion with a single well tells nothing, and has no row.

    Args:
        domain: The columns of the internal coordinates.
        samples: Samples of the flow, with their weights.
        frames: Frames of molecular dynamics, in order of time for each walker.
        blocks: Their blocks, for errors.
    """
    pairs = ramachandran_pairs(domain)
    in_pairs = {i for pair in pairs for i in pair}
    single = [(i,) for i in domain.indices(Circle) if i not in in_pairs and is_slow(domain.names[i])]
    found = []
    for columns in (*pairs, *single):
        found += _of(domain, columns, samples, frames, blocks)
    return found


def _of(
    domain: Product,
    columns: Sequence[int],
    samples: Configurations,
    frames: Configurations | None,
    blocks: Blocks | None,
) -> list[FoundBasin]:
    """The basins of some torsions: combinations of their wells."""
    wells_of = []
    for i in columns:
        angles = [samples.internal[:, i]] + ([] if frames is None else [frames.internal[:, i]])
        wells_of.append(_nearest_well(torch.cat(angles).double().numpy()))
    if all(well.max() < 1 for well in wells_of):
        return []
    names = tuple(domain.names[i] for i in columns)

    def inside(configurations: Configurations, numbers: Sequence[int]) -> Bool[Tensor, "n"]:
        flags = torch.ones(len(configurations), dtype=torch.bool)
        for i, well, number in zip(columns, wells_of, numbers, strict=True):
            degree = (configurations.internal[:, i] % FULL_TURN * N_DEGREES / FULL_TURN).long() % N_DEGREES
            flags &= torch.from_numpy(well)[degree] == number
        return flags

    log_weights = samples.log_weights
    regions = []
    for numbers in product(*(range(int(well.max()) + 1) for well in wells_of)):
        drawn = inside(samples, numbers)
        seen = None if frames is None else inside(frames, numbers)
        if bool(drawn.any()) or (seen is not None and bool(seen.any())):
            regions.append((drawn, seen))
    weights = torch.softmax(log_weights, 0)
    lowest = max((drawn for drawn, _ in regions), key=lambda drawn: float(weights[drawn].sum()))
    found = []
    for drawn, seen in sorted(regions, key=lambda region: -float(weights[region[0]].sum())):
        here = [samples.internal[drawn]] + ([] if frames is None or seen is None else [frames.internal[seen]])
        found.append(
            FoundBasin(
                torsions=names,
                centre=tuple(_mean_degrees(torch.cat(here)[:, i]) for i in columns),
                n_frames=0 if seen is None else int(seen.sum()),
                n_samples=int(drawn.sum()),
                frames=None if seen is None else _frame_population(seen, blocks),
                samples=fraction_of(drawn),
                reweighted=weighted_fraction(drawn, log_weights),
                free_energy=None if drawn is lowest else free_energy_difference(drawn, lowest, log_weights),
            )
        )
    return found


def _frame_population(seen: Bool[Tensor, "n"], blocks: Blocks | None) -> Estimate:
    if blocks is None:
        return fraction_of(seen).because("no error: how correlated the frames are is not known")
    return fraction_of_series(seen, blocks)


def _nearest_well(angles: Float[np.ndarray, "n"]) -> Int[np.ndarray, "degrees"]:
    """The nearest well of each degree; 0 everywhere if there is only one."""
    core = wells(angles)
    if core.max() < 0:
        return np.zeros(N_DEGREES, dtype=np.int64)
    degrees = np.arange(N_DEGREES)
    inside = degrees[core >= 0]
    apart = np.abs((degrees[:, None] - inside[None, :] + N_DEGREES // 2) % N_DEGREES - N_DEGREES // 2)
    nearest: Int[np.ndarray, "degrees"] = core[inside[apart.argmin(1)]].astype(np.int64)
    return nearest


def _mean_degrees(angles: Float[Tensor, "n"]) -> float:
    """The mean direction of angles (radians), in degrees."""
    return math.degrees(math.atan2(float(angles.double().sin().mean()), float(angles.double().cos().mean())))
