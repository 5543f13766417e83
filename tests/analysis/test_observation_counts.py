"""Each frame is observed once, in order, also where batches end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from jaxtyping import Float
from smoothflow.analysis import observation
from smoothflow.analysis.observation import observe_frames, observe_samples
from smoothflow.core.potential import Potential
from smoothflow.molecules.frames import Frames
from smoothflow.potentials.shipped import load
from torch import Tensor

MODEL = load("ala2-affine")
SAMPLES = MODEL.sample(23, torch.Generator().manual_seed(0))[0].detach().float()


class Flat(Potential):
    """An energy that tells which configuration it is of, and counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = MODEL.shape
        self.n_evaluated = 0

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        self.n_evaluated += len(positions)
        return positions[:, 0, 0]


@pytest.mark.parametrize("n", [2, 9, 10, 11, 20, 21, 23])
def test_every_frame_is_observed_once_in_order(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "BATCH_SIZE", 10)
    assert MODEL.topology is not None
    positions = SAMPLES[:n].numpy()
    frames = Frames(MODEL.topology, MODEL.temperature, positions)
    told: list[tuple[int, int]] = []
    reference = Flat()
    found = observe_frames(MODEL, frames, reference, lambda progress: told.append((progress.done, progress.total)))
    assert len(found) == len(found.energy) == len(found.forces) == n
    np.testing.assert_array_equal(found.positions.numpy(), positions.astype(float))
    # the first coordinate of the first atom, in kT
    np.testing.assert_allclose(found.energy.numpy() * MODEL.kT, positions[:, 0, 0], rtol=1e-12)
    assert reference.n_evaluated == n
    assert told[-1] == (n, n)


@pytest.mark.parametrize("n", [2, 10, 11, 20])
def test_as_many_samples_are_observed_as_were_asked_for(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "BATCH_SIZE", 10)
    found = observe_samples(MODEL, n, torch.Generator().manual_seed(1), Flat())
    assert len(found) == len(found.positions) == n
    # no sample twice
    assert len(found.log_prob.unique()) == n
