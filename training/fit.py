"""The part of one process in a training: Lightning's trainer, and what is kept after each validation."""

from __future__ import annotations

import csv
import io
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from numpy import ndarray
from torch.distributed import all_gather_object

from ..core.errors import ConfigurationError, MissingDependencyError, TrainingError
from ..core.files import write_atomically, write_json
from ..potentials.flow_potential import FlowPotential
from ..potentials.model_file import save_model
from ..runs.progress import Progress, silent
from .batches import Batches, Parts
from .config import TrainSettings
from .data import TrainingData
from .module import FlowTraining
from .processes import Rank
from .quiet import interruptible, quiet_lightning
from .refining import refiner_of
from .run_folder import RunFolder, training_seconds
from .sample_losses import Target

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy
except ImportError as error:
    raise MissingDependencyError("Training", "lightning", "train") from error

PROGRESS_EVERY = 10
VALIDATION_BATCH = 1024
SHOWN = ("val_nll", "val_force_mse", "val_reverse_kl", "val_alpha_two", "pool_ess")

Tell = Callable[[str | Progress], None]
"""Receives a line of the log, or the progress of the training."""


@dataclass(frozen=True)
class Work:
    """What each process of a training receives.

    Attributes:
        potential: The flow with its initial weights.
        frames: All frames, of all temperatures.
        settings: How to train.
        reference: Force field for the flow's samples, if it is trained on them.
        training: Indices of the frames to train on.
        validation: Indices of those held out.
        run: Run folder, in which the first process writes.
        provenance: Provenance to write into the model.
        step: Step from which to resume; ``None`` for a new training.
    """

    potential: FlowPotential
    frames: TrainingData
    settings: TrainSettings
    reference: Target | None
    training: Int[ndarray, "training"]
    validation: Int[ndarray, "held_out"]
    run: RunFolder
    provenance: dict[str, Any]
    step: int | None


def fit(work: Work, rank: Rank, tell: Tell) -> None:
    """Train, from the checkpoint if there is one, to the last step.

    Args:
        work: Model, data and settings.
        rank: Which process this is; it takes its share of each batch.
        tell: Called with log lines and progress, in the first process.

    Raises:
        ConfigurationError: If processes do not begin alike.
        FileFormatError: If the model or the metrics cannot be written.
        TrainingError: If a loss or a gradient is not finite, or the checkpoint cannot be written.
    """
    settings = work.settings
    # with several processes, each finds its own device later
    place = settings.device if rank.count == 1 else "cpu"
    training, validation = (torch.from_numpy(indices).to(place) for indices in (work.training, work.validation))
    topology = work.frames.topology
    with (
        quiet_lightning(),
        interruptible(),
        _matrix_products(settings),
        refiner_of(settings, work.reference, topology, rank) as refiner,
    ):
        potential = work.potential.to(settings.torch_dtype)
        module = FlowTraining(potential, work.frames, settings, work.reference, refiner)
        accelerator, _, index = settings.device.partition(":")
        on_cuda = accelerator == "cuda"
        strategy = DDPStrategy(
            cluster_environment=TorchElasticEnvironment(),
            process_group_backend="nccl" if on_cuda else "gloo",
            # of the frames, which every process has
            broadcast_buffers=False,
        )
        trainer = Trainer(
            accelerator="gpu" if on_cuda else "cpu",
            strategy="auto" if rank.count == 1 else strategy,
            devices=[int(index or 0)] if on_cuda and rank.count == 1 else rank.on_machine,
            num_nodes=rank.count // rank.on_machine,
            max_epochs=-1,
            max_steps=settings.steps,
            callbacks=[_Keeper(work, tell)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            inference_mode=False,
            use_distributed_sampler=False,
            default_root_dir=work.run.path,
        )
        trainer.fit(
            module,
            Batches(
                training,
                settings.batch_size,
                settings.seed,
                lambda: trainer.global_step,
                settings.validate_every,
                settings.steps,
                rank,
            ),
            Parts(validation[rank.share], VALIDATION_BATCH),
            ckpt_path=None if work.step is None else work.run.checkpoint,
            weights_only=True,
        )


@contextmanager
def _matrix_products(settings: TrainSettings) -> Iterator[None]:
    """With the precision of matrix products that the settings ask for."""
    before = torch.get_float32_matmul_precision()
    if settings.tf32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(eq=False)
class _Keeper(Callback):  # type: ignore[misc]
    """After each validation: keep the best model, write down the metrics, and where to go on."""

    work: Work
    tell: Tell
    rows: list[dict[str, str]] = field(default_factory=list)
    step: int = 0
    began: float = 0.0
    seconds_before: float = 0.0

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        begun: list[Any] = [None] * trainer.world_size
        if trainer.world_size > 1:
            all_gather_object(begun, (self.work.step, self.work.provenance["frames"]["sha256"]))
        if any(other != begun[0] for other in begun):
            raise ConfigurationError(
                "The processes begin with other frames, or at another step, than the first one. Each must be given the "
                "same frames, and the run folder must be on a disk that all of them see."
            )

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.step = trainer.global_step
        self.began = time.monotonic()
        if self.work.step is not None:
            self.seconds_before = training_seconds(self.work.run)
        if self.work.run.metrics.exists():
            with self.work.run.metrics.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= self.step]

    def on_train_batch_start(self, trainer: Trainer, module: FlowTraining, *_: Any) -> None:
        refiner = module.refiner
        if refiner is not None and refiner.is_due(trainer.global_step):
            told = self.tell if trainer.is_global_zero else silent
            line = refiner.refresh(module.averaged_potential, trainer.global_step, told)
            if trainer.is_global_zero:
                self.tell(line)

    def on_train_batch_end(self, trainer: Trainer, module: FlowTraining, *_: Any) -> None:
        self.step = trainer.global_step
        total = module.settings.steps
        if trainer.is_global_zero and (self.step % PROGRESS_EVERY == 0 or self.step == total):
            row = self.rows[-1] if self.rows else {}
            last = {name: float(row[name]) for name in SHOWN if name in row}
            self.tell(Progress("Training", self.step, total, last))

    def on_train_epoch_end(self, trainer: Trainer, module: FlowTraining) -> None:
        if not module.training_sums:
            # a run that goes on begins with the end of the epoch in its checkpoint
            return
        results = module.results()
        best = results["val_loss"] < module.best
        if best:
            module.best = results["val_loss"]
        temporary = self.work.run.checkpoint.with_suffix(".part")
        if not trainer.is_global_zero:
            # asked of all processes, of which the first one writes
            trainer.save_checkpoint(temporary)
            return
        self._write(module, results, best)
        try:
            trainer.save_checkpoint(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(self.work.run.checkpoint)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise TrainingError(
                f'The checkpoint of step {self.step} cannot be written to "{self.work.run.path}": {error}. '
                "Make room and start again: the run goes on from the checkpoint before."
            ) from error

    def _write(self, module: FlowTraining, results: Mapping[str, float], best: bool) -> None:
        """The model if it is the best one so far, the metrics, and a line of the log."""
        if best:
            provenance = {**self.work.provenance, "step": self.step, "validation": results}
            save_model(module.averaged_potential, self.work.run.model, provenance)
        row = {"step": self.step, **results, "best": int(best)}
        self.rows.append({name: str(value) for name, value in row.items()})
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomically(self.work.run.metrics, text.getvalue().encode())
        seconds = self.seconds_before + time.monotonic() - self.began
        write_json(self.work.run.timing, {"training_seconds": round(seconds, 3)})
        self.tell(" ".join(f"{name}={value:.6g}" for name, value in row.items()))
