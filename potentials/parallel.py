"""Batches evaluated by many processes: for force fields and calculators that take one configuration at a time."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError, SimulationError
from ..core.external import attach_forces
from ..core.identity import Geometry
from ..core.potential import Potential, unchecked
from ..runs.workers import Workers, n_cores
from .parallel_worker import Failure, Parcel, Result, evaluate, settled

T = TypeVar("T")

MAX_CHUNK = 64
"""Frames that a task has at most unless told otherwise: milliseconds of work for the cheapest of force fields."""

MIN_CHUNKS = 64
"""Tasks that a batch is cut into at least while it has the frames, so that expensive ones fill a large machine."""


class ParallelPotential(Potential):
    """A potential whose batches are spread over processes, on this machine or on others.

    The potential is copied to the workers as it is when this object is made, and kept there: an OpenMM Context is
    built once in each. What a potential decides at its first evaluation, as OpenMM's fastest platform, is decided once
    and for all workers. A batch is cut into chunks by its size alone, so energies and forces depend neither on the
    number of workers nor on the order in which they finish. Like any external potential it is differentiable once,
    through its forces.

    Without ``executor`` the workers are processes of this machine with one thread each. They start at the first
    evaluation, stay for the next ones, and end with `close`, with the ``with`` block, on Ctrl-C and with this process,
    however it ends. If one of them dies, what was lost with it is evaluated again by new ones, down to single frames.
    A script needs the guard ``if __name__ == "__main__":``, because each worker imports it.

    Args:
        potential: Any potential on the CPU that can be pickled.
        executor: Any other way to run functions: ``dask.distributed.Client.get_executor()``,
            ``mpi4py.futures.MPIPoolExecutor()``, a pool of threads. It is not closed.
        n_workers: Number of processes; as many as there are cores to this process if left out.
        chunk_size: Frames of a task; if left out 64, or fewer for a batch that would give less than 64 tasks.

    Raises:
        ConfigurationError: If the potential cannot be copied to a worker, or a number is not positive.
    """

    def __init__(
        self,
        potential: Potential,
        executor: Executor | None = None,
        n_workers: int | None = None,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("n_workers", n_workers), ("chunk_size", chunk_size)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{name} is {value}; give 1 or more, or leave it out.")
        if executor is not None and n_workers is not None:
            raise ConfigurationError("The executor given knows its number of workers; leave n_workers out.")
        self.shape = tuple(potential.shape)
        self.topology = potential.topology
        self.dtype = potential.dtype
        self._geometry = potential.geometry
        self.chunk_size = chunk_size
        self.n_workers = n_workers or n_cores()
        self._potential = Parcel.pack(potential)
        self._settled = False
        self._executor = executor
        self._workers: Workers | None = None

    @property
    def geometry(self) -> Geometry | None:
        """That of the potential that the workers have."""
        return self._geometry

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        return attach_forces(positions, *unchecked(self, "energy_and_forces")(positions))

    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        """Energies in kJ/mol and forces in kJ/mol/nm, neither attached to a graph.

        Raises:
            ConfigurationError: If the positions are not what the potential needs, or workers cannot be started.
            SimulationError: If the potential raises an error at a frame, or a frame ends the worker that evaluates it
                twice; names the frame.
        """
        if len(positions) == 0:
            return positions.new_empty(0), torch.empty_like(positions)
        frames = positions.detach().cpu().numpy()
        results: dict[int, Result] = {}
        try:
            self._settle(frames[:1])
            self._complete(self._chunks(len(frames)), frames, results, self._first_window())
        except SimulationError:
            raise
        except BaseException:
            # Ctrl-C above all: nothing that was under way is wanted any more
            self._kill()
            raise
        energies, forces = zip(*(results[start] for start in sorted(results)), strict=True)
        energy, force = (torch.from_numpy(np.concatenate(arrays)) for arrays in (energies, forces))
        return energy.to(positions), force.to(positions)

    def close(self) -> None:
        """End the worker processes; another evaluation would start new ones."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def __enter__(self) -> ParallelPotential:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # after an error nobody waits for what is still under way
        self.close() if kind is None else self._kill()

    def __getstate__(self) -> dict[str, Any]:
        # a copy starts its own workers
        return {**self.__dict__, "_workers": None}

    def _chunks(self, n_frames: int) -> deque[range]:
        size = self.chunk_size or max(1, min(MAX_CHUNK, n_frames // MIN_CHUNKS))
        return deque(range(start, min(start + size, n_frames)) for start in range(0, n_frames, size))

    def _first_window(self) -> int | None:
        """How many tasks are under way at once: what dies with a worker of ours, and no limit elsewhere."""
        return 4 * self.n_workers if self._executor is None else None

    def _settle(self, frame: Float[np.ndarray, "1 *shape"]) -> None:
        """Let one worker evaluate a frame, and have all of them start from what it has decided then."""
        if self._settled:
            return
        future = self._submit(settled, self._potential, frame)
        if _exception(future) is None:
            parcel = future.result()
            self._settled = parcel is not None
            self._potential = parcel or self._potential
        else:
            self._kill()  # the evaluation itself will find out what is wrong

    def _complete(
        self,
        pieces: deque[range],
        frames: Float[np.ndarray, "batch *shape"],
        results: dict[int, Result],
        window: int | None,
    ) -> None:
        """Evaluate all pieces; those lost with a worker as single frames, what is lost again one after the other."""
        while pieces:
            lost, reason = self._run(pieces, frames, results, window)
            if not lost:
                continue
            self._kill()
            if self._executor is not None and isinstance(reason, BrokenExecutor):
                raise SimulationError(
                    f"The executor broke while frames {lost[0][0]} to {lost[-1][-1]} were under way: {reason}. "
                    "Make a new one; or leave the executor out, and worker processes are replaced as they die."
                )
            if window == 1:
                raise SimulationError(
                    f"The worker that evaluates frame {lost[0][0]} dies, and died again when it had this frame alone "
                    f"({type(reason).__name__}: {reason}). Leave this frame out, or see whether memory runs out."
                )
            self._complete(_singles(lost), frames, results, 1 if window == self.n_workers else self.n_workers)

    def _run(
        self,
        pieces: deque[range],
        frames: Float[np.ndarray, "batch *shape"],
        results: dict[int, Result],
        window: int | None,
    ) -> tuple[list[range], BaseException | None]:
        """Evaluate pieces, from the left, until one is lost; returns those lost, and why."""
        under_way: deque[tuple[range, Future[Result | Failure]]] = deque()
        lost: list[range] = []
        reason: BaseException | None = None
        try:
            while under_way or (pieces and not lost):
                while pieces and not lost and (window is None or len(under_way) < window):
                    piece = pieces.popleft()
                    future = self._submit(evaluate, self._potential, frames[piece.start : piece.stop])
                    under_way.append((piece, future))
                piece, future = under_way.popleft()
                error = _exception(future)
                if error is not None:
                    lost.append(piece)
                    reason = reason or error
                    continue
                result = future.result()
                if isinstance(result, Failure):
                    raise result.error(piece)
                results[piece.start] = result
        finally:
            for _, future in under_way:
                future.cancel()
        return lost, reason

    def _submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        executor = self._executor
        if executor is None:
            if self._workers is None:
                self._workers = Workers(self.n_workers)
            executor = self._workers.executor
        try:
            return executor.submit(function, *arguments)
        # broken, or shut down
        except RuntimeError as error:
            future: Future[T] = Future()
            future.set_exception(error if isinstance(error, BrokenExecutor) else BrokenExecutor(str(error)))
            return future

    def _kill(self) -> None:
        if self._workers is not None:
            self._workers.kill()
            self._workers = None


def _exception(future: Future[Any]) -> BaseException | None:
    """Why there is no result; waits for it."""
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _singles(pieces: Iterable[range]) -> deque[range]:
    return deque(range(i, i + 1) for i in itertools.chain.from_iterable(pieces))
