"""A training run and its folder: settings, log, metrics, checkpoints and the best model.

Checkpoints are Lightning's and private to the run folder; loading one runs no code from it. What is given to others is
the model file.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..coordinates.fitting import fit_charts
from ..coordinates.internal import InternalCoordinates
from ..coordinates.zmatrix import Row, ZMatrix
from ..core.architecture import build_flow
from ..core.charts import Chart
from ..core.errors import ConfigurationError, FileFormatError, MissingDependencyError, TrainingError
from ..core.files import write_atomically
from ..core.potential import Potential
from ..core.units import thermal_energy
from ..potentials.flow_potential import FlowPotential
from ..potentials.model_file import save_model
from .batches import Batches, Parts, split
from .config import TrainSettings, read_settings, write_settings
from .frames import Frames
from .locks import lock_folder
from .module import FlowTraining, Target
from .progress import OnProgress, Progress, silent
from .quiet import interruptible, quiet_lightning

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise MissingDependencyError("Training", "lightning", "train") from error

N_REFERENCE_ENERGIES = 256
PROGRESS_EVERY = 10
VALIDATION_BATCH = 1024
SHOWN = ("val_nll", "val_force_mse", "val_reverse_kl")


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, every field written out."""
        return self.path / "config.yaml"

    @property
    def frames(self) -> Path:
        """Which frames the run is trained on."""
        return self.path / "frames.json"

    @property
    def metrics(self) -> Path:
        """One row for each validation."""
        return self.path / "metrics.csv"

    @property
    def log(self) -> Path:
        """What happened when."""
        return self.path / "run.log"

    @property
    def checkpoint(self) -> Path:
        """Where the run goes on."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def model(self) -> Path:
        """The best model on the held-out frames."""
        return self.path / "model.safetensors"


def train(
    frames: Frames,
    settings: TrainSettings,
    run_folder: str | Path,
    target: Potential | None = None,
    on_progress: OnProgress = silent,
) -> Path:
    """Train a flow on frames, or go on with the run that is in the folder, bit for bit on one device.

    Args:
        frames: Training data; blocks of them are held out.
        settings: How to train; to go on they must be those of the run.
        run_folder: Made if it is missing.
        target: The force field, for the reverse KL divergence.
        on_progress: Told of steps and losses.

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
    potential = initial_potential(frames[training], settings)
    run = RunFolder(Path(run_folder))
    try:
        run.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileFormatError(f'The folder "{run.path}" cannot be made: {error.strerror}.') from error
    with lock_folder(run.path), _journal(run.log) as journal:
        digest = frames.digest()
        _claim(run, frames, digest, settings)
        reference = None if target is None else Target(target, _threshold(frames[training], target, settings))
        module = FlowTraining(potential.to(settings.torch_dtype), frames, settings, reference)
        keeper = _Keeper(run, _provenance(frames, digest, settings), journal, on_progress)
        train_indices, validation_indices = torch.from_numpy(training), torch.from_numpy(validation)
        journal(f"{len(training)} frames to train on, {len(validation)} held out")
        step = _last_step(run)
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


def _checked(frames: Frames, settings: TrainSettings, target: Potential | None) -> Potential | None:
    if settings.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f'There is no device "{settings.device}" here. Train on "cpu".')
    if settings.weights.force > 0:
        frames.require_forces()
    if settings.weights.reverse_kl == 0:
        return None
    if target is None:
        raise ConfigurationError(
            "The reverse KL divergence needs the force field: give a potential, or set weights.reverse_kl to 0."
        )
    if target.topology is not None:
        frames.require_topology(target.topology, "the potential")
    return target


def _threshold(frames: Frames, target: Potential, settings: TrainSettings) -> float:
    """Where regularization of reference energies begins: so far above the frames' mean, in kT."""
    chosen = torch.linspace(0, len(frames) - 1, min(len(frames), N_REFERENCE_ENERGIES)).long()
    energy, _ = target.energy_and_forces(torch.from_numpy(frames.positions)[chosen].double())
    return float(energy.mean()) / thermal_energy(frames.temperature) + settings.kl_threshold


def _claim(run: RunFolder, frames: Frames, digest: str, settings: TrainSettings) -> None:
    """Write down what the run is, or see that it is this one."""
    identity = {"sha256": digest, "frames": len(frames), "provenance": dict(frames.provenance)}
    if not run.config.exists() or not run.frames.exists():
        write_atomically(run.config, write_settings(settings).encode())
        write_atomically(run.frames, json.dumps(identity, indent=1).encode())
        return
    ours, theirs = settings.model_dump(mode="json"), read_settings(run.config).model_dump(mode="json")
    different = [name for name in ours if ours[name] != theirs[name]]
    if different:
        name = different[0]
        raise ConfigurationError(
            f'The folder "{run.path}" holds a run with other settings: {name} is {theirs[name]} there and {ours[name]} '
            "here. Choose another folder, or use its settings."
        )
    try:
        known = json.loads(run.frames.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f'"{run.frames}" is damaged: {error}. Start again in another folder.') from error
    if known != digest:
        raise ConfigurationError(
            f'The folder "{run.path}" holds a run on other frames. Choose another folder, or give that run its frames.'
        )


def _last_step(run: RunFolder) -> int | None:
    """The step at which the checkpoint was written, if there is one."""
    if not run.checkpoint.exists():
        return None
    try:
        return int(torch.load(run.checkpoint, map_location="meta", weights_only=True)["global_step"])
    except Exception as error:
        raise FileFormatError(
            f'"{run.checkpoint}" is damaged ({type(error).__name__}). Remove it to start again, or restore it.'
        ) from error


def _provenance(frames: Frames, digest: str, settings: TrainSettings) -> dict[str, Any]:
    versions = {}
    for name in ("smoothflow", "torch", "lightning"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
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


Journal = Callable[[str], None]
"""Writes a line to the run's log."""


@contextmanager
def _journal(path: Path) -> Iterator[Journal]:
    """The log of a run, opened for each line; what stops the run is its last one."""

    def write(text: str) -> None:
        # a disk too full for this line is reported for what is lost by it
        with suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")

    try:
        yield write
    except BaseException as error:
        write(f"stopped: {type(error).__name__}: {error}")
        raise
