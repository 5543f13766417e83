"""Figures as PNG bytes, drawn without a display and without global state.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..core.errors import ConfigurationError
from ..core.optional import import_optional
from ..core.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 150
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MAP = "viridis"
INK = "#333333"
GRID = "#E3E3E3"
SCATTER_LIMIT = 2000
"""Points beyond this number are shown as a two-dimensional histogram."""

Size = tuple[float, float]
"""Width and height in inches; times `DPI` it is the size in pixels."""


def ramachandran_figure(
    panels: Mapping[str, Float[ndarray, "n_bins n_bins"]],
    names: tuple[str, str] = ("phi", "psi"),
    size: Size = (9, 3.4),
) -> bytes:
    """Maps of -log p (kT) of two torsions, side by side on one colour scale.

    Args:
        panels: For each title, counts or weights on a grid over (-pi, pi]; the first torsion by row.
        names: Names of the torsions.
        size: Inches.
    """
    figure, axes = new_figure(size, len(panels))
    deepest = 8.0
    for ax, (title, counts) in zip(axes, panels.items(), strict=True):
        density = counts / counts.sum() if counts.sum() > 0 else counts
        peak = density.max() if density.max() > 0 else 1.0
        with np.errstate(divide="ignore"):
            depth = -np.log(density / peak)
        image = ax.imshow(
            np.ma.masked_invalid(depth).T,
            origin="lower",
            extent=(-180, 180, -180, 180),
            cmap=f"{MAP}_r",
            vmin=0,
            vmax=deepest,
            aspect="equal",
            interpolation="nearest",
            zorder=2,
        )
        ax.set_title(title)
        ax.set_xticks([-180, -90, 0, 90, 180])
        ax.set_yticks([-180, -90, 0, 90, 180])
        ax.set_xlabel(f"{_symbol(names[0])} (degrees)")
    axes[0].set_ylabel(f"{_symbol(names[1])} (degrees)")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, extend="max", pad=0.02)
    bar.set_label("−log p, from the peak (kT)", size=9, color=INK)
    bar.ax.tick_params(colors=INK, labelsize=8)
    bar.outline.set_visible(False)
    return to_png(figure)


def force_figure(
    panels: Mapping[str, tuple[Float[ndarray, "..."], Float[ndarray, "..."]]], size: Size = (8, 3.8)
) -> bytes:
    """The flow's force components against the force field's, kT/nm: points, or a histogram of many.

    Args:
        panels: For each title, the force field's and the flow's components.
        size: Inches.
    """
    figure, axes = new_figure(size, len(panels))
    for ax, (title, (expected, found)) in zip(axes, panels.items(), strict=True):
        x, y = np.ravel(expected), np.ravel(found)
        finite = np.isfinite(x) & np.isfinite(y)
        # the axes hold 99.9 % of the force field's components; what lies outside is counted in the title
        limit = 1.3 * float(np.quantile(np.abs(x[finite]), 0.999)) if finite.any() else 1.0
        limit = limit or 1.0
        inside = finite & (np.abs(x) <= limit) & (np.abs(y) <= limit)
        if inside.sum() > SCATTER_LIMIT:
            bins = [np.linspace(-limit, limit, 141)] * 2
            counts, _, _ = np.histogram2d(x[inside], y[inside], bins=bins)
            shown = np.ma.masked_equal(counts.T, 0)
            from matplotlib.colors import LogNorm

            ax.imshow(
                shown,
                origin="lower",
                extent=(-limit, limit, -limit, limit),
                cmap=f"{MAP}_r",
                norm=LogNorm(1, max(2.0, counts.max())),
                aspect="equal",
                zorder=2,
            )
        else:
            ax.plot(x[inside], y[inside], ".", ms=3, alpha=0.5, color=COLOURS[0])
            ax.set_aspect("equal")
        ax.plot([-limit, limit], [-limit, limit], color=COLOURS[1], lw=1, zorder=3)
        ax.set_xlim(-limit, limit)
        ax.set_ylim(-limit, limit)
        ax.locator_params(nbins=5)
        n_outside = len(x) - int(inside.sum())
        ax.set_title(f"{title}\n{n_outside} of {len(x)} outside" if n_outside else title)
        ax.set_xlabel("force field (kT/nm)")
    axes[0].set_ylabel("flow (kT/nm)")
    return to_png(figure)


def energy_figure(
    frames: Float[ndarray, "n"],
    samples: Float[ndarray, "m"],
    weights: Float[ndarray, "m"] | None = None,
    size: Size = (7, 3.6),
) -> bytes:
    """Histograms of the force field's energy (kT): of its own frames, of the flow's samples, and reweighted.

    Args:
        frames: Energies of frames of molecular dynamics.
        samples: Energies of samples of the flow.
        weights: Weights of the samples.
        size: Inches.
    """
    figure, (ax,) = new_figure(size, 1)
    width = float(np.quantile(frames, 0.999) - np.quantile(frames, 0.001)) or 1.0
    low, high = float(frames.min()) - 0.1 * width, float(np.quantile(frames, 0.999)) + 0.7 * width
    bins = np.linspace(low, high, 81)
    step = bins[1] - bins[0]
    counts, _ = np.histogram(frames, bins, weights=np.full(len(frames), 1 / len(frames)))
    ax.stairs(counts / step, bins, fill=True, color="#BBBBBB", label="MD frames")
    series = [("flow samples", np.full(len(samples), 1 / len(samples)))]
    if weights is not None:
        series.append(("flow samples, reweighted", weights / weights.sum()))
    for colour, (label, share) in zip(COLOURS, series, strict=False):
        finite = np.isfinite(samples)
        counts, _ = np.histogram(samples[finite], bins, weights=share[finite])
        ax.stairs(counts / step, bins, color=colour, lw=1.6, label=label)
    n_outside = int((~((samples >= low) & (samples <= high))).sum())
    if n_outside:
        ax.annotate(
            f"{n_outside} of {len(samples)} samples outside",
            (0.98, 0.06),
            xycoords="axes fraction",
            ha="right",
            color=COLOURS[0],
            fontsize=8,
        )
    ax.set_xlim(low, high)
    ax.set_xlabel("energy of the force field (kT)")
    ax.set_ylabel("density (1/kT)")
    ax.legend(frameon=False, fontsize=9)
    return to_png(figure)


def conservation_figure(
    runs: Mapping[str, tuple[Float[ndarray, "frames"], Float[ndarray, "frames replicas"]]], size: Size = (8, 4)
) -> bytes:
    """Total energy against time, each run from its own mean; one panel per potential or engine, on one scale.

    Args:
        runs: For each title, times (ps) and total energies (kJ/mol).
        size: Inches.
    """
    n_columns = 2 if len(runs) == 4 else min(len(runs), 3)
    n_rows = math.ceil(len(runs) / max(n_columns, 1))
    figure, axes = new_figure((size[0], size[1] * max(1.0, 0.6 * n_rows)), n_columns, n_rows, shared=True)
    for i, (title, (times, energy)) in enumerate(runs.items()):
        ax = axes[i]
        for replica in range(energy.shape[1]):
            total = energy[:, replica]
            ax.plot(times, total - total.mean(), lw=0.8, color=COLOURS[i % len(COLOURS)])
        ax.set_title(title)
        ax.set_xlabel("time (ps)")
    for ax in axes[len(runs) :]:
        ax.set_visible(False)
    for ax in axes[::n_columns]:
        ax.set_ylabel("total energy − mean (kJ/mol)")
    return to_png(figure)


def training_figure(
    curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], size: Size = (8, 3.4)
) -> bytes:
    """Training curves: one panel per quantity.

    Args:
        curves: For each quantity (the label of its axis), and each series in it, steps and values.
        size: Inches.
    """
    figure, axes = new_figure(size, len(curves))
    for ax, (quantity, series) in zip(axes, curves.items(), strict=True):
        for colour, (label, (steps, values)) in zip(COLOURS * 3, series.items(), strict=False):
            ax.plot(steps, values, color=colour, lw=1.4, label=label, marker="o" if len(steps) < 20 else "", ms=3)
        finite = [v for _, values in series.values() for v in values if math.isfinite(v)]
        # a quantity that falls by orders of magnitude is read on a logarithmic axis
        if finite and min(finite) > 0 and max(finite) > 30 * min(finite):
            ax.set_yscale("log")
        ax.set_xlabel("step")
        ax.set_ylabel(quantity)
        ax.legend(frameon=False, fontsize=9)
    return to_png(figure)


def new_figure(size: Size, n_columns: int, n_rows: int = 1, shared: bool = False) -> tuple[Figure, list[Axes]]:
    """An empty figure in the style of this module, and its panels row by row."""
    figures = import_optional("matplotlib.figure", "Drawing figures", "report")
    if n_columns < 1:
        raise ConfigurationError("A figure needs at least one panel; nothing was given to draw.")
    figure: Figure = figures.Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False, sharey=shared).ravel())
    for ax in axes:
        ax.set_facecolor("white")
        ax.set_axisbelow(True)
        ax.grid(color=GRID, lw=0.6)
        ax.tick_params(colors=INK, labelsize=8, length=3)
        ax.title.set(size=10, color=INK)
        ax.xaxis.label.set(size=9, color=INK)
        ax.yaxis.label.set(size=9, color=INK)
        for name, spine in ax.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(INK)
    return figure, axes


def _symbol(name: str) -> str:
    for word, letter in (("phi", "φ"), ("psi", "ψ")):
        if name.startswith(word):
            return letter + name.removeprefix(word)
    return name


def to_png(figure: Figure) -> bytes:
    """The figure as PNG bytes; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    # names of torsions and models come from files: no formulas, which could be wrong, and nothing hidden
    for ax in figure.axes:
        legend = ax.get_legend()
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *(legend.get_texts() if legend else ())):
            text.set_parse_math(False)
            text.set_text("\n".join(map(printable, text.get_text().split("\n"))))

    buffer = io.BytesIO()
    # without the library's version and the date, equal figures are equal bytes
    FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
    return buffer.getvalue()
