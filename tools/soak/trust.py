"""How percentiles and the spread of a committee rise, and the errors of forces with them, on the way out of the data.

    python tools/soak/trust.py --frames held.h5 --json docs/reliability/trust.json

Capped alanine; models that come with the package, and Amber, of which they are models, as the truth. Four kinds of
configurations: held-out frames of the models' temperature; frames of dynamics with Amber at higher temperatures; and
walks out of the data, each from a frame along one internal coordinate (a bond or an angle stretched), or along all in a
random direction, in steps of the coordinate's standard deviation. And frames whose phi and psi were turned anywhere,
where a model may have too low an energy.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from record import keep
from scipy import stats
from smoothflow.core.committee import CommitteePotential
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import State, maxwell_boltzmann
from smoothflow.core.manifolds import Circle
from smoothflow.core.potential import Potential
from smoothflow.core.reporter import Reporter
from smoothflow.integrators.simulation import Simulation
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames_file import read_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.familiarity import Familiarity
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.reference import reference
from smoothflow.potentials.shipped import load_flow
from torch import Tensor

AMBER = "torch:amber99sbildn.xml,amber99_obc.xml,compiled"
STEPS = np.arange(0, 12.5, 0.5)
"""Of a walk along one coordinate, in its standard deviations."""

FAR = np.arange(0, 4.1, 0.2)
"""Of a walk along all of them."""


class Measures:
    """Of configurations: the error of the model's forces, the rarity of its energy, and a committee's spread."""

    def __init__(self, model: FlowPotential, others: list[FlowPotential], amber: Potential) -> None:
        self.model, self.amber = model, amber
        self.committee = CommitteePotential([model, *others])
        self.familiar = Familiarity(model)

    def __call__(self, positions: Tensor) -> dict[str, np.ndarray]:
        parts = [self._measured(part) for part in torch.split(positions, 500)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _measured(self, positions: Tensor) -> dict[str, np.ndarray]:
        energy, forces = self.model.energy_and_forces(positions)
        _, truth = self.amber.energy_and_forces(positions)
        *_, energy_spread, force_spread = self.committee.energy_forces_and_spread(positions)
        # of one atom, as the spread is
        error = (forces - truth).norm(dim=-1).amax(-1)
        return {
            "error": error.numpy(),
            "energy": energy.numpy(),
            "percentile": self.familiar(energy).numpy(),
            "spread of forces": force_spread.amax(-1).numpy(),
            "spread of energies": energy_spread.numpy(),
        }


class Visited(Reporter):
    """Positions after a first stretch."""

    def __init__(self, first: int) -> None:
        self.first = first
        self.kept: list[Tensor] = []

    def report(self, step: int, state: State) -> None:
        if step > self.first:
            self.kept.append(state.positions)


def hot_frames(amber: Potential, positions: Tensor, weights: Tensor, temperature: float) -> Tensor:
    """Frames of dynamics with Amber, from 1 ps after it was heated."""
    velocities = maxwell_boltzmann(weights, len(positions), temperature, torch.Generator().manual_seed(2))
    settings = DynamicsSettings(4000, 0.0005, "nvt", temperature=temperature, friction=10.0, report_every=500, seed=3)
    visited = Visited(2000)
    start = State.start(amber, positions, velocities, weights)
    Simulation(amber, "langevin", start, settings, [visited]).run()
    return torch.cat(visited.kept)


def walks(model: FlowPotential, frames: Tensor, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Positions by kind of walk, (walks, steps, atoms, 3)."""
    q, _ = model.coordinates.encode(frames)
    domain = model.coordinates.codomain
    straight = [i for i in range(len(domain)) if i not in set(domain.indices(Circle))]
    width = q.std(0)
    for i in domain.indices(Circle):
        # of a circle; wide torsions are not left by turning them
        turns = torch.exp(1j * q[:, i])
        spread = float((-2 * turns.mean().abs().log()).sqrt())
        width[i] = spread if spread < 0.5 else 0.0
    chosen = torch.randint(len(q), (2 * n,), generator=generator)
    out = {}
    single = torch.zeros((n, q.shape[1]), dtype=q.dtype)
    columns = torch.tensor(straight)[torch.randint(len(straight), (n,), generator=generator)]
    signs = 2.0 * torch.randint(2, (n,), generator=generator) - 1
    single[torch.arange(n), columns] = signs * width[columns]
    everywhere = torch.randn((n, q.shape[1]), generator=generator, dtype=q.dtype) * width
    for name, direction, steps, first in (
        ("one bond or angle", single, STEPS, 0),
        ("all coordinates", everywhere, FAR, n),
    ):
        at = torch.tensor(steps, dtype=q.dtype)
        places = q[chosen[first : first + n], None] + at[None, :, None] * direction[:, None]
        bonds = slice(0, len(model.coordinates.topology) - 1)
        # what cannot be a length or an angle is not walked to
        places[:, :, bonds] = places[:, :, bonds].clamp(min=0.02)
        angles = slice(bonds.stop, straight[-1] + 1)
        places[:, :, angles] = places[:, :, angles].clamp(0.1, torch.pi - 0.02)
        x = model.coordinates.decode(places.flatten(0, 1))[0]
        out[name] = x.reshape(n, len(steps), *x.shape[1:])
    return out


def alarms(values: np.ndarray, limit: float) -> np.ndarray:
    """The first step of each walk at which a limit is passed; the number of steps where it never is."""
    passed = values > limit
    return np.where(passed.any(1), passed.argmax(1), values.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=Path, required=True, help="held-out frames of capped alanine in Amber")
    parser.add_argument("--model", default="ala2-smooth")
    parser.add_argument("--others", nargs="+", default=["ala2-spline", "ala2-affine"], help="the rest of the committee")
    parser.add_argument("--temperatures", nargs="*", type=float, default=[450.0, 600.0, 1000.0], help="K")
    parser.add_argument("--walks", type=int, default=300, help="of each kind")
    parser.add_argument("-n", type=int, default=2000, help="held-out frames")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begin = time.monotonic()
    amber = reference(AMBER, molecule_path("capped-alanine"))
    model, *others = (load_flow(name) for name in (options.model, *options.others))
    measure = Measures(model, others, amber)
    held = read_frames(options.frames)
    chosen = np.linspace(0, len(held) - 1, min(options.n, len(held))).astype(int)
    frames = torch.from_numpy(held.positions[chosen]).double()
    at_home = measure(frames)
    percentile = at_home["percentile"]
    figures: dict[str, str] = {
        "model; committee": f"{options.model}; with {', '.join(options.others)}",
        "held-out frames": str(len(frames)),
        "percentiles of held-out frames, largest distance from uniform (Kolmogorov, Smirnov)": (
            f"{stats.kstest(percentile / 100, 'uniform').statistic:.3f}"
        ),
    }
    for bound in (50, 90, 99, 99.9):
        share = 100 * (percentile > bound).mean()
        figures[f"of these above the percentile {bound:g}"] = f"{share:.2f} % ({100 - bound:.1f} % is due)"
    limit_of = {name: float(np.quantile(at_home[name], 0.999)) for name in at_home}
    limit_of["percentile"] = 99.9
    sources = {"held-out frames at 300 K": frames}
    weights = masses(model.coordinates.topology)
    for temperature in options.temperatures:
        sources[f"dynamics at {temperature:g} K"] = hot_frames(amber, frames[::20], weights, temperature)
    generator = torch.Generator().manual_seed(4)
    q, _ = model.coordinates.encode(frames)
    for name in ("phi", "psi"):
        q[:, model.coordinates.codomain.index(name)] = (2 * torch.rand(len(q), generator=generator) - 1) * torch.pi
    sources["frames with phi and psi turned anywhere"] = model.coordinates.decode(q)[0]
    gone = walks(model, frames, options.walks, generator)
    for name, x in gone.items():
        sources[f"walks along {name}"] = x.flatten(0, 1)
    found = {name: at_home if x is frames else measure(x) for name, x in sources.items()}
    for name, values in found.items():
        print(f"{name}: {len(values['error'])} configurations", flush=True)
        figures[f"{name}: largest error of a force, median, kJ/mol/nm"] = f"{np.median(values['error']):.0f}"
        figures[f"{name}: spread of the most disputed force, median, kJ/mol/nm"] = (
            f"{np.median(values['spread of forces']):.0f}"
        )
        above = 100 * (values["percentile"] > 99.9).mean()
        figures[f"{name}: above percentile 99.9"] = f"{above:.1f} %"
        wrong = values["error"] > limit_of["error"]
        if wrong.any():
            for key in ("percentile", "spread of forces"):
                seen = 100 * (values[key][wrong] > limit_of[key]).mean()
                figures[f"{name}: of those with errors beyond the data's, seen by the {key}"] = f"{seen:.0f} %"
        figures[f"{name}: rank correlation of the error with energy; spread of forces; spread of energies"] = "; ".join(
            f"{stats.spearmanr(values['error'], values[other]).statistic:.2f}"
            for other in ("energy", "spread of forces", "spread of energies")
        )
    everything = {key: np.concatenate([values[key] for values in found.values()]) for key in at_home}
    figures["all together: rank correlation of the error with energy; spread of forces; spread of energies"] = (
        "; ".join(
            f"{stats.spearmanr(everything['error'], everything[other]).statistic:.2f}"
            for other in ("energy", "spread of forces", "spread of energies")
        )
    )
    early = []
    for name, x in gone.items():
        values = {key: each.reshape(x.shape[:2]) for key, each in found[f"walks along {name}"].items()}
        error = alarms(values["error"], limit_of["error"])
        reached = error < x.shape[1]
        figures[f"walks along {name}: of {len(x)}, with errors that one held-out frame in a thousand has"] = str(
            int(reached.sum())
        )
        for key in ("percentile", "spread of forces", "spread of energies"):
            ahead = error - alarms(values[key], limit_of[key])
            share = 100 * (ahead[reached] >= 0).mean()
            if key == "percentile":
                early.append(share)
            steps = STEPS if x.shape[1] == len(STEPS) else FAR
            lead = np.median(ahead[reached]) * (steps[1] - steps[0])
            figures[f"walks along {name}: of these, {key} beyond one in a thousand before or with the error"] = (
                f"{share:.0f} % (median {lead:.1f} standard deviations before)"
            )
    keep(options.json, "Percentiles, the spread of a committee, and errors of forces outside the data", figures, begin)
    # an alarm that mostly comes too late is none
    sys.exit(0 if min(early) > 50 else 1)


if __name__ == "__main__":
    main()
