"""What is told of a run's frames: percentiles and spread are those of its positions, and a bound ends it."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_forms import PEROXIDE
from smoothflow.core.committee import CommitteePotential
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import ConfigurationError, SimulationError
from smoothflow.core.potential import Potential
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames
from smoothflow.potentials.familiarity import Familiarity
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.sampling.md import DynamicsPlan, DynamicsReport, run_dynamics
from smoothflow.sampling.trust import ENERGY_SPREAD, FORCE_SPREAD, PERCENTILE, Trust
from smoothflow.training.config import TrainSettings
from smoothflow.training.run import initial_potential
from torch import Tensor

NVT = DynamicsSettings(n_steps=40, timestep=0.0005, ensemble="nvt")


@pytest.fixture(scope="module")
def flows(peroxide_frames: Frames) -> list[FlowPotential]:
    """Two flows that were fitted to parts of the frames, and not trained."""
    parts = (peroxide_frames[:400], peroxide_frames[400:700])
    return [initial_potential(part, TrainSettings()).double().requires_grad_(False) for part in parts]


@pytest.fixture(scope="module")
def familiar(flows: list[FlowPotential]) -> list[Familiarity]:
    return [Familiarity(flow, 1000) for flow in flows]


def run(plan: DynamicsPlan, potential: Potential, frames: Frames, trust: Trust | None) -> DynamicsReport:
    """Two replicas of hydrogen peroxide."""
    x = torch.from_numpy(frames.positions[:2]).double()
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return run_dynamics(plan, potential, frames.topology, masses(frames.topology), x, v, {}, trust=trust)


def table(path: Path) -> dict[str, Tensor]:
    """The columns of a log, two replicas a row."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64).reshape(-1, 2) for name in rows[0]
    }


@pytest.mark.parametrize("engine", ["native", "ase"])
def test_percentiles_of_a_run_are_those_of_its_frames(
    tmp_path: Path, flows: list[FlowPotential], familiar: list[Familiarity], peroxide_frames: Frames, engine: str
) -> None:
    plan = DynamicsPlan(NVT, engine, frames=tmp_path / "run.h5", log=tmp_path / "run.csv")
    report = run(plan, flows[0], peroxide_frames, Trust(flows[0], familiar[:1]))
    frames = read_frames(tmp_path / "run.h5")
    assert frames.energies is not None
    expected = familiar[0](torch.from_numpy(frames.energies)).reshape(-1, 2)
    assert list(report.trust) == [PERCENTILE]
    torch.testing.assert_close(report.trust[PERCENTILE], expected)
    torch.testing.assert_close(table(tmp_path / "run.csv")[PERCENTILE], expected)


def test_the_spread_of_a_run_is_that_of_its_members(
    tmp_path: Path, flows: list[FlowPotential], familiar: list[Familiarity], peroxide_frames: Frames
) -> None:
    committee = CommitteePotential(flows)
    plan = DynamicsPlan(NVT, frames=tmp_path / "run.h5", log=tmp_path / "run.csv")
    report = run(plan, committee, peroxide_frames, Trust(committee, familiar))
    found = table(tmp_path / "run.csv")
    # positions in the file are rounded to float32
    positions = torch.from_numpy(read_frames(tmp_path / "run.h5").positions).double()
    forces = torch.stack([flow.energy_and_forces(positions)[1] for flow in flows])
    spread = (forces.var(0).sum(-1)).sqrt().amax(-1).reshape(-1, 2)
    torch.testing.assert_close(found[FORCE_SPREAD], spread, rtol=1e-3, atol=1.0)
    energies = torch.stack([flow.energy(positions) for flow in flows])
    torch.testing.assert_close(found[ENERGY_SPREAD], energies.std(0).reshape(-1, 2), rtol=1e-3, atol=0.01)
    highest = torch.stack([each(energy) for each, energy in zip(familiar, energies, strict=True)]).amax(0)
    torch.testing.assert_close(found[PERCENTILE], highest.reshape(-1, 2), rtol=0, atol=0.3)
    for name, values in report.trust.items():
        torch.testing.assert_close(found[name], values)


def test_a_run_that_leaves_what_the_model_knows_is_stopped_with_its_files_complete(
    tmp_path: Path, flows: list[FlowPotential], familiar: list[Familiarity], peroxide_frames: Frames
) -> None:
    settings = replace(NVT, n_steps=4000, report_every=1)
    plan = DynamicsPlan(settings, log=tmp_path / "run.csv", stop_above=99.9999, energy_bound=1e4)
    flow = flows[0]
    q, _ = flow.coordinates.encode(torch.from_numpy(peroxide_frames.positions[:2]).double())
    q[1, 0] += 0.03
    x = flow.coordinates.decode(q)[0]
    v = torch.zeros_like(x)
    with pytest.raises(SimulationError, match=r"At 0 ps the energy of replica 1 is at percentile 99\.9999.*what the"):
        run_dynamics(plan, flow, PEROXIDE, masses(PEROXIDE), x, v, {}, trust=Trust(flow, familiar[:1]))
    # what stopped it is in the table
    assert float(table(tmp_path / "run.csv")[PERCENTILE].max()) > 99.9999


def test_a_bound_that_healthy_runs_do_not_reach_leaves_them_alone(
    flows: list[FlowPotential], familiar: list[Familiarity], peroxide_frames: Frames
) -> None:
    plan = DynamicsPlan(replace(NVT, n_steps=400), stop_above=99.9999)
    report = run(plan, flows[0], peroxide_frames, Trust(flows[0], familiar[:1]))
    assert report.steps == 400


def test_a_run_that_goes_on_has_the_columns_that_it_began_with(
    tmp_path: Path, flows: list[FlowPotential], familiar: list[Familiarity], peroxide_frames: Frames
) -> None:
    trust = Trust(flows[0], familiar[:1])
    plan = DynamicsPlan(NVT, log=tmp_path / "run.csv")
    run(plan, flows[0], peroxide_frames, trust)
    more = replace(plan, settings=replace(NVT, n_steps=60))
    assert run(more, flows[0], peroxide_frames, trust).resumed_from == 40
    assert table(tmp_path / "run.csv")[PERCENTILE].shape == (7, 2)
    with pytest.raises(ConfigurationError, match="not the table of a run with the columns"):
        run(replace(plan, settings=replace(NVT, n_steps=80)), flows[0], peroxide_frames, None)


def test_bounds_and_samples_that_cannot_be_are_refused(
    flows: list[FlowPotential], familiar: list[Familiarity], peroxide_frames: Frames
) -> None:
    trust = Trust(flows[0], familiar[:1])
    for bound in (0.0, 100.0, float("nan")):
        with pytest.raises(ConfigurationError, match="between 0 and 100"):
            run(DynamicsPlan(NVT, stop_above=bound), flows[0], peroxide_frames, trust)
    for nothing in (None, Trust(flows[0])):
        with pytest.raises(ConfigurationError, match="samples of a flow"):
            run(DynamicsPlan(NVT, stop_above=99.9), flows[0], peroxide_frames, nothing)
    with pytest.raises(ConfigurationError, match="1 flows were given for 2"):
        Trust(CommitteePotential(flows), familiar[:1])
