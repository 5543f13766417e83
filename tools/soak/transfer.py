"""Free energies at another force field by ``transfer``, against dynamics with that force field.

    python tools/soak/transfer.py --json docs/reliability/transfer.json

Capped alanine, from the model of Amber ff99SB-ILDN with OBC to another Amber force field. The witness is Langevin
dynamics of many replicas at once, in torch with compiled code; they start from samples of the model, and their first
stretch is left out. Errors of dynamics are those of independent replicas.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import torch
from record import keep
from smoothflow.analysis.basins import BASINS
from smoothflow.analysis.reweighted import torsions_of
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import State, maxwell_boltzmann
from smoothflow.core.reporter import Reporter
from smoothflow.integrators.simulation import Simulation
from smoothflow.molecules.elements import masses
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.reference import reference
from smoothflow.potentials.shipped import load_flow
from smoothflow.studies.transfer import TransferSettings, transfer
from torch import Tensor

MODEL, MOLECULE = "ala2-smooth", "capped-alanine"
CHEAP = "torch:amber99sbildn.xml,amber99_obc.xml"
FIRST, SECOND = "alpha", "beta"


class Counts(Reporter):
    """How often each replica is in each basin, by thirds of the run after its first stretch."""

    def __init__(self, flow: FlowPotential, start: int, n_steps: int, n_replicas: int) -> None:
        self.flow, self.start, self.n_steps = flow, start, n_steps
        self.seen = torch.zeros(3, 2, n_replicas, dtype=torch.float64)

    def report(self, step: int, state: State) -> None:
        if step % 10_000 == 0:
            print(f"{step / 1000:.0f} ps", flush=True)
        if step <= self.start:
            return
        third = min(2, 3 * (step - self.start - 1) // (self.n_steps - self.start))
        torsions = torsions_of(self.flow, state.positions, ["phi", "psi"])
        for i, name in enumerate((FIRST, SECOND)):
            self.seen[third, i] += BASINS[name].contains(torsions)


def free_energy(seen: Tensor) -> tuple[float, float]:
    """Of the second basin above the first one, kT, from counts by basin and replica; replicas are independent."""
    mean = seen.mean(1)
    influence = seen[0] / mean[0] - seen[1] / mean[1]
    return float((mean[0] / mean[1]).log()), float(influence.std()) / math.sqrt(seen.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", default="amber03.xml,amber03_obc.xml", help="force-field files")
    parser.add_argument("--replicas", type=int, default=256)
    parser.add_argument("--time", type=float, default=150.0, help="ps, of each replica")
    parser.add_argument("--left-out", type=float, default=50.0, help="ps at the start")
    parser.add_argument("--error", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    begin = time.monotonic()
    flow = load_flow(MODEL)
    assert flow.topology is not None
    target = reference(f"torch:{options.to},compiled", molecule_path(MOLECULE))
    settings = TransferSettings(error=options.error, basins=(BASINS[FIRST], BASINS[SECOND]))
    with tempfile.TemporaryDirectory() as folder:
        cheap = reference(CHEAP, molecule_path(MOLECULE))
        found = transfer({MODEL: flow}, target, settings, Path(folder), {}, cheap).found
    assert found is not None
    ours = found.reference.free_energies[f"{SECOND} above {FIRST}"]
    before = None if found.cheap is None else found.cheap.free_energies[f"{SECOND} above {FIRST}"]
    print(f"transfer: {ours} kT, at the model's level {before}, {found.n_evaluations[0]} evaluations", flush=True)

    with torch.no_grad():
        positions, _ = flow.sample(options.replicas, seed=1)
    mass = masses(flow.topology)
    velocities = maxwell_boltzmann(mass, options.replicas, flow.temperature, torch.Generator().manual_seed(2))
    n_steps = round(options.time / 0.001)
    dynamics = DynamicsSettings(
        n_steps, 0.001, "nvt", temperature=flow.temperature, friction=1.0, report_every=200, seed=3
    )
    counts = Counts(flow, round(options.left_out / 0.001), n_steps, options.replicas)
    start = State.start(target, positions, velocities, mass)
    Simulation(target, "langevin", start, dynamics, [counts]).run()
    theirs, error = free_energy(counts.seen.sum(0))
    thirds = ", ".join("{:.2f} ± {:.2f}".format(*free_energy(third)) for third in counts.seen)
    apart = abs(ours.value - theirs) / math.hypot(ours.error, error)
    figures = {
        "from, to": f"{MODEL}, {options.to}",
        "evaluations of the other force field": found.n_evaluations[0],
        "ESS": f"{100 * found.ess.value:.0f} %",
        "verdict": str(found.verdict),
        f"{SECOND} above {FIRST} at the model's level, kT": str(before),
        "the same at the other level, by transfer": str(ours),
        f"by dynamics of {options.replicas} x {options.time - options.left_out:g} ps": f"{theirs:.3f} ± {error:.3f}",
        "of which each third": thirds,
        "apart by, in errors": f"{apart:.1f}",
    }
    keep(options.json, "Another level of theory, by reweighting and by dynamics", figures, begin)
    sys.exit(0 if apart < 3 else 1)


if __name__ == "__main__":
    main()
