"""A training run and its folder: settings, log, metrics, checkpoints and the best model.

Checkpoints are Lightning's and private to the run folder; loading one runs no code from it. What is given to others is
the model file.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..coordinates.fitting import fit_charts
from ..coordinates.internal import InternalCoordinates
from ..coordinates.zmatrix import Row, ZMatrix
from ..core.architecture import FlowSettings, build_flow
from ..core.charts import Chart
from ..core.errors import ConfigurationError, FileFormatError, MissingDependencyError, TrainingError
from ..core.files import file_digest, write_atomically
from ..core.plugins import registry
from ..core.potential import Potential
from ..core.units import thermal_energy
from ..potentials.flow_potential import FlowPotential
from ..potentials.model_file import load_model, read_header, save_model
from .batches import Batches, Parts, split
from .config import TrainSettings
from .frames import Frames
from .locks import lock_folder
from .module import FlowTraining
from .progress import OnProgress, Progress, silent
from .quiet import interruptible, quiet_lightning
from .run_folder import Journal, RunFolder, claim, journal_of, last_step
from .sample_losses import Target

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise MissingDependencyError("Training", "lightning", "train") from error

N_REFERENCE_ENERGIES = 256
PROGRESS_EVERY = 10
VALIDATION_BATCH = 1024
SHOWN = ("val_nll", "val_force_mse", "val_reverse_kl", "val_alpha_two")


def train(
    frames: Frames,
    settings: TrainSettings,
    run_folder: str | Path,
    target: Potential | None = None,
    on_progress: OnProgress = silent,
    source: Mapping[str, Any] | None = None,
) -> Path:
    """Train a flow on frames, or go on with the run that is in the folder, bit for bit on one device.

    Args:
        frames: Training data; blocks of them are held out.
        settings: How to train; to go on they must be those of the run.
        run_folder: Made if it is missing.
        target: The force field, for divergences on the flow's samples.
        on_progress: Told of steps and losses.
        source: The command, and where frames and target came from, in JSON types: kept in the folder.

    Returns:
        The file of the best model.

    Raises:
        ConfigurationError: If settings and data do not go together, the folder belongs to another run, or another
            process is training in it.
        FileFormatError: If forces are asked for and missing, or the folder cannot be written.
        TrainingError: If a loss or a gradient is not finite; names step and frame.
    """
    target = _checked(frames, settings, target)
    # before the folder, so that frames that cannot be trained on leave none
    training, validation = split(frames, settings.validation_fraction, settings.seed)
    origin = None
    if settings.initial_model is None:
        potential = initial_potential(frames[training], settings)
    else:
        model = registry().model_path(settings.initial_model)
        potential, settings = begin_with(model, frames, settings)
        origin = _origin(model)
    run = RunFolder(Path(run_folder))
    try:
        run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f'The folder "{run.path}" cannot be made: {error.strerror}.') from error
    with lock_folder(run.path), journal_of(run.log) as journal:
        digest = frames.digest()
        claim(run, frames, digest, settings, origin)
        if source is not None and not run.source.exists():
            write_atomically(run.source, json.dumps(dict(source), indent=1).encode())
        reference = None
        if target is not None:
            threshold = _threshold(frames[training], target, settings)
            reference = Target(target, thermal_energy(frames.temperature), threshold)
        module = FlowTraining(potential.to(settings.torch_dtype), frames, settings, reference)
        keeper = _Keeper(run, _provenance(frames, digest, settings, origin), journal, on_progress)
        train_indices, validation_indices = torch.from_numpy(training), torch.from_numpy(validation)
        journal(f"{len(training)} frames to train on, {len(validation)} held out")
        step = last_step(run)
        if step is not None:
            journal(f"going on from step {step}")
        if step == settings.steps:
            return run.model
        with quiet_lightning(), interruptible():
            accelerator, _, index = settings.device.partition(":")
            trainer = Trainer(
                accelerator="gpu" if accelerator == "cuda" else "cpu",
                devices=[int(index or 0)] if accelerator == "cuda" else 1,
                max_epochs=-1,
                max_steps=settings.steps,
                callbacks=[keeper],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                inference_mode=False,
                use_distributed_sampler=False,
                default_root_dir=run.path,
            )
            trainer.fit(
                module,
                Batches(
                    train_indices,
                    settings.batch_size,
                    settings.seed,
                    lambda: trainer.global_step,
                    settings.validate_every,
                    settings.steps,
                ),
                Parts(validation_indices, VALIDATION_BATCH),
                ckpt_path=None if step is None else run.checkpoint,
                weights_only=True,
            )
        journal("finished")
    return run.model


def initial_potential(frames: Frames, settings: TrainSettings) -> FlowPotential:
    """The untrained flow on a molecule, its charts fitted to frames.

    Raises:
        GeometryError: If frames have no internal coordinates, or positions are in another unit than nm.
        TopologyError: If the topology is no single molecule.
    """
    rows = settings.zmatrix
    coordinates = InternalCoordinates(frames.topology, None if rows is None else ZMatrix(tuple(Row(*r) for r in rows)))
    positions = torch.from_numpy(frames.positions).double()
    coordinates.check_geometry(positions)
    q = torch.cat([coordinates.encode(part)[0] for part in torch.split(positions, VALIDATION_BATCH)])
    charts = fit_charts(q, coordinates.codomain, settings.flow.cuts_circles)
    flow = build_flow(settings.flow, Chart(coordinates.codomain, charts))
    return FlowPotential(flow, coordinates, frames.topology, frames.temperature)


def begin_with(model: Path, frames: Frames, settings: TrainSettings) -> tuple[FlowPotential, TrainSettings]:
    """The flow in a model file to go on with, and the settings with its architecture.

    Raises:
        ConfigurationError: If the settings ask for another architecture or z-matrix, or temperatures differ.
        FileFormatError: If the file is missing or damaged.
        TopologyError: If the model is of another molecule.
    """
    potential = load_model(model)
    flow = read_header(model)["settings"]
    if "flow" not in settings.model_fields_set:
        settings = settings.model_copy(update={"flow": FlowSettings(**flow)})
    different = [name for name, value in asdict(settings.flow).items() if flow[name] != value]
    if different:
        name = different[0]
        raise ConfigurationError(
            f'The model "{model}" has another architecture: {name} is {flow[name]} there and '
            f"{getattr(settings.flow, name)} in the settings. Leave out flow: it is the model's."
        )
    frames.require_topology(potential.coordinates.topology, "the model")
    if potential.temperature != frames.temperature:
        raise ConfigurationError(
            f'The model "{model}" is of {potential.temperature:g} K, and the frames are of {frames.temperature:g} K.'
        )
    if settings.zmatrix is not None:
        raise ConfigurationError("A model to begin with has a z-matrix already: leave out zmatrix.")
    return potential.requires_grad_(True).train(), settings


def _origin(model: Path) -> dict[str, Any]:
    """What is written down of the model that training begins with."""
    return {"sha256": file_digest(model), **read_header(model)["provenance"]}


def _checked(frames: Frames, settings: TrainSettings, target: Potential | None) -> Potential | None:
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f'There is no device "{settings.device}" here. Train on "cpu".')
    if settings.weights.force > 0:
        frames.require_forces()
    if not settings.weights.needs_target:
        return None
    if target is None:
        raise ConfigurationError(
            "Divergences on samples need the force field: give a potential, or set weights.reverse_kl and "
            "weights.alpha_two to 0."
        )
    if target.topology is not None:
        frames.require_topology(target.topology, "the potential")
    return target


def _threshold(frames: Frames, target: Potential, settings: TrainSettings) -> float:
    """Where regularization of reference energies begins: so far above the frames' mean, in kT."""
    chosen = torch.linspace(0, len(frames) - 1, min(len(frames), N_REFERENCE_ENERGIES)).long()
    energy, _ = target.energy_and_forces(torch.from_numpy(frames.positions)[chosen].double())
    return float(energy.mean()) / thermal_energy(frames.temperature) + settings.energy_threshold


def _provenance(
    frames: Frames, digest: str, settings: TrainSettings, origin: Mapping[str, Any] | None
) -> dict[str, Any]:
    versions = {}
    for name in ("smoothflow", "torch", "lightning"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    begun = {} if origin is None else {"initial_model": dict(origin)}
    return {
        **begun,
        "training": settings.model_dump(mode="json", exclude={"flow"}),
        "frames": {"sha256": digest, "number": len(frames), **frames.provenance},
        "versions": versions,
    }


@dataclass(eq=False)
class _Keeper(Callback):  # type: ignore[misc]
    """After each validation: keep the best model, write down the metrics, and where to go on."""

    run: RunFolder
    provenance: dict[str, Any]
    journal: Journal
    on_progress: OnProgress
    rows: list[dict[str, str]] = field(default_factory=list)
    step: int = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.step = trainer.global_step
        if self.run.metrics.exists():
            with self.run.metrics.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= self.step]

    def on_train_batch_end(self, trainer: Trainer, module: FlowTraining, *_: Any) -> None:
        self.step = trainer.global_step
        total = module.settings.steps
        if self.step % PROGRESS_EVERY == 0 or self.step == total:
            row = self.rows[-1] if self.rows else {}
            last = {name: float(row[name]) for name in SHOWN if name in row}
            self.on_progress(Progress("Training", self.step, total, last))

    def on_train_epoch_end(self, trainer: Trainer, module: FlowTraining) -> None:
        if not module.training_sums:
            # a run that goes on begins with the end of the epoch in its checkpoint
            return
        results = module.results()
        best = results["val_loss"] < module.best
        if best:
            module.best = results["val_loss"]
            provenance = {**self.provenance, "step": self.step, "validation": results}
            save_model(module.averaged_potential, module.settings.flow, self.run.model, provenance)
        row = {"step": self.step, **results, "best": int(best)}
        self.rows.append({name: str(value) for name, value in row.items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.run.metrics, text.getvalue().encode())
        self.journal(" ".join(f"{name}={value:.6g}" for name, value in row.items()))
        temporary = self.run.checkpoint.with_suffix(".part")
        try:
            trainer.save_checkpoint(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.run.checkpoint)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise TrainingError(
                f'The checkpoint of step {self.step} cannot be written to "{self.run.path}": {error}. '
                "Make room and start again: the run goes on from the checkpoint before."
            ) from error
