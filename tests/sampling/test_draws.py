"""Samples in a file: the same whether or not a run was interrupted, and never of two runs."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from smoothflow.core.errors import ConfigurationError, TopologyError
from smoothflow.core.potential import Potential
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import FramesWriter, read_frames
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.runs.progress import Progress
from smoothflow.sampling.draws import CHUNK, SamplingPlan, draw_samples
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential
from torch import Tensor


@pytest.fixture(scope="module")
def flow(peroxide_frames: Frames) -> FlowPotential:
    """A flow that was fitted to the frames' charts, and not trained."""
    return initial_potential(peroxide_frames, TrainSettings()).double().requires_grad_(False)


class Partial(Potential):
    """A potential, infinite where the first bond is longer than its usual length and undefined where a bit shorter."""

    def __init__(self, base: Potential) -> None:
        super().__init__()
        self.base, self.shape, self.topology = base, base.shape, base.topology

    def energy(self, positions: Tensor) -> Tensor:
        length = (positions[:, 0] - positions[:, 1]).norm(dim=-1)
        energy = self.base.energy(positions)
        energy = torch.where(length > 0.125, torch.inf, energy)
        return torch.where(length < 0.115, torch.nan, energy)


def test_an_interrupted_run_ends_with_the_same_samples(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    plan = SamplingPlan(tmp_path / "parts.h5", 2 * CHUNK + 300, 3, force_field, {"model": "peroxide"})

    def interrupt(progress: Progress) -> None:
        if progress.done == CHUNK:
            os.kill(os.getpid(), signal.SIGINT)

    report = draw_samples(flow, plan, interrupt)
    assert (report.n_samples, report.resumed_from, report.stopped_by) == (CHUNK, 0, signal.SIGINT)
    assert len(read_frames(plan.output)) == CHUNK
    assert draw_samples(flow, plan).resumed_from == CHUNK
    whole = replace(plan, output=tmp_path / "whole.h5")
    assert draw_samples(flow, whole).stopped_by is None
    assert read_frames(plan.output).digest() == read_frames(whole.output).digest()
    # more samples than were asked for at first go on within a chunk
    more = replace(plan, n_samples=2 * CHUNK + 700)
    assert draw_samples(flow, more).resumed_from == 2 * CHUNK + 300
    draw_samples(flow, replace(more, output=tmp_path / "more.h5"))
    assert read_frames(plan.output).digest() == read_frames(tmp_path / "more.h5").digest()


def test_a_file_that_was_begun_and_is_empty_goes_on(tmp_path: Path, flow: FlowPotential) -> None:
    plan = SamplingPlan(tmp_path / "a.h5", 50)
    draw_samples(flow, plan)
    kind = read_frames(plan.output)
    FramesWriter.create(tmp_path / "b.h5", kind).close()
    assert draw_samples(flow, replace(plan, output=tmp_path / "b.h5")).resumed_from == 0
    assert read_frames(tmp_path / "b.h5").digest() == kind.digest()


def test_weights_are_those_of_the_target(tmp_path: Path, flow: FlowPotential, force_field: Potential) -> None:
    plan = SamplingPlan(tmp_path / "samples.h5", 100, target=force_field)
    draw_samples(flow, plan)
    samples = read_frames(plan.output)
    x = torch.from_numpy(samples.positions).double()
    log_weights = -force_field.energy(x) / flow.kT - flow.log_prob(x)
    # positions are stored in float32: 1e-8 nm times forces of 1e4 kT/nm
    np.testing.assert_allclose(samples.log_weights, log_weights.numpy(), atol=1e-3)


def test_samples_without_a_finite_energy_have_no_weight(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    target = Partial(force_field)
    plan = SamplingPlan(tmp_path / "samples.h5", 200, target=target)
    draw_samples(flow, plan)
    samples = read_frames(plan.output)
    finite = target.energy(torch.from_numpy(samples.positions).double()).isfinite().numpy()
    assert samples.log_weights is not None
    assert 0 < finite.sum() < 200
    np.testing.assert_array_equal(samples.log_weights == -np.inf, ~finite)
    assert np.isfinite(samples.log_weights[finite]).all()


def test_a_file_of_something_else_stays_as_it_is(tmp_path: Path, flow: FlowPotential, force_field: Potential) -> None:
    plan = SamplingPlan(tmp_path / "samples.h5", 20, provenance={"model": "a"})
    draw_samples(flow, plan)
    content = plan.output.read_bytes()
    for other, message in (
        (replace(plan, seed=1), "seed is 0 there and 1 here"),
        (replace(plan, provenance={"model": "b"}), "model is a there and b here"),
        (replace(plan, n_samples=10), "20 samples where 10 are asked for"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            draw_samples(flow, other)
    assert plan.output.read_bytes() == content


def test_a_target_of_another_molecule_leaves_no_file(
    tmp_path: Path, flow: FlowPotential, force_field: Potential
) -> None:
    target = Partial(force_field)
    target.topology = force_field.topology.take([1, 0, 2, 3])  # type: ignore[union-attr]
    with pytest.raises(TopologyError, match="Atom order differs between the model and the reference"):
        draw_samples(flow, SamplingPlan(tmp_path / "samples.h5", 20, target=target))
    assert list(tmp_path.iterdir()) == []
