"""Work that is recorded once and replayed: on a GPU as CUDA graphs, elsewhere as traced graphs.

A function of a flow is thousands of small kernels. On a GPU it is not their arithmetic that takes the time but that
each of them is launched; a recorded graph of them is launched as one. On the CPU a record is the graph of operations
that the GPU would record, run as it is: no faster, but what cannot be recorded is found out there, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from .errors import CompilationError
from .inversion import without_waiting
from .torch_internals import traced

TensorFunction = Callable[..., tuple[Tensor, ...]]
"""From tensors to a tuple of tensors."""

N_RECORDS = 8
"""Shapes that a captured function remembers. Records share the memory of what is computed on the way, so that each adds
its arguments and results alone to the memory of the largest."""

N_WARM_UP = 3
"""Calls before a CUDA graph is recorded, in which libraries set up what they keep."""

MOVED = 0.999
"""Factor of the arguments at which a record is compared once more, so that one that ignores them is found out."""

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-3}
"""Differences allowed between a record and the function, relative to the largest value of each result."""


class CapturedFunction:
    """A function of tensors that is recorded once for each shape of its arguments, and replayed from then on.

    A record is compared with the function before it is used. It is made again when a tensor that the function reads is
    no longer where it was; changes in place are seen. Beyond ``limit`` shapes, the one that was used least recently is
    forgotten.

    Args:
        function: Does the same operations for all values of one shape; results are new tensors.
        reads: Tensors that it reads beside its arguments.
        changes: Tensors among these that it changes in place.
        limit: Shapes that are remembered.
        tolerances: Differences of results allowed, relative to the largest value of each, by dtype.

    Raises:
        ConfigurationError: When called, as the function does.
        CompilationError: When first called with arguments of some shape, if it cannot be recorded, or a record gives
            other numbers.

    Reference: CUDA graphs in PyTorch, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """

    def __init__(
        self,
        function: TensorFunction,
        reads: Sequence[Tensor] = (),
        changes: Sequence[Tensor] = (),
        limit: int = N_RECORDS,
        tolerances: Mapping[torch.dtype, float] = TOLERANCES,
    ) -> None:
        self.function = function
        self.limit = limit
        self._reads = tuple(reads)
        self._changes = tuple(changes)
        self._tolerances = tolerances
        self._records: OrderedDict[Any, _Record] = OrderedDict()
        self._shared: tuple[Any, torch.cuda.Stream] | None = None

    def __len__(self) -> int:
        """Number of records."""
        return len(self._records)

    @torch.no_grad()
    def __call__(self, *arguments: Shaped[Tensor, "..."]) -> tuple[Tensor, ...]:
        """What the function gives, without a graph of derivatives."""
        shapes = tuple((x.shape, x.dtype, x.device) for x in arguments)
        places = tuple(tensor.data_ptr() for tensor in self._reads)
        key = (shapes, places, torch.get_float32_matmul_precision())
        record = self._records.get(key)
        if record is None:
            record = self._record([x.detach() for x in arguments])
            # what was recorded of tensors that have moved is of no use any more
            stale = [other for other in self._records if other[1:] != key[1:]]
            for other in stale:
                del self._records[other]
            while len(self._records) >= self.limit:
                self._records.popitem(last=False)
            self._records[key] = record
        self._records.move_to_end(key)
        return record(arguments)

    def _record(self, arguments: Sequence[Tensor]) -> _Record:
        before = [tensor.clone() for tensor in self._changes]
        try:
            with without_waiting():
                record = self._make(arguments)
                self._restore(before)
                for factor in (1.0, MOVED):
                    moved = [x * factor if x.is_floating_point() else x.clone() for x in arguments]
                    expected = [x.clone() for x in self.function(*moved)]
                    self._restore(before)
                    found = record(moved)
                    self._restore(before)
                    require_same(found, expected, self._tolerances)
        except CompilationError:
            self._restore(before)
            raise
        # whatever a function does when it meets a tracer, and CUDA while it records
        except Exception as error:
            self._restore(before)
            reason = str(error).strip().splitlines()
            raise CompilationError(
                f"The work cannot be captured: {type(error).__name__}: {reason[0] if reason else ''} Only work that is "
                "torch throughout, without steps that depend on values, can be. Do it without compiling."
            ) from error
        return record

    def _make(self, arguments: Sequence[Tensor]) -> _Record:
        slots = [x.clone() for x in arguments]
        if slots[0].device.type != "cuda":
            graph = traced(self.function, slots, symbolic=False)
            return _Record(slots, lambda: graph(*slots))
        with torch.cuda.device(slots[0].device):
            if self._shared is None:
                # torch would take the stream of the device on which it recorded first
                self._shared = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            return _on_gpu(self.function, slots, *self._shared)

    def _restore(self, before: Sequence[Tensor]) -> None:
        for tensor, value in zip(self._changes, before, strict=True):
            tensor.copy_(value)


class _Record:
    """Recorded work: arguments are copied to where it reads them, and results away from where it writes them."""

    def __init__(self, slots: Sequence[Tensor], replay: Callable[[], Sequence[Tensor]]) -> None:
        self._slots = slots
        self._replay = replay

    def __call__(self, arguments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        for slot, argument in zip(self._slots, arguments, strict=True):
            slot.copy_(argument)
        return tuple(result.clone() for result in self._replay())


def _on_gpu(function: TensorFunction, slots: Sequence[Tensor], memory: Any, side: torch.cuda.Stream) -> _Record:
    """A CUDA graph of a function, on the current device; graphs of one stream can share memory."""
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(N_WARM_UP):
            function(*slots)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=memory, stream=side):
        results = function(*slots)

    def replay() -> Sequence[Tensor]:
        with torch.cuda.device(slots[0].device):
            graph.replay()
        return results

    return _Record(slots, replay)


def require_same(
    found: Sequence[Tensor], expected: Sequence[Tensor], tolerances: Mapping[torch.dtype, float] = TOLERANCES
) -> None:
    """Raise a `CompilationError` unless results are those of the function up to rounding, not-a-number included."""
    for a, b in zip(found, expected, strict=True):
        if a.numel() == 0:
            continue
        finite = torch.isfinite(b)
        same = torch.equal(torch.isfinite(a), finite)
        error = float(torch.where(finite, a - b, 0).abs().max())
        scale = float(torch.where(finite, b, 0).abs().max())
        tolerance = tolerances.get(b.dtype, 0.0)
        if not same or not error <= tolerance * scale:
            raise CompilationError(
                f"Captured work gives other numbers than the same work done step by step: they differ by {error:.3g}, "
                f"where {scale:.3g} is the largest and rounding explains {tolerance:g} of it. Nothing was kept; do it "
                "without compiling."
            )
