"""The loss of a batch of frames and its gradient as one compiled graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from ..core.capture import CapturedFunction
from ..core.errors import CompilationError
from ..potentials.compilation import quiet, require_compiler, trace

Terms = dict[str, Tensor]
"""The terms of each frame, by name."""

FrameLoss = Callable[[Any, dict[str, Tensor]], tuple[Terms, Tensor]]
"""Maps a potential and a batch to the terms of its frames and their loss, in traceable torch."""

TOLERANCE = 1e-2
"""Largest difference of a gradient from the eager one, relative to its largest element, in float32: force matching
differentiates the network three times. Wrong code is off by its whole size."""


class LossAndGradient:
    """The loss of a batch and its gradient in one evaluation, rather than in a forward and a backward pass.

    Args:
        potential: What is trained.
        function: The terms of a batch, and its loss.
    """

    def __init__(self, potential: nn.Module, function: FrameLoss) -> None:
        self.potential = potential
        self.function = function
        self.names = [name for name, _ in potential.named_parameters()]
        self.term_names: list[str] = []

    def __call__(
        self, parameters: Sequence[Tensor], batch: Mapping[str, Tensor]
    ) -> tuple[Float[Tensor, ""], list[Tensor], list[Tensor]]:
        """The loss at values of the parameters, its gradient, and the terms of `term_names`, all without a graph."""
        with torch.enable_grad():
            weights = [parameter.detach().requires_grad_(True) for parameter in parameters]
            call = _Call(self.potential, self.function)
            named = {f"potential.{name}": weight for name, weight in zip(self.names, weights, strict=True)}
            terms, loss = functional_call(call, named, (dict(batch),))
            gradients = torch.autograd.grad(loss, weights)
        self.term_names = list(terms)
        return loss.detach(), list(gradients), [values.detach() for values in terms.values()]


class CompiledLoss:
    """Evaluates the loss of a batch and its gradient by compiled code; on a GPU, by recorded work.

    The graph holds energies, forces and the gradient of both with respect to the weights; autograd records nothing. It
    is compiled at the first batch, and compared there with the eager potential.

    Args:
        potential: What is trained.
        function: The terms of a batch, and its loss.
        on_gpu: Whether the potential is trained on a GPU.

    Raises:
        CompilationError: If there is no compiler; at the first call, if the loss cannot be traced or the compiled code
            gives another gradient.
    """

    def __init__(self, potential: nn.Module, function: FrameLoss, on_gpu: bool = False) -> None:
        self.loss = LossAndGradient(potential, function)
        self.potential = potential
        self.on_gpu = on_gpu
        if not on_gpu:
            require_compiler()
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[Terms, Float[Tensor, ""]]:
        """The terms of the frames, and the loss with its gradient attached."""
        parameters = list(self.potential.parameters())
        detached = [parameter.detach() for parameter in parameters]
        if self._compiled is None:
            self._compiled = self._capture(list(batch)) if self.on_gpu else self._compile(detached, batch)
        with torch.no_grad():
            loss, gradients, terms = self._split(self._compiled(detached, dict(batch)))
        attached: Tensor = _KnownGradient.apply(loss, gradients, *parameters)  # type: ignore[no-untyped-call]
        return dict(zip(self.loss.term_names, terms, strict=True)), attached

    def _evaluate(self, parameters: list[Tensor], batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Loss, its gradient, and the terms."""
        loss, gradients, terms = self.loss(parameters, batch)
        return loss, *gradients, *terms

    def _split(self, values: Sequence[Tensor]) -> tuple[Tensor, list[Tensor], Sequence[Tensor]]:
        n = len(self.loss.names)
        return values[0], list(values[1 : n + 1]), values[n + 1 :]

    def _capture(self, names: list[str]) -> Callable[..., Any]:
        parameters = list(self.potential.parameters())

        def evaluate(*tensors: Tensor) -> tuple[Tensor, ...]:
            return self._evaluate([p.detach() for p in parameters], dict(zip(names, tensors, strict=True)))

        captured = CapturedFunction(evaluate, parameters, tolerances={torch.float64: 1e-9, torch.float32: TOLERANCE})
        return lambda _, batch: captured(*batch.values())

    def _compile(self, parameters: list[Tensor], batch: Mapping[str, Tensor]) -> Callable[..., Any]:
        expected = self._evaluate(parameters, dict(batch))
        try:
            with quiet(), torch.no_grad():
                graph = trace(self._evaluate, (parameters, dict(batch)), symbolic=False)
                compiled = torch.compile(graph)
                found = compiled(parameters, dict(batch))
        except CompilationError:
            raise
        # the compiler's own errors have no common base
        except Exception as error:
            raise CompilationError(
                f"Compiling the loss failed: {type(error).__name__}: {str(error).strip().splitlines()[0]}. "
                "Train without compile."
            ) from error
        for name, a, b in zip(self.loss.names, found[1:], expected[1:], strict=False):
            error_size = float((a - b).abs().max() / b.abs().max().clamp(min=torch.finfo(b.dtype).tiny))
            if not error_size <= TOLERANCE:
                raise CompilationError(
                    f"The compiled gradient of {name} differs from the eager one by {error_size:.3g} of its largest "
                    f"element, where rounding explains {TOLERANCE}. Train without compile."
                )
        return compiled


class _Call(nn.Module):
    """The terms of a batch as a module, so that its weights can be exchanged for others."""

    def __init__(self, potential: nn.Module, function: FrameLoss) -> None:
        super().__init__()
        self.potential = potential
        self.function = function

    def forward(self, batch: dict[str, Tensor]) -> tuple[Terms, Tensor]:
        return self.function(self.potential, batch)


class _KnownGradient(torch.autograd.Function):
    """A loss whose gradient came with it."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        return loss.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(grads[0] * gradient for gradient in ctx.saved_tensors)
