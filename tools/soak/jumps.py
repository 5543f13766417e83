"""What jumps of a flow are worth within dynamics: beside plain dynamics and replica exchange at equal evaluations.

    python tools/soak/jumps.py --evaluations 2000000 --out build/jumps --json docs/reliability/jumps.json

Each way makes frames of one molecule with as many evaluations of the force field. Of each, the visits to phi > 0 and
back are counted, and the evaluations are told that one independent value of phi takes (frames times the integrated
autocorrelation time), with the population of phi > 0.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from record import keep
from smoothflow.analysis.correlation import statistical_inefficiency
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.molecules.frames_file import read_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.sampling.simulate import SimulateSettings, default_ladder, simulate

INTERVAL = 0.2
"""Time between frames, ps."""


def settings_of(way: str, arguments: argparse.Namespace) -> SimulateSettings:
    """A simulation that takes about as many evaluations as the others."""
    structure = molecule_path(arguments.molecule)
    ladder = default_ladder(structure, 300.0) if way == "replica exchange" else ()
    proposals = way.partition("jumps of ")[2] or None
    steps = arguments.evaluations // (len(ladder) + 1)
    return SimulateSettings(
        structure,
        arguments.reference,
        n_frames=round(steps / 1000 / INTERVAL),
        frame_interval=INTERVAL,
        ladder=ladder,
        walkers=arguments.walkers,
        seed=arguments.seed,
        proposals=proposals,
        jumps=arguments.jumps,
    )


def figures_of(path: Path, evaluations: int) -> dict[str, str]:
    frames = read_frames(path)
    coordinates = InternalCoordinates(frames.topology)
    q, _ = coordinates.encode(torch.from_numpy(frames.positions).double())
    names = [name for name in coordinates.codomain.names if name.split()[0] == "phi"]
    phi = q[:, [coordinates.codomain.index(name) for name in names]].numpy()
    slowest = max(statistical_inefficiency(np.exp(1j * phi[:, i]), frames.replica) for i in range(len(names)))
    positive = np.sin(phi) > 0
    trips = sum(
        int(((~positive[frames.replica == w][:-1]) & positive[frames.replica == w][1:]).sum())
        for w in np.unique(frames.replica)
    )
    shares = ", ".join(f"{100 * share:.2f}" for share in positive.mean(axis=0))
    return {
        "evaluations": f"{evaluations:,}",
        "visits to phi > 0": str(trips),
        "evaluations for one independent phi": f"{evaluations / len(frames) * slowest:,.0f}",
        "phi > 0, % of frames": shares,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--molecule", default="capped-alanine", help="one that ships with the package")
    parser.add_argument("--reference", default="openmm:amber99sbildn.xml,amber99_obc.xml")
    parser.add_argument("--models", nargs="+", default=["ala2-smooth", "ala2-affine"], help="what proposes jumps")
    parser.add_argument("--evaluations", type=int, default=2_000_000, help="of the force field, each way")
    parser.add_argument("--jumps", type=int, default=10, help="attempted every 5 ps")
    parser.add_argument("--walkers", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the simulations, which go on there")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    began = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, object] = {}
    for way in ("plain dynamics", "replica exchange", *(f"jumps of {model}" for model in arguments.models)):
        path = arguments.out / f"{Path(way.replace(' ', '-')).name}.h5"
        report = simulate(settings_of(way, arguments), path)
        for name, value in figures_of(path, report.evaluations).items():
            figures[f"{way}: {name}"] = value
        attempted, accepted = report.jumps
        if attempted:
            figures[f"{way}: accepted, %"] = f"{100 * accepted / attempted:.1f}"
    keep(arguments.json, f"Jumps within dynamics: {arguments.molecule}", figures, began)


if __name__ == "__main__":
    main()
