"""Draw the figures of the explanation pages.

python docs/figures.py [SMOOTH SPLINE]

The two models of capped alanine, files or names, are compared; without them, those that come with the package.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from smoothflow import CommitteePotential, DynamicsSettings, Familiarity, FlowPotential, State, reference, registry
from smoothflow.analysis.reweighting import ess_fraction
from smoothflow.coordinates.zmatrix import ZMatrix
from smoothflow.core.charts import Chart
from smoothflow.core.differences import Scan
from smoothflow.core.errors import SimulationError
from smoothflow.core.integrator import maxwell_boltzmann
from smoothflow.core.inversion import find_root
from smoothflow.core.manifolds import Interval
from smoothflow.core.potential import Potential
from smoothflow.molecules.elements import masses
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.studies.figures import COLOURS, INK, new_figure
from smoothflow.studies.physics.scans import bond_scans, torsion_scans
from torch import Tensor

FOLDER = Path(__file__).parent / "figures"
BLUE, RED, GREEN = COLOURS[:3]
ELEMENTS = {"H": "#FFFFFF", "C": "#BBBBBB", "N": "#56B4E9", "O": "#D55E00"}


def main(smooth_name: str = "ala2-smooth", spline_name: str = "ala2-spline") -> None:
    smooth, spline = registry().load(smooth_name), registry().load(spline_name)
    assert isinstance(smooth, FlowPotential)
    assert isinstance(spline, FlowPotential)
    with torch.no_grad():
        positions, _ = smooth.sample(4000, torch.Generator().manual_seed(0))
    save("scan", scan_figure(smooth, spline, positions[0]))
    save("mixture", mixture_figure())
    save("inverse", inverse_figure())
    save("charts", charts_figure(smooth, positions))
    save("zmatrix", zmatrix_figure())
    save("volume", volume_figure(smooth, positions))
    save("ess", ess_figure())
    save("energy", energy_figure(smooth, spline, positions[:4]))
    affine = registry().load("ala2-affine")
    assert isinstance(affine, FlowPotential)
    save("trust", trust_figure([smooth, spline, affine], positions[0]))


def save(name: str, figure: Figure) -> None:
    # equal figures are equal bytes
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        figure.savefig(FOLDER / f"{name}.svg", transparent=True, metadata={"Date": None, "Creator": None})
    print(name)


def along(potential: Potential, scan: Scan, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
    """The parameter of a scan, minus the energy's first derivative along it, and minus the second one."""
    t = torch.linspace(low, high, 600, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(potential.energy(scan.place(t)).sum(), t, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), t)
    return t.detach(), -slope.detach(), -curvature


def scan_figure(smooth: FlowPotential, spline: FlowPotential, positions: Tensor) -> Figure:
    """Forces and force gradients along a bond and a torsion."""
    topology = smooth.topology
    assert topology is not None
    bond = next(scan for scan in bond_scans(positions, topology) if scan.name.endswith("ALA2-CA ALA2-C"))
    torsion = next(scan for scan in torsion_scans(positions, topology) if scan.name == "torsion psi")
    figure, axes = new_figure((8, 4.6), 2, 2)
    columns: list[tuple[Scan, float, float, float, str]] = [
        (bond, 0.146, 0.160, 1.0, "bond Cα-C (nm)"),
        (torsion, -math.pi / 3, math.pi / 3, 180 / math.pi, "turn about Cα-C (degrees)"),
    ]
    for column, (scan, low, high, unit, label) in enumerate(columns):
        for potential, colour, name in ((spline, RED, "spline"), (smooth, BLUE, "smooth")):
            t, force, gradient = along(potential, scan, low, high)
            axes[column].plot(t * unit, force, color=colour, lw=1.2, label=name)
            axes[2 + column].plot(t * unit, gradient, color=colour, lw=1.2)
        axes[2 + column].set_xlabel(label)
    for ax, label in zip(axes, ("force", "torque", "change of force", "change of torque"), strict=True):
        unit = "kJ/mol/nm" if "force" in label else "kJ/mol"
        unit = unit.replace("/nm", "/nm²") if label == "change of force" else unit
        ax.set_ylabel(f"{label} ({unit})")
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def trust_figure(models: list[FlowPotential], positions: Tensor) -> Figure:
    """What tells, along a bond and an angle, that a model is left, and how wrong its forces are there."""
    model = models[0]
    topology = model.topology
    assert topology is not None
    amber = reference("torch:amber99sbildn.xml,amber99_obc.xml", molecule_path("capped-alanine"))
    familiar, committee = Familiarity(model), CommitteePotential(models)
    bond = next(scan for scan in bond_scans(positions, topology) if scan.name.endswith("ALA2-CA ALA2-C"))
    q, _ = model.coordinates.encode(positions[None])
    column = model.coordinates.codomain.index("angle C:2-CA-N:2")

    def bent(angle: Tensor) -> Tensor:
        places = q.expand(len(angle), -1).clone()
        places[:, column] = angle
        return model.coordinates.decode(places)[0]

    angle = Scan("angle", 1.4, 2.5, bent)
    figure, axes = new_figure((8, 4.6), 2, 2)
    columns = [(replace(bond, low=0.13, high=0.185), 1.0, "bond Cα-C (nm)")]
    columns.append((angle, 180 / math.pi, "angle N-Cα-C (degrees)"))
    for i, (scan, unit, label) in enumerate(columns):
        t = torch.linspace(scan.low, scan.high, 200, dtype=torch.float64)
        x = scan.place(t)
        energy, forces = model.energy_and_forces(x)
        error = (forces - amber.energy_and_forces(x)[1]).norm(dim=-1).amax(-1)
        spread = committee.energy_forces_and_spread(x)[3].amax(-1)
        axes[i].semilogy(unit * t, (1 - familiar(energy) / 100).clamp(min=1e-12), color=BLUE, lw=1.2)
        axes[2 + i].semilogy(unit * t, error, color=INK, lw=1.2, label="error of the model")
        axes[2 + i].semilogy(unit * t, spread, color=RED, lw=1.2, label="spread of three models")
        axes[2 + i].set_xlabel(label)
    axes[0].set_ylabel("share of the model's samples\nthat lie higher")
    axes[2].set_ylabel("worst force (kJ/mol/nm)")
    axes[2].legend(frameon=False, fontsize=9)
    return figure


def energy_figure(smooth: FlowPotential, spline: FlowPotential, positions: Tensor) -> Figure:
    """How far the total energy strays in runs at constant energy."""
    topology = smooth.topology
    assert topology is not None
    mass = masses(topology).to(positions.dtype)
    velocities = maxwell_boltzmann(mass, len(positions), smooth.temperature, torch.Generator().manual_seed(1))
    figure, axes = new_figure((8, 2.9), 2, shared=True)
    runs = [(smooth, "smooth", BLUE), (spline, "spline", RED)]
    for ax, (potential, name, colour) in zip(axes, runs, strict=True):
        times: list[float] = []
        energies: list[Tensor] = []

        def keep(_: int, state: State, times: list[float] = times, energies: list[Tensor] = energies) -> None:
            times.append(state.time)
            energies.append(state.total_energy)

        settings = DynamicsSettings(n_steps=1000, timestep=0.001, report_every=4)
        try:
            registry().engine("native")().run(potential, mass, positions, velocities, settings, keep)
        except SimulationError as error:
            print(f"{name}: {error}")
        ax.plot(times, torch.stack(energies) - energies[0], color=colour, lw=0.9)
        ax.set_title(name)
        ax.set_xlabel("time (ps)")
    axes[0].set_ylabel("total energy − start (kJ/mol)")
    return figure


def mixture_figure() -> Figure:
    """Bumps, and the slope of the log-density of a smooth transform and of a spline."""
    figure, axes = new_figure((8, 2.8), 3)
    t = np.linspace(1e-6, 1 - 1e-6, 500)
    for alpha, colour in zip((0.87, 2.0, 5.9), COLOURS, strict=False):
        step = 1 / (1 + np.exp(-np.clip(alpha * (1 / (1 - t) - 1 / t), -700, 700)))
        axes[0].plot(t, step, color=colour, lw=1.4, label=f"α = {alpha:g}")
    axes[0].set_title("smooth step g(t)")
    axes[0].set_xlabel("t")
    axes[0].legend(frameon=False, fontsize=8)
    x = torch.linspace(0.002, 0.998, 800, dtype=torch.float64, requires_grad=True)
    smooth, spline = (registry().transform(name)(Interval()) for name in ("smooth", "spline"))
    generator = torch.Generator().manual_seed(4)
    params = smooth.initial_params().double()
    params = params + torch.randn(params.shape, generator=generator, dtype=torch.float64)
    _, smooth_density = smooth.forward(x, params.expand(len(x), -1))
    fitted = spline.initial_params().double().requires_grad_(True)
    optimizer = torch.optim.Adam([fitted], 0.02)
    for _ in range(1500):
        _, spline_density = spline.forward(x.detach(), fitted.expand(len(x), -1))
        optimizer.zero_grad()
        (spline_density - smooth_density.detach()).square().mean().backward()
        optimizer.step()
    _, spline_density = spline.forward(x, fitted.detach().expand(len(x), -1))
    for name, colour, log_density in (("spline", RED, spline_density), ("smooth", BLUE, smooth_density)):
        (slope,) = torch.autograd.grad(log_density.sum(), x)
        axes[1].plot(x.detach(), log_density.detach().exp(), color=colour, lw=1.4, label=name)
        axes[2].plot(x.detach(), slope, color=colour, lw=1.4)
    axes[1].set_title("density f′(x)")
    axes[1].legend(frameon=False, fontsize=8)
    axes[2].set_title("slope of log f′(x)")
    for ax in axes[1:]:
        ax.set_xlabel("x")
    return figure


def inverse_figure() -> Figure:
    """What Newton steps in the graph make of the derivatives of an inverse."""
    transform = registry().transform("smooth")(Interval())
    params = transform.initial_params().double()
    params = params + torch.randn(params.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start = torch.tensor([0.37], dtype=torch.float64)
    root = find_root(transform.forward, start, params[None], Interval()).x

    def derivatives(n_steps: int) -> list[float]:
        y = start.clone().requires_grad_(True)
        x = root
        for _ in range(n_steps):
            image, log_slope = transform.forward(x, params[None])
            x = x - (image - y) * torch.exp(-log_slope)
        found, value = [], x
        for _ in range(5):
            value = torch.autograd.grad(value.sum(), y, create_graph=True)[0] if value.requires_grad else 0 * start
            found.append(float(value.detach()))
        return found

    # each step doubles the order, so four are right far beyond the fifth
    exact = derivatives(4)
    figure, (ax,) = new_figure((6, 2.9), 1)
    for n_steps, colour in zip((0, 1, 2, 3), (COLOURS[4], RED, BLUE, GREEN), strict=True):
        errors = [abs(a - b) / abs(b) for a, b in zip(derivatives(n_steps), exact, strict=True)]
        plural = "step" if n_steps == 1 else "steps"
        ax.plot(
            range(1, 6), [max(error, 1e-17) for error in errors], "o-", color=colour, lw=1, label=f"{n_steps} {plural}"
        )
    ax.set_yscale("log")
    ax.set_xticks(range(1, 6))
    ax.set_xlabel("order of the derivative dⁿx/dyⁿ")
    ax.set_ylabel("relative error")
    ax.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def charts_figure(potential: FlowPotential, positions: Tensor) -> Figure:
    """A bond, a narrow torsion and a wide one, and where their charts are centred and cut."""
    chart = next(module for module in potential.flow.modules() if isinstance(module, Chart))
    q = potential.coordinates.encode(positions)[0].numpy()
    names = potential.coordinates.codomain.names
    kinds = [column.kind for column in chart.columns]
    first_torsion = 2 * len(positions[0]) - 3
    narrow = next(i for i in range(first_torsion, len(names)) if kinds[i] in ("arc", "standard"))
    wide = kinds.index("circle")
    figure, axes = new_figure((8, 2.7), 3)
    for ax, i, title in zip(axes, (0, narrow, wide), ("standard", "narrow", "circle"), strict=True):
        is_angle = i >= first_torsion
        unit = 180 / math.pi if is_angle else 1.0
        ax.hist(q[:, i] * unit, bins=90, range=(-180, 180) if is_angle else None, density=True, color=COLOURS[5])
        location = chart.columns[i].location * unit
        if kinds[i] != "circle":
            ax.axvline(location, color=INK, lw=1.2)
            if is_angle:
                seam = math.remainder(location + 180, 360)
                ax.axvline(seam, color=RED, lw=1.4, ls="--")
        ax.set_title(title)
        ax.set_xlabel(f"{names[i]} ({'degrees' if is_angle else 'nm'})")
        ax.set_yticks([])
    axes[0].set_ylabel("density of samples")
    return figure


def zmatrix_figure() -> Figure:
    """Capped alanine, with the order in which its atoms are placed and what each torsion is."""
    topology, positions = topology_from_pdb(molecule_path("capped-alanine"))
    rows = ZMatrix.from_topology(topology).rows
    flat = spread_out(positions[0].double().numpy())
    figure, (ax,) = new_figure((8, 4.2), 1)
    ax.grid(False)
    ax.set_axis_off()
    ax.set_aspect("equal")
    for number, row in enumerate(rows):
        if row.bond >= 0:
            kind = INK if number < 3 else (RED if is_improper(rows, number) else BLUE)
            arrow(ax, flat[row.bond], flat[row.atom], kind)
    for number, row in enumerate(rows):
        x, y = flat[row.atom]
        ax.plot(x, y, "o", ms=17, mfc=ELEMENTS[topology.elements[row.atom]], mec=INK, mew=0.8, zorder=4)
        ax.annotate(str(number), (x, y), ha="center", va="center", fontsize=8, color="black", zorder=5)
    for colour, label in ((INK, "reference atoms"), (BLUE, "proper torsion"), (RED, "improper torsion")):
        ax.plot([], [], color=colour, lw=1.6, label=label)
    ax.legend(frameon=False, fontsize=9, loc="lower left")
    return figure


def spread_out(positions: np.ndarray) -> np.ndarray:
    """Positions seen from where the two atoms that are nearest to each other look farthest apart, long side across."""
    centred = positions - positions.mean(0)
    generator = np.random.default_rng(0)
    views = [centred @ np.linalg.qr(generator.normal(size=(3, 3)))[0][:, :2] for _ in range(2000)]
    first, second = np.triu_indices(len(centred), 1)
    best = max(views, key=lambda view: np.linalg.norm(view[first] - view[second], axis=1).min())
    return best @ np.linalg.svd(best, full_matrices=False)[2].T


def is_improper(rows: Sequence, number: int) -> bool:
    """Whether a row's torsion refers to a sibling: an atom that hangs on the same atom."""
    row = rows[number]
    return any(other.atom == row.torsion and other.bond == row.bond for other in rows)


def arrow(ax: Axes, start: np.ndarray, end: np.ndarray, colour: str) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "shrinkA": 9, "shrinkB": 9}
    ax.annotate("", end, start, arrowprops=style, zorder=3)


def volume_figure(potential: FlowPotential, positions: Tensor) -> Figure:
    """How much the volume element varies from sample to sample."""
    q, _ = potential.coordinates.encode(positions)
    n_atoms = positions.shape[1]
    bonds, angles = q[:, : n_atoms - 1], q[:, n_atoms - 1 : 2 * n_atoms - 3]
    figure, (ax,) = new_figure((6, 2.8), 1)
    parts = {"bonds, Σ 2 log r": 2 * bonds.log().sum(1), "angles, Σ log sin θ": angles.sin().log().sum(1)}
    bins = np.linspace(-1.5, 1.5, 121)
    for (label, values), colour in zip(parts.items(), COLOURS, strict=False):
        ax.hist((values - values.mean()).numpy(), bins=bins, density=True, histtype="step", color=colour, lw=1.5)
        ax.plot([], [], color=colour, lw=1.5, label=label)
    ax.set_xlabel("logarithm of the volume element − its mean (kT)")
    ax.set_ylabel("density of samples")
    ax.legend(frameon=False, fontsize=9)
    return figure


def ess_figure() -> Figure:
    """Two ways in which an effective sample size deceives."""
    figure, axes = new_figure((8, 2.9), 2)
    sizes = np.unique(np.geomspace(20, 100_000, 60).astype(int))
    for seed in range(4):
        draws = torch.randn(100_000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        # target N(0, 1), sampler N(0, 0.6): the variance of the weights is infinite
        x = 0.6 * draws
        log_w = -0.5 * x**2 + 0.5 * draws**2
        axes[0].plot(sizes, [100 * ess_fraction(log_w[:n]).value for n in sizes], color=BLUE, lw=1)
        # target two peaks of equal weight, ten widths apart; the sampler knows one
        x = draws - 5
        log_target = torch.logaddexp(-0.5 * (x + 5) ** 2, -0.5 * (x - 5) ** 2)
        log_w = log_target + 0.5 * draws**2
        axes[1].plot(sizes, [100 * ess_fraction(log_w[:n]).value for n in sizes], color=RED, lw=1)
    for ax, title in zip(axes, ("a sampler too narrow", "a sampler that misses half"), strict=True):
        ax.set_xscale("log")
        ax.set_ylim(0, 105)
        ax.set_title(title)
        ax.set_xlabel("number of draws")
        ax.axhline(0, color=INK, lw=1, ls="--")
    axes[0].set_ylabel("raw ESS (%)")
    return figure


if __name__ == "__main__":
    main(*sys.argv[1:])
