"""One training step and one validation, for Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..core.errors import MissingDependencyError, TrainingError
from ..core.finite import first_not_finite
from ..molecules.elements import masses
from ..molecules.frames import Frames
from ..potentials.flow_potential import FlowPotential
from ..runs.randomness import generator
from .captured_step import CapturedStep, captured_terms
from .clipping import Clipper
from .compiled_step import CompiledLoss, LossAndGradient, Terms
from .config import TrainSettings
from .data import TrainingData
from .losses import damped, force_error, likelihood_and_forces, negative_log_likelihood, weighted_likelihood
from .optimizer import adam_with_cosine
from .refining import Pool, Refiner
from .sample_losses import Target, alpha_two, reverse_kl

try:
    from lightning.pytorch import LightningModule
except ImportError as error:
    raise MissingDependencyError("Training", "lightning", "train") from error


Tensors = dict[str, Tensor]
"""What a batch of frames holds, by name."""


class FlowTraining(LightningModule):  # type: ignore[misc]
    """Trains a flow on frames; batches are indices into the frames.

    Args:
        potential: The flow with its initial weights, in the precision of training.
        frames: All frames, held-out ones included; of one temperature, or of those of the potential's range.
        settings: How to train.
        target: Force field for the flow's samples, if it is trained on them.
        refiner: Mixes weighted samples into the batches, if the flow is refined.
    """

    def __init__(
        self,
        potential: FlowPotential,
        frames: Frames | TrainingData,
        settings: TrainSettings,
        target: Target | None = None,
        refiner: Refiner | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.potential = potential
        self.averaged = AveragedModel(potential, multi_avg_fn=_averaging(settings.averaging))
        self.averaged.requires_grad_(False)
        # not a module, so that its potential is neither trained nor saved
        self.target = target
        self.refiner = refiner
        data = TrainingData.of(frames)
        self._data = data
        self._keep("positions", data.positions)
        self._keep("forces", data.forces if settings.weights.force > 0 else None)
        self._keep("frame_weights", data.weights)
        self._keep("context", data.context)
        self.positions: Tensor
        self.forces: Tensor | None
        self.frame_weights: Tensor | None
        self.context: Tensor | None
        self.best = math.inf
        self.n_left_out = 0
        self._clipper = Clipper()
        on_gpu = _is_on_gpu(settings)
        self._compiled_loss = CompiledLoss(potential, self._frame_loss, on_gpu) if settings.compile else None
        # gradients of several processes are averaged between loss and optimizer, and samples are not captured
        self._captures = settings.compile and on_gpu and settings.processes == 1 and not settings.weights.needs_target
        self._captured_step: CapturedStep | None = None
        self._validate: Callable[[Tensors], Terms] = partial(
            self._frame_terms, self.averaged_potential, create_graph=False
        )
        if settings.compile and on_gpu:
            self._validate = captured_terms(self._validate, list(self.averaged_potential.parameters()))
        self.training_sums: dict[str, Tensor] = {}
        self.validation_sums: dict[str, Tensor] = {}
        self.sample_estimates: dict[str, tuple[Tensor, Tensor]] = {}

    def _keep(self, name: str, values: Shaped[Tensor, "frames *any"] | None) -> None:
        # on the device, as frames are small; not in checkpoints
        kept = None if values is None else values.to(self.settings.torch_dtype)
        self.register_buffer(name, kept, persistent=False)

    def configure_optimizers(self) -> dict[str, Any]:
        settings = self.settings
        return adam_with_cosine(
            self.potential.parameters(), settings.learning_rate, settings.steps, settings.warm_up, self._captures
        )

    def training_step(self, batch: Int[Tensor, "size"], _: int) -> Float[Tensor, ""]:
        tensors = self._tensors(batch)
        with_forces = self.global_step >= self.settings.likelihood_steps
        if with_forces and self.refiner is not None:
            tensors, batch = self.refiner.mixed(tensors, self.global_step), self.refiner.labels(batch)
        if with_forces and self._captures:
            return self._captured_training_step(tensors, batch)
        if not with_forces:
            terms = self._frame_terms(self.potential, tensors, with_forces=False)
            loss = self._total(terms)
        else:
            evaluate = self._compiled_loss or partial(self._frame_loss, self.potential)
            terms, loss = evaluate(tensors)
            samples = self._sample_terms(self.potential, self.settings.n_samples, self.global_step)
            if samples:
                loss = loss + self._total(samples)
                terms |= samples
        if not bool(torch.isfinite(loss)):
            error = self._not_finite(terms, batch)
            if not self._may_leave_out(terms, batch):
                raise error
            # no gradient: weights move by the momentum of earlier steps alone
            return torch.stack([0.0 * parameter.sum() for parameter in self.potential.parameters()]).sum()
        self._add_to_sums(terms, loss)
        return loss

    def _may_leave_out(self, terms: Terms, batch: Int[Tensor, "size"]) -> bool:
        """Whether all that is not finite are samples of the model, and too few of them to stop for."""
        bad = torch.stack([~torch.isfinite(values) for values in terms.values() if len(values) == len(batch)]).any(0)
        if self.refiner is None or not bool(bad.any()) or bool((batch[bad] >= 0).any()):
            return False
        self.n_left_out += int(bad.sum())
        return bool(self.n_left_out <= 1 + LARGEST_SHARE_LEFT_OUT * len(batch) * self.global_step)

    def _add_to_sums(self, terms: Terms, loss: Float[Tensor, ""]) -> None:
        for name, values in terms.items():
            # with the number of steps that had the term: forces may join later
            one = torch.stack([values.detach().mean(), torch.ones_like(loss)])
            self.training_sums[name] = self.training_sums.get(name, 0.0) + one

    def _captured_training_step(self, tensors: Tensors, batch: Int[Tensor, "size"]) -> Float[Tensor, ""]:
        """The whole step with optimizer and average; values that are not finite are found when results are read."""
        if self._captured_step is None:
            self._captured_step = CapturedStep(
                LossAndGradient(self.potential, self._frame_loss),
                cast("torch.optim.Adam", self.optimizers(use_pl_optimizer=False)),
                list(self.averaged_potential.parameters()),
                self.averaged.n_averaged,
                self.settings.averaging,
                self.global_step,
                self._clipper,
            )
        terms, loss = self._captured_step(tensors, batch)
        self._add_to_sums(terms, loss)
        return loss

    def backward(self, loss: Float[Tensor, ""], *args: Any, **kwargs: Any) -> None:
        # a captured step has had its gradient
        if loss.requires_grad:
            super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self._captured_step is not None:
            return
        trained = [p for p in self.potential.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        if bool(norm.isfinite()):
            self._clipper(trained, norm)
            return
        for name, parameter in self.potential.named_parameters():
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                raise TrainingError(
                    f"At step {self.global_step} the gradient of {name} is not finite, though the loss is. {ADVICE}"
                )

    def on_train_batch_end(self, *_: Any) -> None:
        if self._captured_step is None:
            self.averaged.update_parameters(self.potential)

    def validation_step(self, batch: Int[Tensor, "size"], index: int) -> None:
        terms = self._validate(self._tensors(batch))
        for name, values in terms.items():
            self.validation_sums[name] = self.validation_sums.get(name, 0.0) + _moments(values)
        self.validation_sums["n"] = self.validation_sums.get("n", torch.zeros((), device=batch.device)) + len(batch)
        if index == 0:
            with torch.no_grad():
                # the same noise every time, so that models are compared by what differs between them
                samples = self._sample_terms(self.averaged_potential, N_VALIDATION_SAMPLES, -1)
            self.sample_estimates = {name: _estimate(_moments(values), len(values)) for name, values in samples.items()}

    def results(self) -> dict[str, float]:
        """Means over the steps and held-out frames since the last call.

        Names begin with ``train_`` (current weights) or ``val_`` (averaged weights); ``nll`` and ``reverse_kl`` are in
        kT, ``force_mse`` (raw) and ``force`` (damped) in (kT/nm)^2, ``loss`` is the weighted sum that chooses the best
        model. Those of held-out frames have a standard error, as ``val_nll_error``; ``val_n`` is the number of frames.
        Consecutive frames are correlated, so that the true error is larger. ``energy_evaluations`` are those of the
        target since training began; ``pool_ess``, ``pool_clipped`` and ``pool_lost`` are figures of the last `Pool`,
        and ``left_out`` counts its samples without a finite force so far, whose steps were left out.
        """
        if self._captured_step is not None and (failure := self._captured_step.failure()) is not None:
            step, term, frame = failure
            what = f"the {term} of {self._name_of(frame)}" if term else "the loss or its gradient"
            raise TrainingError(f"At step {step} {what} is not finite. {ADVICE}")
        trained, validated = self._over_processes(self.training_sums), self._over_processes(self.validation_sums)
        found = {f"train_{name}": float(total / n_steps) for name, (total, n_steps) in trained.items()}
        n = int(validated.pop("n"))
        estimates = {name: _estimate(moments, n) for name, moments in validated.items()} | self.sample_estimates
        means = {name: mean for name, (mean, _) in estimates.items()}
        loss = self._total(means)
        if not bool(torch.isfinite(loss)):
            name = next(name for name, mean in means.items() if not bool(torch.isfinite(mean)))
            raise TrainingError(f"At step {self.global_step} the {name} of the held-out frames is not finite. {ADVICE}")
        found["val_n"] = n
        for name, (mean, error) in estimates.items():
            found[f"val_{name}"] = float(mean)
            if bool(torch.isfinite(error)):
                found[f"val_{name}_error"] = float(error)
        found["val_loss"] = float(loss)
        if self.target is not None:
            found["energy_evaluations"] = self.target.n_evaluations
        if self.refiner is not None:
            found |= self.refiner.figures() | {"left_out": float(self.n_left_out)}
        self.training_sums, self.validation_sums, self.sample_estimates = {}, {}, {}
        return found

    @property
    def averaged_potential(self) -> FlowPotential:
        """The flow with averaged weights."""
        return cast("FlowPotential", self.averaged.module)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["best"] = self.best
        if self._clipper.usual is not None:
            checkpoint["usual_gradient"] = float(self._clipper.usual)
        if self.target is not None:
            checkpoint["energy_evaluations"] = self.target.n_evaluations
        if self.refiner is not None and self.refiner.pool is not None:
            checkpoint["pool"] = self.refiner.pool.state()
            checkpoint["left_out"] = self.n_left_out

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.best = float(checkpoint["best"])
        if "usual_gradient" in checkpoint:
            self._clipper.usual = torch.tensor(checkpoint["usual_gradient"], dtype=torch.float64)
        if self.target is not None:
            self.target.n_evaluations = int(checkpoint["energy_evaluations"])
        if self.refiner is not None and "pool" in checkpoint:
            self.refiner.pool = Pool(**checkpoint["pool"])
            self.n_left_out = int(checkpoint.get("left_out", 0))

    def _over_processes(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums over the frames of all processes; samples of the flow are the same in each of them."""
        return {name: self.trainer.strategy.reduce(total, reduce_op="sum") for name, total in sums.items()}

    def _tensors(self, batch: Int[Tensor, "size"]) -> Tensors:
        """Positions, forces, weights and context of the frames of a batch, as far as there are any."""
        kept = {
            "positions": self.positions,
            "forces": self.forces,
            "weights": self.frame_weights,
            "context": self.context,
        }
        return {name: values[batch] for name, values in kept.items() if values is not None}

    def _frame_loss(self, potential: FlowPotential, tensors: Tensors) -> tuple[Terms, Float[Tensor, ""]]:
        terms = self._frame_terms(potential, tensors)
        return terms, self._total(terms)

    def _frame_terms(
        self, potential: FlowPotential, tensors: Tensors, create_graph: bool = True, with_forces: bool = True
    ) -> Terms:
        """The terms of each frame: ``nll``, and with forces ``force`` (damped) and ``force_mse`` (raw)."""
        positions, context = tensors["positions"], tensors.get("context")
        if "forces" not in tensors or not with_forces:
            nll = negative_log_likelihood(potential, positions, context)
            terms = {"nll": nll}
        else:
            nll, forces = likelihood_and_forces(potential, positions, create_graph, context)
            error = force_error(forces, tensors["forces"])
            scale = tensors.get("damping", self.settings.force_damping)
            terms = {"nll": nll, "force": damped(error, scale), "force_mse": error}
        if "sampled" in tensors:
            sampled, log_density = tensors["sampled"], tensors["log_density"]
            # other configurations were not drawn from a known density: the flow's own stands in
            drawn_from = torch.where(sampled > 0, log_density, -nll.detach())
            weighted = weighted_likelihood(nll, tensors["weights"], drawn_from, sampled)
            terms["nll"] = weighted
        elif "weights" in tensors:
            terms["nll"] = nll * tensors["weights"]
        return terms

    def _sample_terms(self, potential: FlowPotential, n_samples: int, step: int) -> dict[str, Float[Tensor, "size"]]:
        terms: dict[str, Tensor] = {}
        if self.target is None:
            return terms
        weights, seed = self.settings.weights, self.settings.seed
        if weights.reverse_kl > 0:
            noise = generator(seed, 1, step + 1)
            terms["reverse_kl"] = reverse_kl(potential, self.target, n_samples, noise, self.settings.path_gradient)
        if weights.alpha_two > 0:
            noise = generator(seed, 2, step + 1)
            mass = masses(self._data.topology)
            terms["alpha_two"] = alpha_two(potential, self.target, mass, n_samples, noise, self.settings.annealing)
        return terms

    def _total(self, terms: dict[str, Tensor]) -> Float[Tensor, ""]:
        factors = self.settings.weights.model_dump()
        used = [factors[name] * values.mean() for name, values in terms.items() if factors.get(name, 0) > 0]
        # no term of the frames may count, where only samples are trained on
        return torch.stack(used).sum() if used else torch.zeros((), device=self.positions.device)

    def _not_finite(self, terms: dict[str, Tensor], batch: Int[Tensor, "size"]) -> TrainingError:
        for name, values in terms.items():
            bad = first_not_finite(values)
            if bad is not None:
                place = bad[0]
                n_bad = int((~torch.isfinite(values)).sum())
                of_samples = name in ("reverse_kl", "alpha_two")
                where = f"sample {place} of the flow" if of_samples else self._name_of(int(batch[place]))
                return TrainingError(
                    f"At step {self.global_step} the {name} of {where} is not finite ({n_bad} of {len(values)} in "
                    f"this batch). {ADVICE}"
                )
        return TrainingError(f"At step {self.global_step} the loss is too large for {self.settings.dtype}. {ADVICE}")

    def _name_of(self, label: int) -> str:
        """A configuration of a batch, in words."""
        return self._data.name_of(label) if self.refiner is None or label >= 0 else self.refiner.name_of(label)


def _is_on_gpu(settings: TrainSettings) -> bool:
    return settings.device != "cpu"


ADVICE = (
    "Training stopped; the best model and the last checkpoint are kept. "
    "Look at that frame, lower learning_rate, or train in float64."
)

LARGEST_SHARE_LEFT_OUT = 1e-4
"""Share of samples that may have no finite force in the precision of training; their steps are left out."""

N_VALIDATION_SAMPLES = 2000
"""Samples on which divergences are estimated in a validation."""


def _moments(values: Float[Tensor, "n"]) -> Float[Tensor, "2"]:
    """The sum of values and that of their squares."""
    values = values.detach().double()
    return torch.stack([values.sum(), values.square().sum()])


def _estimate(moments: Float[Tensor, "2"], n: int) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """The mean of n values, and its standard error as if they were independent; nan for a single value."""
    mean, square = moments / n
    return mean, ((square - mean**2).clamp(min=0) / (n - 1)).sqrt()


def _averaging(decay: float) -> Any:
    """Exponential average of weights; younger averages forget faster, so that the initial weights do not linger."""

    @torch.no_grad()
    def average(averages: Sequence[Tensor], currents: Sequence[Tensor], n_averaged: Tensor | int) -> None:
        n = float(n_averaged)
        update = get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        update(list(averages), list(currents), n_averaged)

    return average
