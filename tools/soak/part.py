"""A potential of mean force out of explicit solvent, against the simulation it came from.

    python tools/soak/part.py --time 12 --json docs/reliability/part.json

Capped alanine in TIP3P water: molecular dynamics in OpenMM (heavy hydrogens held by constraints, 4 fs), the heavy atoms
out of the trajectory as ``convert --select`` takes them, and a flow of them by likelihood on its first half. The free
energies of phi and psi by samples of the flow are compared with those of the second half, which the flow has not seen,
and with those of the whole of it; errors of the dynamics are those of blocks.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import openmm
import smoothflow
import torch
from openmm import app, unit
from record import keep
from smoothflow import FlowSettings, LossWeights, TrainSettings
from smoothflow.analysis.basins import Basin
from smoothflow.analysis.correlation import mean_of_time_series
from smoothflow.analysis.estimates import Estimate, format_measured, mean_of_independent
from smoothflow.molecules.formats import import_frames
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.parts import Selection
from smoothflow.molecules.shipped import molecule_path
from torch import Tensor

TEMPERATURE = 300.0
SELECTION = "not water and not element H"
BASIN = Basin("alpha", {"phi": (-180, 0), "psi": (-120, 50)})
TIME_STEP = 0.004
"""ps; masses do not change where a molecule is found."""

BINS = 12
"""Along each torsion."""

LEAST = 0.02
"""Share of the frames that a bin must have to be compared."""


def solution() -> app.Modeller:
    pdb = app.PDBFile(str(molecule_path("capped-alanine")))
    made = app.Modeller(pdb.topology, pdb.positions)
    made.addSolvent(force_field(), boxSize=openmm.Vec3(2.0, 2.0, 2.0) * unit.nanometer)
    return made


def force_field() -> app.ForceField:
    return app.ForceField("amber99sbildn.xml", "tip3p.xml")


def simulate(folder: Path, seconds: float, every: int, platform: str) -> float:
    """Dynamics for so long; returns picoseconds."""
    made = solution()
    options = {"nonbondedMethod": app.PME, "nonbondedCutoff": 0.8, "constraints": app.HBonds, "hydrogenMass": 3.0}
    system = force_field().createSystem(made.topology, **options)
    integrator = openmm.LangevinMiddleIntegrator(TEMPERATURE, 1.0, TIME_STEP)
    integrator.setRandomNumberSeed(1)
    properties = {"Threads": "1"} if platform == "CPU" else {}
    simulation = app.Simulation(
        made.topology, system, integrator, openmm.Platform.getPlatformByName(platform), properties
    )
    simulation.context.setPositions(made.positions)
    simulation.minimizeEnergy(maxIterations=200)
    simulation.context.setVelocitiesToTemperature(TEMPERATURE, 1)
    with (folder / "system.pdb").open("w") as file:
        app.PDBFile.writeFile(made.topology, made.positions, file)
    ends = time.monotonic() + seconds
    while time.monotonic() < ends - 0.95 * seconds:
        simulation.step(every)
    simulation.reporters.append(app.DCDReporter(str(folder / "run.dcd"), every))
    steps = 0
    while time.monotonic() < ends:
        simulation.step(every)
        steps += every
    return TIME_STEP * steps


def torsions(model: smoothflow.FlowPotential, positions: Tensor) -> dict[str, Tensor]:
    q, _ = model.coordinates.encode(positions.double())
    names = model.coordinates.codomain.names
    return {name: q[:, names.index(name)] for name in ("phi", "psi")}


def in_basin(angles: dict[str, Tensor]) -> Tensor:
    return BASIN.contains(angles).double()


def histogram(angles: dict[str, Tensor]) -> Tensor:
    cells = [((angle / (2 * math.pi) % 1) * BINS).long().clamp(max=BINS - 1) for angle in angles.values()]
    return torch.bincount(cells[0] * BINS + cells[1], minlength=BINS**2).double() / len(cells[0])


def free_energy(population: Estimate) -> Estimate:
    """Of the basin against all else, kT."""
    p = population.value
    if not 0 < p < 1:
        return Estimate(math.nan, math.nan, population.n, "all on one side")
    return Estimate(-math.log(p / (1 - p)), population.error / (p * (1 - p)), population.n)


def compare(model: smoothflow.FlowPotential, frames: Frames, held_out: Frames, n_samples: int) -> dict[str, object]:
    with torch.no_grad():
        positions, _ = model.sample(n_samples, seed=3)
    drawn = torsions(model, positions)
    by_model = free_energy(mean_of_independent(in_basin(drawn)))
    found: dict[str, object] = {"alpha against all else by the model, kT": measured(by_model)}
    for name, part in (("all frames", frames), ("the half not trained on", held_out)):
        seen = torsions(model, torch.from_numpy(part.positions))
        by_dynamics = free_energy(mean_of_time_series(in_basin(seen)))
        error = math.hypot(by_model.error, by_dynamics.error)
        found |= {
            f"the same by dynamics, {name}, kT": measured(by_dynamics),
            f"errors from {name}": f"{abs(by_model.value - by_dynamics.value) / error:.1f}",
        }
        p, q = histogram(seen), histogram(drawn)
        both = (p > LEAST) & (q > 0)
        difference = (p[both].log() - q[both].log()) + (q[both].log() - p[both].log()).mean()
        found |= {
            f"bins of 30 degrees with 2 % of {name}": int((p > LEAST).sum()),
            f"free energy of phi and psi there, root mean square difference from {name}, kT": (
                f"{float(difference.square().mean().sqrt()):.2f}"
            ),
        }
    return found


def measured(estimate: Estimate) -> str:
    return estimate.reason or format_measured(estimate.value, estimate.error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--time", type=float, default=12.0, help="minutes of dynamics")
    parser.add_argument("--every", type=int, default=50, help="steps of 4 fs between frames")
    parser.add_argument("--platform", default="CPU", help="OpenMM's")
    parser.add_argument("--steps", type=int, default=1500, help="of training")
    parser.add_argument("-n", "--n-samples", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        duration = simulate(folder, 60 * options.time, options.every, options.platform)
        frames = import_frames(
            folder / "run.dcd", TEMPERATURE, folder / "system.pdb", selection=Selection.parse(SELECTION)
        )
        half = len(frames) // 2
        settings = TrainSettings(
            steps=options.steps,
            weights=LossWeights(force=0),
            batch_size=min(256, half // 2),
            flow=FlowSettings(interval_pairs=2, circle_pairs=2, hidden=48),
        )
        model = smoothflow.load(smoothflow.train(frames[:half], settings, folder / "run"))
        found = compare(model, frames, frames[half:], options.n_samples)
    figures = {"dynamics in TIP3P water, ps": f"{duration:.0f}", "frames": len(frames), **found}
    keep(options.json, "A potential of mean force and the simulation it came from", figures, began)
    if float(str(found["errors from the half not trained on"])) > 3:
        sys.exit("The model and the dynamics are more than three errors apart.")


if __name__ == "__main__":
    main()
