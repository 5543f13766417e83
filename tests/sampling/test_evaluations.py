"""Evaluations of an expensive reference: each is in the file as soon as it is done, and none is done twice."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from smoothflow.core.errors import ConfigurationError, SimulationError
from smoothflow.core.potential import Potential
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.parallel import ParallelPotential
from smoothflow.runs.progress import Progress
from smoothflow.sampling.evaluations import CHUNK, EvaluatedSamples
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential
from torch import Tensor


@pytest.fixture(scope="module")
def flow(peroxide_frames: Frames) -> FlowPotential:
    """A flow that was fitted to the frames' charts, and not trained."""
    return initial_potential(peroxide_frames, TrainSettings()).double().requires_grad_(False)


class Paid(Potential):
    """A potential that counts what it is asked for, and may fail or die."""

    def __init__(self, base: Potential, dies_at: int = 10**9, fails: float = math.inf) -> None:
        super().__init__()
        self.base, self.shape, self.topology = base, base.shape, base.topology
        self.n_paid, self.dies_at, self.fails = 0, dies_at, fails
        self.dtype = torch.float64

    def energy(self, positions: Tensor) -> Tensor:
        return self.energy_and_forces(positions)[0]

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        length = (positions[:, 0] - positions[:, 1]).norm(dim=-1)
        if bool((length > self.fails).any()):
            raise SimulationError("the bond is too long")
        if self.n_paid + len(positions) > self.dies_at:
            raise KeyboardInterrupt
        self.n_paid += len(positions)
        energy, forces = self.base.energy_and_forces(positions)
        return energy, forces


def test_files_are_weighted_frames_of_the_reference(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    samples = EvaluatedSamples(tmp_path / "x.h5", flow, force_field, 0, {})
    samples.extend(300)
    frames = read_frames(tmp_path / "x.h5")
    positions = torch.from_numpy(frames.positions).double()
    energy, forces = force_field.energy_and_forces(positions)
    # exactly at the positions of the file; the float32 of forces rounds 1e4 kJ/mol/nm by less than 1e-3
    np.testing.assert_allclose(frames.energies, energy, rtol=1e-12)
    np.testing.assert_allclose(frames.forces, forces, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(frames.log_weights, -energy / flow.kT - flow.log_prob(positions), rtol=1e-10)
    assert torch.equal(samples.read().energy, torch.from_numpy(frames.energies))


def test_what_is_interrupted_goes_on_and_pays_nothing_twice(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    n = CHUNK + 30
    first = Paid(force_field, dies_at=CHUNK - 7)
    with pytest.raises(KeyboardInterrupt):
        EvaluatedSamples(tmp_path / "parts.h5", flow, first, 1, {}).extend(n)
    kept = len(read_frames(tmp_path / "parts.h5"))
    # what was paid is there
    assert kept == first.n_paid > 0
    second = Paid(force_field)
    EvaluatedSamples(tmp_path / "parts.h5", flow, second, 1, {}).extend(n)
    assert second.n_paid == n - kept
    EvaluatedSamples(tmp_path / "parts.h5", flow, Paid(force_field, dies_at=0), 1, {}).extend(n)
    EvaluatedSamples(tmp_path / "whole.h5", flow, force_field, 1, {}).extend(n)
    parts, whole = read_frames(tmp_path / "parts.h5"), read_frames(tmp_path / "whole.h5")
    assert np.array_equal(parts.positions, whole.positions)
    # in another order of summation
    np.testing.assert_allclose(parts.log_weights, whole.log_weights, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("n_workers", "expected"), [(None, [1, 2, 3, 4, 5]), (2, [2, 4, 5])])
def test_slow_evaluations_are_written_as_they_come(
    tmp_path: Path, flow: FlowPotential, force_field: Potential, n_workers: int | None, expected: list[int]
) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 30.0
        return now

    seen: list[int] = []

    def note(progress: Progress) -> None:
        seen.append(progress.done)

    target = force_field
    with ThreadPoolExecutor(1) as executor:
        if n_workers is not None:
            target = ParallelPotential(force_field, executor)
            target.n_workers = n_workers
        EvaluatedSamples(tmp_path / "x.h5", flow, target, 0, {}).extend(5, on_progress=note, clock=clock)
    assert seen == expected


def test_samples_at_which_the_reference_fails_weigh_nothing_and_are_counted(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    with torch.no_grad():
        samples = EvaluatedSamples(tmp_path / "x.h5", flow, force_field, 0, {})
        samples.extend(200)
    x = samples.read().positions
    length = (x[:, 0] - x[:, 1]).norm(dim=-1)
    # the first one must not fail
    limit = float(length[0]) + 1e-3
    partial = EvaluatedSamples(tmp_path / "y.h5", flow, Paid(force_field, fails=limit), 0, {})
    partial.extend(200)
    energy = partial.read().energy
    assert torch.equal(energy.isinf(), length > limit)
    assert 0 < int(energy.isinf().sum()) < 200
    assert partial.failure == "the bond is too long"
    assert np.array_equal(read_frames(tmp_path / "y.h5").log_weights == -np.inf, (length > limit).numpy())


def test_a_reference_that_fails_at_once_is_an_error(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    with pytest.raises(SimulationError, match="the bond is too long"):
        EvaluatedSamples(tmp_path / "x.h5", flow, Paid(force_field, fails=0.0), 0, {}).extend(10)
    assert not (tmp_path / "x.h5").exists()


def test_evaluations_of_another_reference_or_seed_are_not_taken(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    EvaluatedSamples(tmp_path / "x.h5", flow, force_field, 0, {"reference": "a"}).extend(3)
    with pytest.raises(ConfigurationError, match="reference is a there and b here"):
        EvaluatedSamples(tmp_path / "x.h5", flow, force_field, 0, {"reference": "b"})
    with pytest.raises(ConfigurationError, match="seed is 0 there and 1 here"):
        EvaluatedSamples(tmp_path / "x.h5", flow, force_field, 1, {"reference": "a"})
