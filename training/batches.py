"""Batches of a training: which frames are used, in what order, and which are held out, all from one seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Int
from numpy import ndarray
from torch import Tensor

from ..core.errors import TrainingError
from ..molecules.frames import Frames
from ..runs.randomness import generator
from .processes import ALONE, Rank

N_BLOCKS = 20
"""Frames are divided into at least this many contiguous blocks, some of which are held out."""


def split(frames: Frames, fraction: float, seed: int) -> tuple[Int[ndarray, "training"], Int[ndarray, "held_out"]]:
    """Indices of the training frames and of the held-out ones, in whole blocks: consecutive frames are correlated.

    Args:
        frames: Frames, in time order within each replica.
        fraction: Share of the frames to hold out.
        seed: Seed of the choice of blocks.

    Raises:
        TrainingError: If there are too few frames.
    """
    n_blocks = max(N_BLOCKS, int(np.ceil(1 / fraction)))
    if len(frames) < 2 * n_blocks:
        raise TrainingError(
            f"{len(frames)} frames are too few to hold out a share of {fraction}; simulate at least {2 * n_blocks}."
        )
    order = frames.by_walker
    n_held_out = max(1, round(fraction * n_blocks))
    chosen = np.random.default_rng(seed).choice(n_blocks, n_held_out, replace=False)
    block = np.arange(len(frames)) * n_blocks // len(frames)
    held_out = np.isin(block, chosen)
    return np.sort(order[~held_out]), np.sort(order[held_out])


@dataclass(frozen=True)
class Batches:
    """The batches of one stretch of training; a step's batch does not depend on when or where it is drawn.

    Frames are drawn without replacement, in a new order in each pass over them.

    Attributes:
        indices: The frames to draw from; batches are chosen where they are.
        size: Frames per batch.
        seed: Seed of the order.
        first_step: Returns the next step; called when a stretch begins.
        stretch: Steps in a stretch.
        last_step: Last step of the training.
        rank: The process whose share of each batch is taken.
    """

    indices: Int[Tensor, "n_frames"]
    size: int
    seed: int
    first_step: Callable[[], int]
    stretch: int
    last_step: int
    rank: Rank = ALONE

    def batch(self, step: int) -> Int[Tensor, "size"]:
        """The frames of a step."""
        return self.indices[rows_of_batch(len(self.indices), self.size, self.seed, step, self.indices.device)]

    def __iter__(self) -> Iterator[Int[Tensor, "size"]]:
        first = self.first_step()
        for step in range(first, min(first + self.stretch, self.last_step)):
            yield self.batch(step)[self.rank.share]


@dataclass(frozen=True)
class Parts:
    """All frames in batches, always in the same order."""

    indices: Int[Tensor, "n_frames"]
    size: int

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def __iter__(self) -> Iterator[Int[Tensor, "size"]]:
        for start in range(0, len(self.indices), self.size):
            yield self.indices[start : start + self.size]


def rows_of_batch(
    n_rows: int, size: int, seed: int, step: int, device: torch.device | str = "cpu"
) -> Int[Tensor, "size"]:
    """The rows in a step's batch, reshuffled in each pass; all rows if there are no more than a batch holds."""
    size = min(size, n_rows)
    n_pass, place = divmod(step, n_rows // size)
    return _order(n_rows, seed, n_pass, torch.device(device))[place * size : (place + 1) * size]


# frames, samples and configurations outside the bulk take turns in a training
@lru_cache(maxsize=3)
def _order(n_frames: int, seed: int, n_pass: int, device: torch.device) -> Int[Tensor, "n_frames"]:
    # drawn on the CPU: the same on every device
    return torch.randperm(n_frames, generator=generator(seed, 0, n_pass)).to(device)
