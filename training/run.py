"""A training run and its folder: settings, log, metrics, checkpoints and the best model.

Checkpoints are Lightning's and private to the run folder; loading one runs no code from it. What is given to others is
the model file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..coordinates.fitting import fit_charts
from ..coordinates.internal import InternalCoordinates
from ..coordinates.zmatrix import Row, ZMatrix
from ..core.architecture import FlowSettings, build_flow
from ..core.charts import Chart
from ..core.errors import ConfigurationError, TrainingError
from ..core.files import file_digest, make_folder, write_json
from ..core.plugins import registry
from ..core.potential import Potential
from ..core.units import thermal_energy
from ..molecules.frames import Frames
from ..molecules.label_checks import check_labels, compare_labels, warn_of_duplicates
from ..molecules.parts import require_system
from ..potentials.flow_potential import FlowPotential
from ..potentials.shipped import load_flow, provenance_of
from ..runs.locks import lock_folder
from ..runs.progress import OnProgress, Progress, silent
from ..runs.provenance import versions
from .config import TrainSettings
from .data import TrainingData
from .fit import VALIDATION_BATCH, Work, fit
from .processes import ALONE, Rank, in_processes, launched_rank
from .refining import hot_frames
from .run_folder import Journal, RunFolder, claim, identity_of, journal_of, last_step
from .sample_losses import Target

N_REFERENCE_ENERGIES = 256


def train(
    frames: Frames | Sequence[Frames],
    settings: TrainSettings,
    run_folder: str | Path,
    target: Potential | None = None,
    on_progress: OnProgress = silent,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Train a flow on frames, or go on with the run that is in the folder, bit for bit on one device.

    With several processes each step is that of one process up to rounding: they share the frames of each batch and the
        held-out frames, and each draws all samples of the flow, the same in every process. A run may go on with another
        number of processes. They are started here, unless ``torchrun`` started this one. A script then needs the guard
        ``if __name__ == "__main__":``, because each process imports it.

    Frames of several temperatures, such as those of all temperatures of a replica exchange, train one flow of all of
    them, whose context is the temperature. Each frame counts in its own kT; samples of the flow are of the lowest
    temperature.

    Args:
        frames: Training data; blocks of them are held out. Several of them are of different temperatures.
        settings: How to train; to go on they must be those of the run.
        run_folder: Made if it is missing.
        target: The force field, for divergences on the flow's samples.
        on_progress: Told of steps and losses.
        source: The command, and where frames and target came from, in JSON types: kept in the folder.

    Returns:
        The file of the best model.

    Raises:
        ConfigurationError: If settings and data do not go together, the folder belongs to another run, another
            process is training in it, or cannot be shared by that many processes.
        FileFormatError: If forces are asked for and missing, or the folder cannot be written.
        TrainingError: If a loss or a gradient is not finite, which names step and frame; or if a process dies.
    """
    rank = launched_rank()
    data = TrainingData.of(frames)
    target = _checked(data, settings, target, rank)
    # before the folder, so that frames that cannot be trained on leave none
    training, validation = data.split(settings.validation_fraction, settings.seed)
    _require_shares(settings, len(training), len(validation))
    origin = None
    if settings.initial_model is None:
        settings = _with_context(settings, data)
        potential = initial_potential(data[training], settings)
    else:
        model = registry().model_path(settings.initial_model)
        potential, settings = begin_with(model, data, settings)
        origin = _origin(model)
    outside = None
    if hot_frames(settings, data.topology) is not None:
        outside = file_digest(Path(str(settings.refining.outside_frames)))
    for part in data.parts:
        if settings.weights.force > 0:
            check_labels(part, "the frames")
        warn_of_duplicates(part, "the frames")
    run = RunFolder(Path(run_folder))
    is_first = rank is None or rank.index == 0
    digest = data.digest()
    identity = identity_of(data, digest, origin, outside)
    with _hold(run, identity, settings) if is_first else nullcontext(_unheard) as journal:
        if is_first and source is not None and not run.source.exists():
            write_json(run.source, dict(source))
        reference = None
        if target is not None:
            coldest = data[training].parts[0]
            threshold = _threshold(coldest, target, settings) if settings.weights.needs_target else math.inf
            reference = Target(target, thermal_energy(data.temperature), threshold)
        journal(f"{len(training)} frames to train on, {len(validation)} held out")
        if data.temperature_range is not None:
            each = ", ".join(f"{part.temperature:g} K ({len(part)})" for part in data.parts)
            journal(f"the temperature is a context of the flow; frames of {each}")
        step = last_step(run)
        if step is not None:
            journal(f"going on from step {step}")
        if step == settings.steps:
            return _finished(run)
        provenance = _provenance(data, digest, settings, origin)
        work = Work(potential, data, settings, reference, training, validation, run, provenance, step)

        def tell(message: str | Progress) -> None:
            if isinstance(message, str):
                journal(message)
            else:
                on_progress(message)

        if settings.processes > 1:
            journal(f"{settings.processes} processes share each batch")
        if rank is None and settings.processes > 1:
            in_processes(settings.processes, fit, work, tell)
        else:
            fit(work, rank or ALONE, tell)
        if is_first:
            _finished(run)
        journal("finished")
    return run.model


def _finished(run: RunFolder) -> Path:
    """The model of a run that is done; raises a `TrainingError` if it was removed meanwhile."""
    if not run.model.is_file():
        raise TrainingError(f'The model "{run.model}" was removed. Train again in another folder.')
    return run.model


@contextmanager
def _hold(run: RunFolder, identity: Mapping[str, Any], settings: TrainSettings) -> Iterator[Journal]:
    """The folder of this run, made if it is missing and kept from others, and its log."""
    make_folder(run.path)
    with lock_folder(run.path):
        # before a line is written: the log may be another run's, or no log
        claim(run, identity, settings)
        make_folder(run.checkpoint.parent)
        with journal_of(run.log) as journal:
            yield journal


def _unheard(text: str) -> None:
    """The log of a process that is not the first."""


def _with_context(settings: TrainSettings, data: TrainingData) -> TrainSettings:
    """The settings of a flow of these temperatures: one feature of context if there are several."""
    n_context = 0 if data.temperature_range is None else 1
    if settings.flow.context not in (0, n_context):
        kept = "are of one temperature" if n_context == 0 else "give it one feature, their temperature"
        raise ConfigurationError(
            f"flow.context is {settings.flow.context}, and the frames {kept}. Leave it out: it follows from the frames."
        )
    return settings.model_copy(update={"flow": replace(settings.flow, context=n_context)})


def initial_potential(frames: Frames | TrainingData, settings: TrainSettings) -> FlowPotential:
    """The untrained flow on a molecule, its charts fitted to frames, those of all temperatures together.

    Raises:
        GeometryError: If frames have no internal coordinates, or positions are in another unit than nm.
        TopologyError: If the topology is not a single molecule.
    """
    rows, data = settings.zmatrix, TrainingData.of(frames)
    coordinates = InternalCoordinates(data.topology, None if rows is None else ZMatrix(tuple(Row(*r) for r in rows)))
    positions = data.positions.double()
    coordinates.check_geometry(positions)
    q = torch.cat([coordinates.encode(part)[0] for part in torch.split(positions, VALIDATION_BATCH)])
    on_line = settings.flow.cuts_circles or settings.flow.narrow_torsions == "line"
    charts = fit_charts(q, coordinates.codomain, "standard" if on_line else "arc", settings.flow.cuts_circles)
    flow = build_flow(settings.flow, Chart(coordinates.codomain, charts))
    return FlowPotential(flow, coordinates, data.temperature, data.temperature_range)


def begin_with(
    model: Path, frames: Frames | TrainingData, settings: TrainSettings
) -> tuple[FlowPotential, TrainSettings]:
    """The flow in a model file to go on with, and the settings with its architecture.

    Raises:
        ConfigurationError: If the settings ask for another architecture or z-matrix, or temperatures differ.
        FileFormatError: If the file is missing or damaged.
        TopologyError: If the model is of another molecule.
    """
    potential = load_flow(model)
    if potential.flow.settings is None:
        raise ConfigurationError(f'The flow in "{model}" was not made by build_flow, and cannot be trained further.')
    flow = asdict(potential.flow.settings)
    if "flow" not in settings.model_fields_set:
        settings = settings.model_copy(update={"flow": FlowSettings(**flow)})
    different = [name for name, value in asdict(settings.flow).items() if flow[name] != value]
    if different:
        name = different[0]
        raise ConfigurationError(
            f'The model "{model}" has another architecture: {name} is {flow[name]} there and '
            f"{getattr(settings.flow, name)} in the settings. Leave out flow: it is the model's."
        )
    data = TrainingData.of(frames)
    for part in data.parts:
        part.require_potential(potential, "the model")
    ours, theirs = potential.temperature_range, data.temperature_range
    if (ours or potential.temperature) != (theirs or data.temperature):
        raise ConfigurationError(
            f'The model "{model}" is of {ours or f"{potential.temperature:g} K"}, and the frames are of '
            f"{theirs or f'{data.temperature:g} K'}. Give frames of what the model is of."
        )
    potential = potential.at_temperature(data.temperature)
    if settings.zmatrix is not None:
        raise ConfigurationError("A model to begin with has a z-matrix already: leave out zmatrix.")
    return potential.requires_grad_(True).train(), settings


def _origin(model: Path) -> dict[str, Any]:
    """What is recorded of the initial model."""
    return {"sha256": file_digest(model), **provenance_of(model)}


def _checked(
    data: TrainingData, settings: TrainSettings, target: Potential | None, rank: Rank | None
) -> Potential | None:
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f'There is no device "{settings.device}" here. Train on "cpu".')
    if rank is not None and rank.count != settings.processes:
        raise ConfigurationError(
            f"torchrun started {rank.count} processes, and processes is {settings.processes}. Set it to {rank.count}."
        )
    if settings.processes > 1 and settings.device != "cpu":
        needed, found = rank.on_machine if rank else settings.processes, torch.cuda.device_count()
        if settings.device != "cuda" or needed > found:
            raise ConfigurationError(
                f"{needed} processes need as many devices, from the first one on: here are {found}, and device is "
                f'"{settings.device}". Set processes to at most {found} and device to "cuda".'
            )
    for part in data.parts:
        if settings.needs_target:
            require_system(part.provenance, "The frames")
        if settings.weights.force > 0:
            part.require_forces()
        part.require_precision()
    if not settings.needs_target:
        return None
    if target is None:
        raise ConfigurationError(
            "Divergences on samples, and refining, need the force field: give a potential, or set weights.reverse_kl, "
            "weights.alpha_two and refining.pool_size to 0."
        )
    for part in data.parts:
        part.require_potential(target, "the potential")
        compare_labels(part, target, "the frames")
    return target


def _require_shares(settings: TrainSettings, n_training: int, n_validation: int) -> None:
    n, size = settings.processes, min(settings.batch_size, n_training)
    if settings.refining.pool_size > 0 and size < settings.batch_size:
        raise ConfigurationError(
            f"Refining falls back to whole batches of frames, and {n_training} frames to train on are fewer than "
            f"batch_size, {settings.batch_size}. Take smaller batches, or more frames."
        )
    if size % n != 0:
        raise ConfigurationError(
            f"{n} processes cannot share a batch of {size} frames equally. Choose a batch_size that is a multiple of "
            "processes, and at most the number of frames to train on."
        )
    if n > n_validation:
        raise ConfigurationError(
            f"{n} processes cannot share {n_validation} held-out frames. Take fewer processes, or more frames."
        )


def _threshold(frames: Frames, target: Potential, settings: TrainSettings) -> float:
    """The energy above which reference energies are regularized, kT."""
    chosen = torch.linspace(0, len(frames) - 1, min(len(frames), N_REFERENCE_ENERGIES)).long()
    energy, _ = target.energy_and_forces(torch.from_numpy(frames.positions)[chosen].double())
    return float(energy.mean()) / thermal_energy(frames.temperature) + settings.energy_threshold


def _provenance(
    data: TrainingData, digest: str, settings: TrainSettings, origin: Mapping[str, Any] | None
) -> dict[str, Any]:
    begun = {} if origin is None else {"initial_model": dict(origin)}
    return {
        **begun,
        "training": _without_folders(settings),
        "frames": {**data.provenance, "sha256": digest, "number": len(data), "sketch": data.sketch},
        "versions": versions("smoothflow", "torch", "lightning"),
    }


def _without_folders(settings: TrainSettings) -> dict[str, Any]:
    """The settings for a model file, which goes to others: files by their names, without the folders they lie in."""
    kept = settings.model_dump(mode="json", exclude={"flow"})
    for part, name in ((kept, "initial_model"), (kept["refining"], "outside_frames")):
        if part[name] is not None:
            part[name] = Path(part[name]).name
    return kept
