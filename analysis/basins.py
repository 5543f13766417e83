"""Basins: regions of torsions with a name, like those of a Ramachandran map."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.errors import ConfigurationError

SYNTAX = "NAME:TORSION=FROM..TO,TORSION=FROM..TO in degrees, like alpha:phi=-160..-20,psi=-120..50"
"""Syntax of a basin."""

_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_RANGE = re.compile(rf"(?P<torsion>[^=]+)=\s*(?P<lower>{_NUMBER})\s*\.\.\s*(?P<upper>{_NUMBER})")


@dataclass(frozen=True)
class Basin:
    """A region in which torsions lie in ranges; a range runs upwards, through 180 degrees if it ends below its start.

    Attributes:
        name: Name of the region.
        ranges: For each torsion, by the name of its column, the start and the end in degrees.
    """

    name: str
    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for torsion, (lower, upper) in self.ranges.items():
            if not (abs(lower) <= 360 and abs(upper) <= 360 and lower != upper):
                raise ConfigurationError(
                    f'In the basin "{self.name}", {torsion} from {lower:g} to {upper:g} is not a range: its ends must '
                    "differ, and lie between -360 and 360 degrees."
                )

    @classmethod
    def parse(cls, text: str) -> Basin:
        """The basin of `BASINS` with that name, or one written as `SYNTAX` says.

        Raises:
            ConfigurationError: If it is neither.
        """
        name, separator, written = (part.strip() for part in text.partition(":"))
        if not separator:
            if name not in BASINS:
                raise ConfigurationError(f'No basin is called "{text}". Known: {", ".join(BASINS)}. Or write {SYNTAX}.')
            return BASINS[name]
        found = [_RANGE.fullmatch(part.strip()) for part in written.split(",")]
        ranges = {m["torsion"].strip(): (float(m["lower"]), float(m["upper"])) for m in found if m is not None}
        if not name or len(ranges) < len(found):
            raise ConfigurationError(f'"{text}" is not a basin. Write {SYNTAX}.')
        return cls(name, ranges)

    def contains(self, torsions: Mapping[str, Float[Tensor, "n"]]) -> Bool[Tensor, "n"]:
        """Which configurations are in the basin, from their torsions in radians."""
        inside = torch.ones_like(next(iter(torsions.values())), dtype=torch.bool)
        for name, (lower, upper) in self.ranges.items():
            width = upper - lower if upper > lower else upper - lower + 360
            inside &= (torsions[name] * 180 / math.pi - lower) % 360 <= width
        return inside


BASINS = {
    basin.name: basin
    for basin in (
        Basin("alpha", {"phi": (-160, -20), "psi": (-120, 50)}),
        Basin("beta", {"phi": (-180, -90), "psi": (50, -120)}),
        Basin("ppii", {"phi": (-90, -20), "psi": (50, -120)}),
    )
}
"""The basins of a residue that have a name of their own: the right-handed helix, the strand and polyproline II."""
