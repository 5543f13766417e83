"""Figures of densities on the unit square, their forces and the gradients of their forces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from ..figures import COLOURS, INK, MAP, new_figure, to_png
from .smoothness import CHUNK, LogDensity, forces_and_gradients

N_GRID = 240
N_PROFILE = 1600
DIVERGING = "RdBu_r"
REFERENCE = "#B5B5B5"


@dataclass(frozen=True)
class Field:
    """A density p, its force along the first coordinate, and the derivative of that force along the same coordinate.

    On a grid (first coordinate by row) or along a line of the first coordinate.
    """

    density: Float[ndarray, "..."]
    force: Float[ndarray, "..."]
    gradient: Float[ndarray, "..."]


def field_on_grid(log_density: LogDensity, plane: Float[Tensor, "dim"]) -> Field:
    """The field over the first two coordinates at the centres of a grid; the others are held at those of ``plane``."""
    axis = (torch.arange(N_GRID, dtype=plane.dtype) + 0.5) / N_GRID
    points = plane.repeat(N_GRID * N_GRID, 1)
    points[:, :2] = torch.cartesian_prod(axis, axis)
    return _field(log_density, points, (N_GRID, N_GRID))


def field_on_line(log_density: LogDensity, through: Float[Tensor, "dim"]) -> Field:
    """The field along the first coordinate, the others held at those of ``through``."""
    points = through.repeat(N_PROFILE, 1)
    points[:, 0] = profile_axis(through.dtype)
    return _field(log_density, points, (N_PROFILE,))


def profile_axis(dtype: torch.dtype = torch.float64) -> Float[Tensor, "points"]:
    """The points of `field_on_line`."""
    return (torch.arange(N_PROFILE, dtype=dtype) + 0.5) / N_PROFILE


def maps_figure(fields: Mapping[str, Field], names: tuple[str, str]) -> bytes:
    """Density, force and force gradient of the target (first) and of each flow, one column each.

    The rows share the target's colour scale; forces and gradients are on a scale that is linear near zero and
    logarithmic beyond.
    """
    from matplotlib.colors import Normalize, SymLogNorm

    target = next(iter(fields.values()))
    limits = [np.abs(values).max() for values in (target.force, target.gradient)]
    rows = [
        ("density", "density", MAP, Normalize(0, target.density.max())),
        ("force", "force (kT)", DIVERGING, SymLogNorm(limits[0] / 30, vmin=-limits[0], vmax=limits[0])),
        ("gradient", "force gradient (kT)", DIVERGING, SymLogNorm(limits[1] / 30, vmin=-limits[1], vmax=limits[1])),
    ]
    n = len(fields)
    figure, axes = new_figure((1.9 * n + 1.0, 6.0), n, 3)
    for row, (attribute, label, colours, norm) in enumerate(rows):
        panels = axes[row * n : (row + 1) * n]
        for ax, (title, field) in zip(panels, fields.items(), strict=True):
            image = ax.imshow(
                np.ma.masked_invalid(getattr(field, attribute)).T,
                origin="lower",
                extent=(0, 1, 0, 1),
                cmap=colours,
                norm=norm,
                interpolation="nearest",
                zorder=2,
            )
            ax.set_xticks([0, 0.5, 1], ["0", "½", "1"] if row == 2 else [])
            ax.set_yticks([0, 0.5, 1], ["0", "½", "1"] if ax is panels[0] else [])
            if row == 0:
                ax.set_title(title)
            if row == 2:
                ax.set_xlabel(names[0])
        panels[0].set_ylabel(names[1])
        bar = figure.colorbar(image, ax=panels, pad=0.01, aspect=14, extend="both" if row else "max")
        bar.set_label(label, size=9, color=INK)
        if row:
            # the default ticks crowd near zero
            ticks = np.outer([1, -1], 10.0 ** np.arange(*_decades(limits[row - 1]))).ravel()
            bar.set_ticks([0, *ticks], minor=False)
            bar.ax.minorticks_off()
        bar.ax.tick_params(colors=INK, labelsize=7)
        bar.outline.set_visible(False)
    return to_png(figure)


def profiles_figure(fields: Mapping[str, Field], name: str) -> bytes:
    """Force and force gradient along a line, each flow (in colour) over the target (first, grey)."""
    (_, target), *flows = fields.items()
    axis = profile_axis().numpy()
    rows = [("density", "density"), ("force", "force (kT)"), ("gradient", "force gradient (kT)")]
    n = len(flows)
    figure, axes = new_figure((2.5 * n + 0.6, 5.6), n, 3)
    for row, (attribute, label) in enumerate(rows):
        panels = axes[row * n : (row + 1) * n]
        reference = getattr(target, attribute)
        low, high = float(reference.min()), float(reference.max())
        margin = 0.25 * (high - low) or 1.0
        floor = 0.0 if attribute == "density" else low - margin
        for ax, colour, (title, field) in zip(panels, COLOURS * n, flows, strict=False):
            ax.plot(axis, reference, color=REFERENCE, lw=2.4, zorder=2)
            ax.plot(axis, getattr(field, attribute), color=colour, lw=0.9, zorder=3)
            ax.set_xlim(0, 1)
            ax.set_ylim(floor, high + margin)
            ax.set_xticks([0, 0.5, 1], ["0", "½", "1"] if row == 2 else ["", "", ""])
            if row == 0:
                ax.set_title(title)
            if row == 2:
                ax.set_xlabel(name)
            if ax is not panels[0]:
                ax.set_yticklabels([])
        panels[0].set_ylabel(label)
    return to_png(figure)


def _decades(limit: float) -> tuple[int, int]:
    """Exponents of the powers of ten on the logarithmic part of a scale, from a thirtieth of its end."""
    return math.ceil(math.log10(limit / 30)), math.floor(math.log10(limit)) + 1


def _field(log_density: LogDensity, points: Float[Tensor, "batch dim"], shape: tuple[int, ...]) -> Field:
    with torch.no_grad():
        density = torch.cat([log_density(part) for part in torch.split(points, CHUNK)]).exp()
    forces, gradients = forces_and_gradients(log_density, points)
    parts = (density, forces[:, 0], gradients[:, 0, 0])
    return Field(*(part.reshape(shape).numpy() for part in parts))
