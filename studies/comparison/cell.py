"""One cell of a comparison: train, evaluate, run dynamics, and keep the results in one file."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...analysis.dynamics import energy_conservation, largest_force_gradient, scaling_exponent
from ...analysis.estimates import Estimate, mean_of_independent
from ...analysis.evaluation import Evaluation, evaluate
from ...core.display import count_parameters
from ...core.errors import InversionError, ManifoldError, SimulationError, SmoothflowError, TrainingError
from ...core.files import file_digest, make_folder, write_atomically
from ...core.potential import Potential
from ...molecules.elements import masses
from ...molecules.frames import Frames
from ...potentials.flow_potential import FlowPotential
from ...potentials.shipped import load_flow, provenance_of
from ...runs.locks import lock_file
from ...runs.progress import OnProgress, within
from ...runs.provenance import differences
from ...training.config import TrainSettings
from ...training.run import train
from ...training.run_folder import RunFolder, training_seconds
from ..conservation import PotentialSource
from ..gallery import evaluation_pictures
from ..physics.dynamics import NVE_REPORT_STEPS, energy_fluctuations, equilibrated, nve
from ..physics.report import single
from ..report import Picture
from .measured import Measured, NVERuns, read_measured, write_measured
from .settings import ComparisonSettings

BREAKDOWNS = (TrainingError, InversionError, ManifoldError, SimulationError)
"""Errors of a training that count as a result, since settings and frames were valid."""

MODELS = "models"
"""Folder of the models that are measured beside the grid, and the beginning of their titles."""


@dataclass(frozen=True)
class Inputs:
    """What all cells of a comparison have in common.

    Attributes:
        settings: The comparison.
        source: The force field of the frames.
        frames: Training frames.
        held_out: Frames to evaluate on, and to start dynamics from.
        digests: Digests of both.
        origin: Command, commit and machine.
    """

    settings: ComparisonSettings
    source: PotentialSource
    frames: Frames
    held_out: Frames
    digests: Mapping[str, str]
    origin: Mapping[str, str]


def measure_reference(inputs: Inputs, folder: Path, on_progress: OnProgress) -> Measured:
    """The same dynamics with the force field itself, or its results from before: ``folder/reference.json``."""
    path = folder / "reference.json"
    settings = inputs.settings
    identity = {
        "held_out": inputs.digests["held_out"],
        "reference": inputs.source.reference,
        **settings.model_dump(mode="json", include={"n_gradients", "seed", "dynamics"}),
    }
    known = _known(path, identity)
    if known is not None:
        return known
    # without a lock: two processes that begin at once measure the same thing
    found = Measured("force field", identity, inputs.origin, folder)
    return write_measured(_with_dynamics(found, inputs.source.load(), inputs, on_progress), path)


def measure_cell(transform: str, objective: str, inputs: Inputs, folder: Path, on_progress: OnProgress) -> Measured:
    """Train and measure one cell in its run folder, resume it, or read its results.

    A training or dynamics that breaks down is a result. Remove ``evaluation.json`` to try it again.

    Args:
        transform: Row of the grid.
        objective: Column of the grid.
        inputs: What all cells have in common.
        folder: The run folder of this cell.
        on_progress: Told of every stage.

    Raises:
        ConfigurationError: If the folder belongs to a training with other settings or on other frames, or another
            process is at work in it.
        FileFormatError: If the folder cannot be written, or forces are asked for and missing.
    """
    path = folder / "evaluation.json"
    known = finished_cell(transform, objective, inputs, folder)
    if known is not None:
        return known
    training = inputs.settings.training_of(transform, objective)
    title = f"{transform}/{objective}"
    found = Measured(title, _cell_identity(inputs, training), inputs.origin, folder)
    make_folder(folder)
    with lock_file(path):
        target = inputs.source.load()
        source = {**inputs.origin, "target": inputs.source.reference, "structure": str(inputs.source.structure)}
        try:
            model = train(inputs.frames, training, folder, target, within(f"train {title}", on_progress), source)
        except BREAKDOWNS as error:
            found.breakdowns["training"] = str(error)
            return write_measured(found, path)
        potential = load_flow(model)
        found.metrics.update(_cost(potential, RunFolder(folder)))
        provenance = provenance_of(model)
        return write_measured(_measured(found, potential, target, inputs, provenance, on_progress), path)


def measure_model(model: Path, inputs: Inputs, folder: Path, on_progress: OnProgress) -> Measured:
    """Measure an existing model like the cells of the grid, or read its results.

    Args:
        model: A model file of the same molecule.
        inputs: What all cells have in common.
        folder: Folder of the results, ``models/NAME`` in the comparison's folder.
        on_progress: Told of every stage.

    Raises:
        ConfigurationError: If another process measures it.
        FileFormatError: If the model is missing or damaged, or the folder cannot be written.
        TopologyError: If the model is of another molecule than the frames.
    """
    potential = load_flow(model)
    inputs.held_out.require_potential(potential, "the model")
    path = folder / "evaluation.json"
    identity = {"model": file_digest(model), **_identity(inputs)}
    known = _known(path, identity)
    if known is not None:
        return known
    make_folder(folder)
    found = Measured(f"{MODELS}/{folder.name}", identity, inputs.origin, folder)
    with lock_file(path):
        found.metrics["n_parameters"] = single(float(count_parameters(potential.flow)))
        provenance = provenance_of(model)
        return write_measured(_measured(found, potential, inputs.source.load(), inputs, provenance, on_progress), path)


def _known(path: Path, identity: Mapping[str, Any]) -> Measured | None:
    """What was measured before, if it is the same measurement."""
    known = read_measured(path)
    return None if known is None or any(differences(known.identity, identity)) else known


def finished_cell(transform: str, objective: str, inputs: Inputs, folder: Path) -> Measured | None:
    """The results of a cell, if it is finished and has the same frames and settings."""
    known = read_measured(folder / "evaluation.json")
    if known is None:
        return None
    identity = _cell_identity(inputs, inputs.settings.training_of(transform, objective))
    # fields that are newer than the file have their defaults there
    training = TrainSettings.model_validate(known.identity["training"]).model_dump(mode="json")
    return None if any(differences({**known.identity, "training": training}, identity)) else known


def _cell_identity(inputs: Inputs, training: TrainSettings) -> dict[str, Any]:
    return {
        "frames": inputs.digests["frames"],
        **_identity(inputs),
        "training": training.model_dump(mode="json"),
    }


def _identity(inputs: Inputs) -> dict[str, Any]:
    """What a measurement depends on besides the model."""
    return {
        "held_out": inputs.digests["held_out"],
        "reference": inputs.source.reference,
        **inputs.settings.model_dump(mode="json", include={"n_samples", "n_gradients", "seed", "dynamics"}),
    }


def _with_pictures(found: Measured, pictures: list[Picture]) -> Measured:
    kept = []
    for picture in pictures:
        name = re.sub(r"[^a-z0-9]+", "-", picture.title.lower()) + ".png"
        write_atomically(found.folder / name, picture.png)
        kept.append((picture.title, picture.caption, name))
    return replace(found, pictures=tuple(kept))


def _measured(
    found: Measured,
    potential: FlowPotential,
    target: Potential,
    inputs: Inputs,
    provenance: Mapping[str, Any],
    on_progress: OnProgress,
) -> Measured:
    """Adds densities, samples and forces, their pictures, and dynamics."""
    evaluation: Evaluation | None = None
    with _noted(found, "evaluation"):
        evaluation = evaluate(
            potential,
            inputs.held_out,
            target,
            inputs.settings.n_samples,
            torch.Generator().manual_seed(inputs.settings.seed),
            within(f"evaluate {found.title}", on_progress),
            provenance,
        )
        found.verdict.extend(evaluation.verdict.reasons)
        found.metrics.update(_quality(evaluation))
    if evaluation is not None:
        # a picture that cannot be written does not mean that the flow broke down
        found = _with_pictures(found, evaluation_pictures(evaluation, potential.coordinates.codomain))
    return _with_dynamics(found, potential, inputs, on_progress)


def _with_dynamics(found: Measured, potential: Potential, inputs: Inputs, on_progress: OnProgress) -> Measured:
    """Adds force gradients, energy conservation, and how it changes with the time step."""
    settings, held_out = inputs.settings, inputs.held_out
    physics = settings.dynamics.physics(held_out.temperature)
    told = within(f"dynamics {found.title}", on_progress)

    def spread(n: int) -> Float[Tensor, "n atoms 3"]:
        chosen = torch.linspace(0, len(held_out) - 1, min(n, len(held_out))).long()
        return torch.from_numpy(held_out.positions)[chosen].double()

    with _noted(found, "force gradient"):
        noise = torch.Generator().manual_seed(settings.seed)
        sizes = largest_force_gradient(potential, spread(settings.n_gradients), noise)
        found.metrics["largest_force_gradient"] = replace(single(float(sizes.max())), n=len(sizes))
        found.metrics["mean_force_gradient"] = mean_of_independent(sizes)
    runs: NVERuns | None = None
    with _noted(found, "equilibration"):
        start = equilibrated(potential, spread(physics.n_replicas), masses(held_out.topology), physics, told)
        with _noted(found, "NVE"):
            trajectory = nve(potential, start, physics.timestep, physics.production, NVE_REPORT_STEPS, told)
            runs = NVERuns(trajectory.times, trajectory.total_energy)
            conserved = energy_conservation(trajectory)
            found.metrics["nve_std_per_dof"] = conserved.std_per_dof
            found.metrics["nve_abs_drift"] = conserved.abs_drift
            found.metrics["nve_drift"] = conserved.drift
        with _noted(found, "time steps"):
            if physics.timesteps:
                fluctuations = energy_fluctuations(potential, start, physics, told)
                found.metrics["timestep_exponent"] = scaling_exponent(physics.timesteps, fluctuations)
    return replace(found, nve=runs)


@contextmanager
def _noted(found: Measured, stage: str) -> Iterator[None]:
    """A breakdown within the ``with`` block is recorded as the result of a stage."""
    try:
        yield
    except SmoothflowError as error:
        found.breakdowns[stage] = str(error)


def _quality(evaluation: Evaluation) -> dict[str, Estimate]:
    """The numbers of an evaluation by name."""
    found = {name: value for name, value in vars(evaluation).items() if isinstance(value, Estimate)}
    found["force_rmse_data"] = evaluation.force_rmse_data
    found["force_rmse_samples"] = evaluation.force_rmse_samples
    n_samples = len(evaluation.samples)
    found["sample_energy_max"] = replace(single(evaluation.sample_energy_max), n=n_samples)
    for name in ("largest_weight_share", "pareto_k", "overlap"):
        found[name] = replace(single(getattr(evaluation, name)), n=n_samples)
    found["not_finite"] = replace(single(float(evaluation.not_finite)), n=n_samples)
    for item in evaluation.divergences:
        residue = " and ".join(item.names)
        found[f"torsion_divergence {residue}"] = item.divergence
        found[f"torsion_noise_floor {residue}"] = item.noise_floor
    for distance in evaluation.distances:
        # total variations are those of a residue
        measure, _, residue = distance.name.partition(" ")
        kinds = {"": distance.samples, "_reweighted": distance.reweighted, "_floor": distance.floor}
        found |= {f"{measure}{kind} {residue}".strip(): value for kind, value in kinds.items()}
    return found


def _cost(potential: FlowPotential, run: RunFolder) -> dict[str, Estimate]:
    """Size of the flow, and what its training took."""
    found = {"n_parameters": single(float(count_parameters(potential.flow)))}
    seconds = training_seconds(run)
    if not math.isnan(seconds):
        found["training_seconds"] = single(seconds)
    with run.metrics.open(newline="") as file:
        *_, last = csv.DictReader(file)
    if last.get("energy_evaluations"):
        found["energy_evaluations"] = single(float(last["energy_evaluations"]))
    return found
