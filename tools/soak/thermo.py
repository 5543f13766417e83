"""State functions by ``thermo``, against integrals on a grid and against a path of molecular dynamics.

    python tools/soak/thermo.py --frames train.h5 --json docs/reliability/thermo.json

Water in GFN2-xTB has three internal coordinates: the witness is the integral over all of them, by Gauss and Legendre,
with the energies of the program at every point. Capped alanine in Amber is weighed from ``ala2-smooth``; the witnesses
are frames of dynamics (``--frames``, the mean energy and its variance), and a path from a system without interactions,
whose partition function is a product of integrals over one coordinate each, to Amber: replicas of Langevin dynamics
along the path, and MBAR (pymbar) between them. The path knows no flow.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pymbar
import torch
from record import keep
from smoothflow.analysis.estimates import Estimate, mean_of_independent
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import State, maxwell_boltzmann
from smoothflow.core.manifolds import Circle
from smoothflow.core.potential import Potential
from smoothflow.core.reporter import Reporter
from smoothflow.core.units import BOLTZMANN, PLANCK, thermal_energy
from smoothflow.integrators.simulation import Simulation
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.reference import reference
from smoothflow.potentials.shipped import load_flow
from smoothflow.studies.thermo import Thermochemistry, ThermoSettings, thermochemistry
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential
from torch import Tensor

TEMPERATURE = 300.0
KT = thermal_energy(TEMPERATURE)
XTB = "ase:tblite:GFN2-xTB"
AMBER = "torch:amber99sbildn.xml,amber99_obc.xml"
MANY = 40_000
"""Frames of dynamics that are looked at."""

GROUPS = 8
"""Of replicas, for the error of the path."""

LAMBDAS = [0.0, 1e-5, 1e-4, 1e-3, 3e-3, 0.01, 0.02, 0.04, 0.07, 0.11, 0.16, 0.22, 0.29, 0.37, 0.46, 0.55, 0.64]
LAMBDAS += [0.73, 0.81, 0.88, 0.94, 1.0]


@dataclass(frozen=True)
class Numbers:
    """A, U (kJ/mol), S and C (J/mol/K) of an independent route."""

    a: float
    u: float
    s: float
    c: float


def ideal(weights: Tensor) -> float:
    r"""The logarithm of :math:`8 \pi^2 (V/N) \prod \Lambda^{-3}` at 1 bar."""
    volume = KT / 0.0602214076
    return math.log(8 * math.pi**2 * volume) + 1.5 * float((2 * math.pi * KT / PLANCK**2 * weights).log().sum())


def water_by_quadrature(energy_of: Potential, n: int) -> Numbers:
    """Of the three coordinates of water, n points along each; the two bonds are alike."""
    topology, _ = topology_from_pdb(molecule_path("water"))
    coordinates = InternalCoordinates(topology)
    x, w = np.polynomial.legendre.leggauss(n)
    r, theta = 0.097 + 0.021 * x, 1.85 + 0.75 * x
    first, second, angle = np.meshgrid(np.arange(n), np.arange(n), np.arange(n), indexing="ij")
    half = first <= second
    i, j, k = first[half], second[half], angle[half]
    q = torch.tensor(np.column_stack([r[i], r[j], theta[k]]))
    with torch.no_grad():
        u = energy_of.energy(coordinates.decode(q)[0]).numpy() / KT
    measure = np.where(i == j, 1, 2) * w[i] * w[j] * w[k] * 0.021**2 * 0.75
    measure *= r[i] ** 2 * r[j] ** 2 * np.sin(theta[k])
    lowest = u.min()
    boltzmann = measure * np.exp(lowest - u)
    log_z = math.log(boltzmann.sum()) - lowest
    mean = float((boltzmann * u).sum() / boltzmann.sum())
    variance = float((boltzmann * (u - mean) ** 2).sum() / boltzmann.sum())
    # kinetic energy of three atoms; two hydrogens are alike
    a = -(log_z + ideal(masses(topology)) - math.log(2) + 1)
    u_all = mean + 4.5
    k_molar = 1000 * BOLTZMANN
    return Numbers(a * KT, u_all * KT, (u_all - a) * k_molar, (variance + 4.5) * k_molar)


def water_flow(energy_of: Potential) -> tuple[object, Tensor]:
    """A flow whose charts are fitted to a cloud about the structure; not trained."""
    topology, positions = topology_from_pdb(molecule_path("water"))
    coordinates = InternalCoordinates(topology)
    noise = torch.randn((2000, 3), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centre = torch.tensor([0.0965, 0.0965, 1.86], dtype=torch.float64)
    cloud, _ = coordinates.decode(centre + torch.tensor([0.0028, 0.0028, 0.085]) * noise)
    frames = Frames(topology, TEMPERATURE, cloud.float().numpy())
    return initial_potential(frames, TrainSettings()).double().requires_grad_(False), positions[0]


class Coupled(Potential):
    r"""Replicas on the path from independent coordinates to a force field, each at a place of its own.

    .. math:: U = (1 - \lambda) U_0(q) + \lambda U, \qquad
        U_0 = \sum_{\mathrm{stiff}} \frac{kT}{2 \sigma^2} (q - \mu)^2
        + \sum_{\mathrm{narrow}} \frac{kT}{\sigma^2} (1 - \cos(q - \mu))

    Wide torsions have no part in :math:`U_0`.
    """

    def __init__(self, force_field: Potential, frames: Tensor, places: Tensor) -> None:
        super().__init__()
        assert force_field.topology is not None
        self.force_field, self.places = force_field, places
        self.topology, self.shape = force_field.topology, force_field.shape
        self.coordinates = InternalCoordinates(force_field.topology)
        q, _ = self.coordinates.encode(frames)
        circles = self.coordinates.codomain.indices(Circle)
        self.stiff = torch.tensor([i for i in range(q.shape[1]) if i not in set(circles)])
        turns = torch.exp(1j * q[:, circles])
        spread = -2 * turns.mean(0).abs().log()
        narrow = spread < 0.1
        self.narrow = torch.tensor(circles)[narrow]
        self.mean, self.var = q[:, self.stiff].mean(0), q[:, self.stiff].var(0)
        self.mode, self.turn = turns.mean(0).angle()[narrow], spread[narrow]
        self.n_wide = int((~narrow).sum())

    def unbound(self, positions: Tensor) -> Tensor:
        q, _ = self.coordinates.encode(positions)
        stiff = ((q[:, self.stiff] - self.mean) ** 2 / (2 * self.var)).sum(-1)
        narrow = ((1 - torch.cos(q[:, self.narrow] - self.mode)) / self.turn).sum(-1)
        return KT * (stiff + narrow)

    def energy(self, positions: Tensor) -> Tensor:
        return (1 - self.places) * self.unbound(positions) + self.places * self.force_field.energy(positions)

    def log_z(self) -> float:
        """Of the system without interactions, by sums over fine grids."""
        n_bonds = len(self.topology) - 1  # type: ignore[arg-type]
        total = self.n_wide * math.log(2 * math.pi)
        for i, (mean, var) in enumerate(zip(self.mean.tolist(), self.var.tolist(), strict=True)):
            x = mean + math.sqrt(var) * np.linspace(-10, 10, 20001)
            volume = x**2 if i < n_bonds else np.sin(x)
            total += math.log(float((np.exp(-((x - mean) ** 2) / (2 * var)) * volume).sum()) * (x[1] - x[0]))
        for var in self.turn.tolist():
            x = -math.pi + 2 * math.pi * np.arange(20000) / 20000
            total += math.log(float(np.exp(-(1 - np.cos(x)) / var).sum()) * 2 * math.pi / 20000)
        return total


class Keep(Reporter):
    """Both energies of every replica, kT, after a first stretch."""

    def __init__(self, path: Coupled, first: int) -> None:
        self.path, self.first = path, first
        self.unbound: list[Tensor] = []
        self.bound: list[Tensor] = []

    def report(self, step: int, state: State) -> None:
        if step % 1000 == 0:
            print(f"{step / 1000:.0f} ps, {float(state.temperature.mean()):.0f} K", flush=True)
        if step > self.first:
            with torch.no_grad():
                self.unbound.append(self.path.unbound(state.positions) / KT)
                self.bound.append(self.path.force_field.energy(state.positions) / KT)


def by_path(force_field: Potential, frames: Tensor, n_replicas: int, duration: float, left_out: float) -> Estimate:
    """log Z of the force field, by MBAR along the path; groups of replicas tell the error."""
    places = torch.tensor(LAMBDAS, dtype=torch.float64).repeat_interleave(n_replicas)
    path = Coupled(force_field, frames, places)
    chosen = torch.linspace(0, len(frames) - 1, len(places)).long()
    positions = frames[chosen[torch.randperm(len(places), generator=torch.Generator().manual_seed(1))]]
    assert path.topology is not None
    weights = masses(path.topology)
    velocities = maxwell_boltzmann(weights, len(places), TEMPERATURE, torch.Generator().manual_seed(2))
    settings = DynamicsSettings(
        round(duration / 0.001), 0.001, "nvt", temperature=TEMPERATURE, friction=2.0, report_every=250, seed=3
    )
    kept = Keep(path, round(left_out / 0.001))
    start = State.start(path, positions, velocities, weights)
    Simulation(path, "langevin", start, settings, [kept]).run()
    unbound, bound = (
        torch.stack(each).reshape(len(each), len(LAMBDAS), n_replicas) for each in (kept.unbound, kept.bound)
    )
    groups = [_mbar(unbound[:, :, i::GROUPS], bound[:, :, i::GROUPS]) for i in range(GROUPS)]
    return mean_of_independent(path.log_z() - torch.tensor(groups, dtype=torch.float64))


def _mbar(unbound: Tensor, bound: Tensor) -> float:
    """Free energy of the last state less that of the first, kT."""
    samples = [torch.stack([unbound[:, k].flatten(), bound[:, k].flatten()]) for k in range(len(LAMBDAS))]
    u0, u1 = torch.cat(samples, 1)
    reduced = np.stack([((1 - place) * u0 + place * u1).numpy() for place in LAMBDAS])
    counts = np.array([each.shape[1] for each in samples])
    found = pymbar.MBAR(reduced, counts, initialize="BAR").compute_free_energy_differences()["Delta_f"]
    return float(found[0, -1])


def columns(found: Thermochemistry) -> dict[str, str]:
    both = {"by samples": found.anharmonic, "harmonic": found.harmonic, "harmonic, quantum": found.quantum}
    return {
        f"{way}: A, U (kJ/mol); S, C (J/mol/K)": "; ".join(
            str(e) if e.error else f"{e.value:.3f}"
            for e in (each.helmholtz_energy, each.internal_energy, each.entropy, each.heat_capacity)
        )
        for way, each in both.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", help="frames of capped alanine in Amber; without them water alone")
    parser.add_argument("--points", type=int, default=28, help="of the grid, along each coordinate")
    parser.add_argument("--replicas", type=int, default=16, help="at each place of the path")
    parser.add_argument("--time", type=float, default=20.0, help="ps, of each replica")
    parser.add_argument("--left-out", type=float, default=6.0, help="ps at the start")
    parser.add_argument("-n", type=int, default=20_000, help="samples")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begin = time.monotonic()
    apart = []

    def compared(ours: Estimate, theirs: float, error: float = 0.0) -> str:
        apart.append(abs(ours.value - theirs) / math.hypot(ours.error, error))
        return f"{theirs:.3f}{f' ± {error:.3f}' if error else ''} ({apart[-1]:.1f} errors from {ours} by samples)"

    xtb = reference(XTB, molecule_path("water"))
    flow, start = water_flow(xtb)
    found = thermochemistry(flow, start, ThermoSettings(options.n, symmetry_number=2), xtb)  # type: ignore[arg-type]
    truth, coarser = (water_by_quadrature(xtb, n) for n in (options.points, options.points - 6))
    ours = found.anharmonic
    figures = {f"water, {XTB}, {name}": text for name, text in columns(found).items()}
    figures["water: ESS"] = f"{100 * (found.ess.value if found.ess else 1):.0f} %"
    figures["water on the grid: A, kJ/mol"] = compared(ours.helmholtz_energy, truth.a)
    figures["water on the grid: U, kJ/mol"] = compared(ours.internal_energy, truth.u)
    figures["water on the grid: S, J/mol/K"] = compared(ours.entropy, truth.s)
    figures["water on the grid: C, J/mol/K"] = compared(ours.heat_capacity, truth.c)
    figures[f"A of {options.points} points along each coordinate, less that of {options.points - 6}, kJ/mol"] = (
        f"{truth.a - coarser.a:.1e}"
    )
    for name, value in figures.items():
        print(f"{name}: {value}", flush=True)

    if options.frames is not None:
        amber = reference(f"{AMBER},compiled", molecule_path("capped-alanine"))
        model = load_flow("ala2-smooth")
        structure = topology_from_pdb(molecule_path("capped-alanine"))[1][0]
        settings = ThermoSettings(options.n, symmetry_number=27, rigid_symmetry_number=1)
        found = thermochemistry(model, structure, settings, amber)
        ours = found.anharmonic
        figures |= {f"capped alanine, {AMBER}, {name}": text for name, text in columns(found).items()}
        figures["capped alanine: ESS"] = f"{100 * (found.ess.value if found.ess else 1):.0f} %"
        frames = read_frames(options.frames)
        frames = frames[:: max(1, len(frames) // MANY)]
        positions = torch.from_numpy(frames.positions).double()
        with torch.no_grad():
            energy = amber.energy(positions) / KT
        # frames of a replica are correlated: blocks in order of time
        parts = torch.tensor_split(energy, 20)
        mean = mean_of_independent(torch.stack([part.mean() for part in parts]))
        centred = (energy - energy.mean()) ** 2
        variance = mean_of_independent(torch.stack([part.mean() for part in torch.tensor_split(centred, 20)]))
        n, k = 22, 1000 * BOLTZMANN
        figures[f"by {len(frames)} frames of dynamics: U, kJ/mol"] = compared(
            ours.internal_energy, KT * (mean.value + 1.5 * n), KT * mean.error
        )
        figures[f"by {len(frames)} frames of dynamics: C, J/mol/K"] = compared(
            ours.heat_capacity, k * (variance.value + 1.5 * n), k * variance.error
        )
        if options.replicas:
            log_z = by_path(amber, positions, options.replicas, options.time, options.left_out)
            a = -KT * (log_z.value + ideal(masses(model.coordinates.topology)) - math.log(27) + 1)
            title = f"by a path of {len(LAMBDAS)} x {options.replicas} replicas of {options.time:g} ps: A, kJ/mol"
            figures[title] = compared(ours.helmholtz_energy, a, KT * log_z.error)
    keep(options.json, "State functions, by samples and by integrals", figures, begin)
    sys.exit(0 if max(apart) < 3 else 1)


if __name__ == "__main__":
    main()
