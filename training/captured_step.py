"""A whole training step, recorded and replayed: loss, gradient, optimizer step and average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from ..core.capture import CapturedFunction
from .clipping import Clipper
from .compiled_step import TOLERANCE, LossAndGradient, Terms


def captured_terms(
    function: Callable[[dict[str, Tensor]], Terms], reads: Sequence[Tensor]
) -> Callable[[dict[str, Tensor]], Terms]:
    """A recorded function from the tensors of a batch to the terms of its frames; see `CapturedFunction`."""
    given: list[str] = []
    found: list[str] = []

    def evaluate(*values: Tensor) -> tuple[Tensor, ...]:
        terms = function(dict(zip(given, values, strict=True)))
        found[:] = terms
        return tuple(terms.values())

    captured = CapturedFunction(evaluate, reads)

    def call(batch: dict[str, Tensor]) -> Terms:
        given[:] = batch
        return dict(zip(found, captured(*batch.values()), strict=True))

    return call


class CapturedStep:
    """Trains a potential on one batch per call, without waiting for the device.

    Values that are not finite are noted on the device; `failure` reads the note.

    Args:
        loss: The loss of a batch and its gradient.
        optimizer: Fused and capturable Adam over the potential's parameters.
        averages: The averaged parameters, in the order of the parameters.
        n_averaged: Number of steps averaged over.
        decay: Decay of the average per step.
        step: Number of steps already done.
        clipper: Shortens gradients that are too long.
    """

    def __init__(
        self,
        loss: LossAndGradient,
        optimizer: torch.optim.Adam,
        averages: Sequence[Tensor],
        n_averaged: Tensor,
        decay: float,
        step: int,
        clipper: Clipper,
    ) -> None:
        self._loss = loss
        self._clipper = clipper
        self._optimizer = optimizer
        self._parameters: list[nn.Parameter] = list(loss.potential.parameters())
        self._averages = list(averages)
        self._n_averaged = n_averaged
        self._decay = decay
        device = self._parameters[0].device
        for group in optimizer.param_groups:
            # a number would be part of the record; the schedule changes it in place
            group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32).to(device)
        self._step = torch.tensor(step, device=device)
        # step, term and frame of the first value that was not finite
        self._failed = torch.full((3,), -1, dtype=torch.long, device=device)
        self._names: list[str] = []
        self._captured: CapturedFunction | None = None

    def __call__(self, batch: Mapping[str, Tensor], frames: Int[Tensor, "size"]) -> tuple[Terms, Float[Tensor, ""]]:
        """The terms of the frames and the loss, before the step.

        Args:
            batch: Tensors of the batch, by name.
            frames: Indices of its frames.

        Raises:
            CompilationError: At the first call, if the step cannot be captured.
        """
        if self._captured is None:
            self._names = list(batch)
            self._prepare()
            usual = self._clipper.prepare(self._parameters[0])
            changed = [*self._parameters, *self._averages, self._n_averaged, self._step, self._failed, usual]
            changed += [value for state in self._optimizer.state.values() for value in state.values()]
            self._captured = CapturedFunction(
                self._advance, changed, changed, tolerances={torch.float64: 1e-9, torch.float32: TOLERANCE}
            )
        loss, _, *terms = self._captured(frames, *batch.values())
        return dict(zip(self._loss.term_names, terms, strict=True)), loss

    def failure(self) -> tuple[int, str, int] | None:
        """Step, term and frame of the first value that was not finite, if any; the term is empty if the gradient, or
        the sum of finite terms, was not."""
        step, term, frame = self._failed.tolist()
        if step < 0:
            return None
        return step, "" if term < 0 else self._loss.term_names[term], frame

    def _prepare(self) -> None:
        """Make the optimizer allocate its state, as it does at its first step: recorded work needs its place in
        memory."""
        # of the step before, if that was not captured
        self._optimizer.zero_grad()
        new = [parameter for parameter in self._parameters if parameter not in self._optimizer.state]
        values = [parameter.detach().clone() for parameter in new]
        for parameter in new:
            parameter.grad = torch.zeros_like(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad()
        with torch.no_grad():
            for parameter, value in zip(new, values, strict=True):
                parameter.copy_(value)
                self._optimizer.state[parameter]["step"].zero_()

    def _advance(self, frames: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What is recorded."""
        parameters = [parameter.detach() for parameter in self._parameters]
        loss, gradients, terms = self._loss(parameters, dict(zip(self._names, tensors, strict=True)))
        norm = get_total_norm(gradients)
        self._write_down(torch.isfinite(loss) & torch.isfinite(norm), terms, frames)
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            parameter.grad = gradient
        self._clipper(self._parameters, norm)
        self._optimizer.step()
        for parameter in self._parameters:
            parameter.grad = None
        n = self._n_averaged.to(loss.dtype)
        # as `training.module` averages: the first time a copy, and younger averages forget faster
        share = torch.where(n == 0, 1.0, 1 - ((1 + n) / (10 + n)).clamp(max=self._decay))
        for average, value in zip(self._averages, parameters, strict=True):
            average.lerp_(value, share)
        self._n_averaged.add_(1)
        self._step.add_(1)
        return loss, norm, *terms

    def _write_down(self, finite: Tensor, terms: Sequence[Tensor], frames: Tensor) -> None:
        bad = ~torch.isfinite(torch.stack(list(terms)))
        of_term = bad.any(1)
        term = of_term.long().argmax()
        place = bad.index_select(0, term.reshape(1)).long().argmax()
        known = of_term.any()
        frame = torch.where(known, frames.index_select(0, place.reshape(1)).squeeze(0), -1)
        found = torch.stack([self._step, torch.where(known, term, -1), frame])
        first = ~finite & (self._failed[0] < 0)
        self._failed.copy_(torch.where(first, found, self._failed))
