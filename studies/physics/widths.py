"""Typical widths of internal coordinates, the units in which configurations are moved."""

from __future__ import annotations

from collections.abc import Sequence

WIDTHS = {"bond": 0.003, "angle": 0.05, "improper": 0.05}
"""Typical widths of coordinates at room temperature, nm and radians; of torsions it is `TORSION_WIDTH`."""

TORSION_WIDTH = 0.15


def widths_of(names: Sequence[str]) -> list[float]:
    """The width of each column, by its name; nm and radians."""
    return [next((width for kind, width in WIDTHS.items() if name.startswith(kind)), TORSION_WIDTH) for name in names]
