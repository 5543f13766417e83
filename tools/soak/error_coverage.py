"""How often quoted errors hold: many repeated experiments with known answers, counted quantity by quantity.

    python tools/soak/error_coverage.py --pool build/pool --frames positions.npy --json docs/reliability/coverage.json

Two kinds of experiments go through what ``smoothflow evaluate`` computes, each with samples of a flow and with frames
of 1, 4 or 8 walkers. In the first, target and sampler are mixtures on a torus with answers by quadrature, and walkers
jump between the basins at a known rate. In the second, samples are drawn from large pools of the models that ship, and
frames from segments of molecular dynamics (a NumPy file of positions, nm, its segments one after another).

Where no error is quoted, the reason stands instead, and the experiment does not count as one that holds.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from record import keep
from smoothflow.analysis.estimates import Estimate, fraction_of_series
from smoothflow.analysis.evaluation import Evaluation, summarize
from smoothflow.analysis.mbar import BothEnsembles
from smoothflow.analysis.observation import Configurations, observe_frames, observe_samples
from smoothflow.analysis.reweighting import ess_fraction, log_z, weighted_fraction
from smoothflow.core.manifolds import FULL_TURN, Circle, Product
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.sketch import Origin, SharedFrames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.force_field import ForceField
from smoothflow.potentials.shipped import load
from smoothflow.potentials.toys import SineComponent, VonMisesMixture, gauss_legendre_square
from smoothflow.studies.conservation import PotentialSource
from smoothflow.studies.demo.showcase import AMBER, MOLECULE
from torch import Tensor

N_SAMPLES = 10_000
WALKERS = (1, 4, 8)
COLUMNS = ("log_prob", "energy", "squared_force_error", "phi", "psi")
HELD_OUT = SharedFrames(Origin.HELD_OUT, 0.0)
STAND_IN: Any = SimpleNamespace(
    coordinates=SimpleNamespace(
        codomain=Product.of(Circle(), ["phi", "psi"]),
        log_volume_of_reference_atoms=lambda q: torch.zeros(len(q), dtype=q.dtype),
    ),
    topology=None,
    temperature=300.0,
)
"""What `summarize` asks of a flow, for configurations of which two torsions are known."""


@dataclass(frozen=True)
class Pool:
    """Columns of many configurations, as in `COLUMNS`."""

    columns: Tensor

    def configurations(self, chosen: Tensor, replica: np.ndarray | None = None) -> Configurations:
        log_prob, energy, squared, phi, psi = self.columns[chosen].T
        nothing = torch.zeros(len(chosen), 1, 1, dtype=torch.float64)
        return Configurations(
            positions=torch.zeros(len(chosen), 0, 3),
            internal=torch.stack([phi, psi], 1),
            log_prob=log_prob,
            energy=energy,
            flow_forces=squared.sqrt()[:, None, None],
            forces=nothing,
            replica=replica,
        )


def quoted(found: Evaluation) -> Iterator[tuple[str, Estimate]]:
    """The numbers of an evaluation, and those by both kinds of configurations."""
    yield "NLL", found.nll
    yield "mean energy of frames", found.mean_energy
    yield "log Z by weights", found.log_z_importance
    yield "log Z by BAR", found.log_z
    yield "forward KL", found.forward_kl
    yield "reverse KL", found.reverse_kl
    yield "ESS", found.ess
    yield "force MSE on frames", found.force_mse_data
    yield "force MSE on samples", found.force_mse_samples
    both = BothEnsembles(found.samples.log_weights, found.frames.log_weights, found.mixing.blocks)
    energy = torch.cat([found.samples.energy, found.frames.energy])
    yield "mean energy by MBAR", both.mean(energy)
    for column, name in enumerate(("phi", "psi")):
        drawn, seen = (x.internal[:, column].sin() > 0 for x in (found.samples, found.frames))
        yield f"{name} > 0 from frames", fraction_of_series(seen, found.mixing.blocks)
        yield f"{name} > 0 reweighted", weighted_fraction(drawn, found.samples.log_weights)
        yield f"{name} > 0 by MBAR", both.fraction(torch.cat([drawn, seen]))


class Tally:
    """Of each quantity: how often an error was quoted, how often it held the truth, and values with quoted errors."""

    def __init__(self) -> None:
        self.quoted: dict[str, int] = defaultdict(int)
        self.held: dict[str, int] = defaultdict(int)
        self.n: dict[str, int] = defaultdict(int)
        self.found: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def add(self, name: str, estimate: Estimate, truth: float) -> None:
        self.n[name] += 1
        if not estimate.reliable:
            return
        self.quoted[name] += 1
        self.found[name].append((estimate.value, estimate.error))
        low, high = estimate.bounds()
        # a perfect agreement has no error, up to rounding
        self.held[name] += low - 1e-9 <= truth <= high + 1e-9

    def cells(self) -> dict[str, str]:
        """Of each quantity, the share of quoted errors that held, and how many were quoted if not all were."""
        found = {}
        for name, n in self.n.items():
            quoted = self.quoted[name]
            share = f"{100 * self.held[name] / quoted:.0f}" if quoted else "-"
            found[name] = share if quoted == n else f"{share} ({quoted} of {n} quoted)"
        return found


TORUS = [
    SineComponent(0.33, (-2.44, 2.71), (7.0, 8.0), 2.0),
    SineComponent(0.35, (-1.19, 2.58), (16.0, 10.0), -2.0),
    SineComponent(0.27, (-1.31, -0.44), (12.0, 9.0), -6.0),
    SineComponent(0.05, (1.0, 0.61), (25.0, 14.0), -8.0),
]
SAMPLER = [
    SineComponent(0.30, (-2.44, 2.71), (4.5, 5.0), 1.0),
    SineComponent(0.30, (-1.19, 2.58), (10.0, 6.5), -1.0),
    SineComponent(0.32, (-1.31, -0.44), (8.0, 6.0), -3.0),
    SineComponent(0.08, (1.0, 0.61), (15.0, 9.0), -4.0),
]
CONSTANT = 7.0


def torus_truth(target: VonMisesMixture, sampler: VonMisesMixture) -> dict[str, float]:
    """Answers by quadrature; log Z of the shifted target is the constant."""
    points, weights = gauss_legendre_square(40, 20)
    log_p, log_q = target.log_prob(points), sampler.log_prob(points)
    p, q = weights * log_p.exp(), weights * log_q.exp()
    squared = force_error(target, sampler, points)
    angles = FULL_TURN * points
    energy = float((p * (-log_p - CONSTANT)).sum())
    positive = [float((p * (angles[:, i].sin() > 0)).sum()) for i in range(2)]
    return {
        "NLL": -float((p * log_q).sum()),
        "mean energy of frames": energy,
        "mean energy by MBAR": energy,
        "log Z by weights": CONSTANT,
        "log Z by BAR": CONSTANT,
        "forward KL": float((p * (log_p - log_q)).sum()),
        "reverse KL": float((q * (log_q - log_p)).sum()),
        "ESS": 1 / float((p * (log_p - log_q).exp()).sum()),
        "force MSE on frames": float((p * squared).sum()),
        "force MSE on samples": float((q * squared).sum()),
        **{f"{name} > 0 {how}": x for name, x in zip(("phi", "psi"), positive, strict=True) for how in HOW},
    }


HOW = ("from frames", "reweighted", "by MBAR")


def force_error(target: VonMisesMixture, sampler: VonMisesMixture, x: Tensor) -> Tensor:
    """The squared difference of the two forces, mean over both directions."""
    x = x.clone().requires_grad_(True)
    (difference,) = torch.autograd.grad((target.energy(x) - sampler.energy(x)).sum(), x)
    return (difference**2).mean(1)


def torus_columns(target: VonMisesMixture, sampler: VonMisesMixture, x: Tensor) -> Tensor:
    angles = FULL_TURN * x
    columns = [sampler.log_prob(x), target.energy(x) - CONSTANT, force_error(target, sampler, x), *angles.T]
    return torch.stack(columns, 1)


class Torus:
    """Target and sampler on the torus, with pools of draws of the sampler and of each basin of the target.

    Experiments take their draws from the pools at random: 400,000 know their means seven times as well as 10,000 do.
    """

    def __init__(self, n_pool: int = 400_000, seed: int = 0) -> None:
        target, sampler = VonMisesMixture(TORUS), VonMisesMixture(SAMPLER)
        self.generator = torch.Generator().manual_seed(seed)
        self.truth = torus_truth(target, sampler)
        self.share = torch.tensor([c.weight for c in TORUS], dtype=torch.float64)
        self.samples = Pool(torus_columns(target, sampler, sampler.sample(n_pool, self.generator)[0]))
        parts = [VonMisesMixture([SineComponent(1.0, c.locations, c.concentrations, c.coupling)]) for c in TORUS]
        basins = torch.cat([part.sample(n_pool // 4, self.generator)[0] for part in parts])
        self.basins = Pool(torus_columns(target, sampler, basins))

    def walk(self, n_walkers: int, n: int, rate: float) -> Tensor:
        """Frames of walkers in equilibrium, as rows of the pool of basins.

        Each step leaves a basin at this rate for one by the weights, and half of the steps move within it.
        """
        jumps = torch.rand(n_walkers, n, generator=self.generator) < rate
        moves = torch.rand(n_walkers, n, generator=self.generator) < 0.5
        jumps[:, 0] = True
        moves |= jumps
        chosen = torch.multinomial(self.share, n_walkers * n, replacement=True, generator=self.generator)
        steps = torch.arange(n).expand(n_walkers, n)
        basin = chosen.view(n_walkers, n).gather(1, torch.where(jumps, steps, 0).cummax(1).values)
        size = len(self.basins.columns) // len(self.share)
        fresh = size * basin + torch.randint(size, (n_walkers, n), generator=self.generator)
        return fresh.gather(1, torch.where(moves, steps, 0).cummax(1).values).reshape(-1)

    def experiments(self, n_repeats: int, n_walkers: int, n_frames: int, rate: float) -> Tally:
        """Evaluations of 10,000 samples and so many frames of all walkers."""
        tally = Tally()
        replica = np.arange(n_walkers).repeat(n_frames // n_walkers)
        for _ in range(n_repeats):
            seen = self.basins.configurations(self.walk(n_walkers, n_frames // n_walkers, rate), replica)
            rows = torch.randint(len(self.samples.columns), (N_SAMPLES,), generator=self.generator)
            drawn = self.samples.configurations(rows)
            for name, estimate in quoted(summarize(STAND_IN, seen, drawn, HELD_OUT)):
                tally.add(name, estimate, self.truth[name])
        return tally


def reference() -> ForceField:
    return ForceField.from_potential(PotentialSource(reference=AMBER, structure=molecule_path(MOLECULE)).load())


def columns_of(model: FlowPotential, found: Configurations) -> np.ndarray:
    phi, psi = (model.coordinates.codomain.index(name) for name in ("phi", "psi"))
    kept = [found.log_prob, found.energy, found.squared_force_error, found.internal[:, phi], found.internal[:, psi]]
    return torch.stack(kept, 1).numpy()


def sample_pool(name: str, n: int, folder: Path, seed: int) -> Pool:
    """A pool of samples, kept in the folder."""
    path = folder / f"{name}.npy"
    if not path.exists():
        model, target, generator = load(name), reference(), torch.Generator().manual_seed(12345 + seed)
        parts = [columns_of(model, observe_samples(model, 10_000, generator, target)) for _ in range(n // 10_000)]
        np.save(path, np.concatenate(parts))
    return Pool(torch.from_numpy(np.load(path)))


def frame_pool(name: str, positions: np.ndarray, folder: Path) -> Pool:
    """A pool of frames, kept in the folder."""
    path = folder / f"{name}-frames.npy"
    if not path.exists():
        model, target = load(name), reference()
        topology = model.coordinates.topology
        parts = []
        for start in range(0, len(positions), 5000):
            frames = Frames(topology, model.temperature, np.array(positions[start : start + 5000]))
            parts.append(columns_of(model, observe_frames(model, frames, target)))
        np.save(path, np.concatenate(parts))
    return Pool(torch.from_numpy(np.load(path)))


def shipped_truth(samples: Pool, exact: Pool, frames: Pool) -> dict[str, float]:
    """Answers of the whole pools: of the target by the samples of the best model."""
    log_prob, energy, squared, _, _ = samples.columns.T
    weights = -energy - log_prob
    best_log_prob, best_energy, _, phi, psi = exact.columns.T
    best = -best_energy - best_log_prob
    target = torch.softmax(best, 0)
    partition = log_z(best).value
    seen = frames.columns
    gap = float((-seen[:, 1] - seen[:, 0]).mean())
    positive = {"phi": phi.sin() > 0, "psi": psi.sin() > 0}
    return {
        "NLL": -float(seen[:, 0].mean()),
        "mean energy of frames": float(seen[:, 1].mean()),
        "mean energy by MBAR": float((target * best_energy).sum()),
        "log Z by weights": partition,
        "log Z by BAR": partition,
        "forward KL": gap - partition,
        "reverse KL": partition - float(weights.mean()),
        "ESS": ess_fraction(weights).value,
        "force MSE on frames": float(seen[:, 2].mean()),
        "force MSE on samples": float(squared.mean()),
        **{f"{name} > 0 {how}": float(target[flags].sum()) for name, flags in positive.items() for how in HOW[1:]},
        "phi > 0 from frames": float((seen[:, 3].sin() > 0).double().mean()),
        "psi > 0 from frames": float((seen[:, 4].sin() > 0).double().mean()),
    }


def shipped_experiments(
    samples: Pool, frames: Pool, truth: Mapping[str, float], n_repeats: int, n_walkers: int, segment: int, seed: int
) -> Tally:
    """Each with the next samples of the pool, and with segments at random as walkers."""
    generator = torch.Generator().manual_seed(1000 * seed + n_walkers)
    n_segments = len(frames.columns) // segment
    replica = np.arange(n_walkers).repeat(segment)
    n_sets = len(samples.columns) // N_SAMPLES
    tally = Tally()
    for i in range(min(n_repeats, n_sets)):
        first = N_SAMPLES * i
        drawn = samples.configurations(torch.arange(first, first + N_SAMPLES))
        starts = segment * torch.randperm(n_segments, generator=generator)[:n_walkers]
        chosen = (starts[:, None] + torch.arange(segment)).reshape(-1)
        found = summarize(STAND_IN, frames.configurations(chosen, replica), drawn, HELD_OUT)
        for name, estimate in quoted(found):
            tally.add(name, estimate, truth[name])
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200, help="experiments on the torus of each kind")
    parser.add_argument("--samples", type=int, default=300_000, help="of each model, cut into sets of 10,000")
    parser.add_argument("--pool", type=Path, help="folder that keeps the pools; without, only the torus")
    parser.add_argument("--frames", type=Path, help="positions of molecular dynamics, nm, as a NumPy file")
    parser.add_argument("--segment", type=int, default=250, help="frames of each segment")
    parser.add_argument("--seed", type=int, default=0, help="of all draws; a folder of pools belongs to one")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    figures: dict[str, object] = {}

    def note(title: str, by_walkers: Mapping[int, Tally]) -> None:
        cells = {n: tally.cells() for n, tally in by_walkers.items()}
        counts = " / ".join(str(n) for n in by_walkers)
        for name in next(iter(cells.values())):
            figures[f"{title}, {name}, {counts} walkers"] = " / ".join(cells[n][name] for n in by_walkers)

    seed = arguments.seed
    torus = Torus(seed=seed)
    for rate in (0.02, 0.001):
        repeats = arguments.repeats
        note(f"torus, jumps {rate:g} a frame", {n: torus.experiments(repeats, n, 8000, rate) for n in WALKERS})
    if arguments.pool is not None and arguments.frames is not None:
        arguments.pool.mkdir(parents=True, exist_ok=True)
        positions = np.load(arguments.frames, mmap_mode="r")
        best = sample_pool("ala2-smooth", arguments.samples, arguments.pool, seed)
        for name in ("ala2-smooth", "ala2-spline", "ala2-affine"):
            samples = sample_pool(name, arguments.samples, arguments.pool, seed)
            frames = frame_pool(name, positions, arguments.pool)
            truth = shipped_truth(samples, best, frames)
            note(
                name,
                {
                    n: shipped_experiments(samples, frames, truth, arguments.repeats, n, arguments.segment, seed)
                    for n in WALKERS
                },
            )
    keep(arguments.json, "Quoted errors that hold the truth, % (of twice the error; 95 is right)", figures, began)


if __name__ == "__main__":
    main()
