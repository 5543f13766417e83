"""Simulations that stop anywhere and go on: not one bit differs from a run that never stopped."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from closed_forms import AnharmonicSprings
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import ConfigurationError, FileFormatError, UnknownNameError
from smoothflow.core.integrator import Integrator, State
from smoothflow.core.plugins import hookimpl, registry
from smoothflow.core.potential import Potential
from smoothflow.core.reporter import Reporter
from smoothflow.integrators.checkpoint import read_checkpoint
from smoothflow.integrators.langevin import Langevin
from smoothflow.integrators.simulation import Simulation
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from torch import Tensor

NVT = DynamicsSettings(n_steps=40, timestep=0.0005, ensemble="nvt", report_every=7, seed=3)
NVE = replace(NVT, ensemble="nve")
MASSES = [12.0, 16.0, 1.0]
TRIANGLE = AnharmonicSprings([(0, 1), (1, 2), (0, 2)], 0.12)


class Seen(Reporter):
    """The steps and energies that were reported."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float]] = []

    def open(self, n_kept: int | None, state: State) -> None:
        del self.rows[n_kept or 0 :]

    def report(self, step: int, state: State) -> None:
        self.rows.append((step, float(state.total_energy.sum())))


def start(dtype: torch.dtype = torch.float64) -> State:
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0.0, 0.0], [0.12, 0.0, 0.0], [0.06, 0.1, 0.0]], dtype=dtype)
    positions = corners + 0.01 * torch.randn(4, 3, 3, generator=generator, dtype=dtype)
    velocities = torch.randn(4, 3, 3, generator=generator, dtype=dtype)
    return State.start(TRIANGLE, positions, velocities, torch.tensor(MASSES, dtype=dtype))


def run_for(simulation: Simulation, n_steps: int, path: Path) -> None:
    """Stop it after so many steps."""
    end = simulation.step + n_steps
    simulation.run(path, stopped=lambda: simulation.step >= end)


def assert_identical(one: Simulation, other: Simulation) -> None:
    assert one.step == other.step
    assert one.state.time == other.state.time
    for name in ("positions", "velocities", "forces", "potential_energy", "masses"):
        assert torch.equal(getattr(one.state, name), getattr(other.state, name)), name
    assert torch.equal(one.energies.times, other.energies.times)
    assert torch.equal(one.energies.total_energy, other.energies.total_energy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("settings", [NVE, NVT], ids=["velocity_verlet", "langevin"])
def test_a_run_stopped_anywhere_goes_on_bit_for_bit(
    tmp_path: Path, settings: DynamicsSettings, dtype: torch.dtype
) -> None:
    name = "langevin" if settings.ensemble == "nvt" else "velocity_verlet"
    seen = Seen()
    whole = Simulation(TRIANGLE, name, start(dtype), settings, [seen])
    whole.run()
    assert whole.state.positions.dtype == dtype
    assert [step for step, _ in seen.rows] == [0, 7, 14, 21, 28, 35, 40]
    rng = random.Random(settings.ensemble)
    for _ in range(5):
        path = tmp_path / f"{rng.random()}.checkpoint"
        seen_in_parts = Seen()
        part = Simulation(TRIANGLE, name, start(dtype), settings, [seen_in_parts])
        while part.step < settings.n_steps:
            run_for(part, rng.randrange(1, 20), path)
            part = Simulation.load(path, TRIANGLE, [seen_in_parts])
        assert_identical(part, whole)
        assert seen_in_parts.rows == seen.rows


def test_reports_made_after_the_last_checkpoint_come_again(tmp_path: Path) -> None:
    seen = Seen()
    whole = Simulation(TRIANGLE, "langevin", start(), NVT, [seen])
    whole.run()
    path, killed = tmp_path / "run.checkpoint", Seen()
    Simulation(TRIANGLE, "langevin", start(), NVT, [killed]).run(path, seconds=1e9)
    # the first checkpoint is from before any report, the last from the end: put one between, as a kill would leave it
    path.unlink()
    between = Simulation(TRIANGLE, "langevin", start(), NVT)
    run_for(between, 17, path)
    assert len(killed.rows) == 7
    resumed = Simulation.load(path, TRIANGLE, [killed])
    resumed.run(path)
    assert killed.rows == seen.rows
    assert_identical(resumed, whole)


def test_a_finished_run_can_be_made_longer_and_is_left_alone_otherwise(tmp_path: Path) -> None:
    longer = replace(NVT, n_steps=60)
    whole, seen = Simulation(TRIANGLE, "langevin", start(), longer), Seen()
    whole.run()
    path = tmp_path / "run.checkpoint"
    Simulation(TRIANGLE, "langevin", start(), NVT, [seen]).run(path)
    rows, before = list(seen.rows), path.read_bytes()
    Simulation.load(path, TRIANGLE, [seen]).run(path)
    assert (seen.rows, path.read_bytes()) == (rows, before)
    extended = Simulation.load(path, TRIANGLE, [seen], n_steps=60)
    extended.run(path)
    assert_identical(extended, whole)
    # step 40 was the last of the shorter run, and is not a seventh
    assert [step for step, _ in seen.rows] == [0, 7, 14, 21, 28, 35, 42, 49, 56, 60]


def test_an_error_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    class Failing(Seen):
        def report(self, step: int, state: State) -> None:
            if step == 21:
                raise FileFormatError("no room")
            super().report(step, state)

    path = tmp_path / "run.checkpoint"
    with pytest.raises(FileFormatError, match="no room"):
        Simulation(TRIANGLE, "langevin", start(), NVT, [Failing()]).run(path, seconds=0.0)
    assert read_checkpoint(path).step == 20
    resumed, whole = Simulation.load(path, TRIANGLE), Simulation(TRIANGLE, "langevin", start(), NVT)
    for simulation in (resumed, whole):
        simulation.run()
    assert_identical(resumed, whole)


class Drifting(VelocityVerlet):
    """Remembers how often it stepped, and saves it its own way."""

    name = "drifting"

    def __init__(self, timestep: float, drift: float = 0.0) -> None:
        super().__init__(timestep)
        self.drift, self.count = drift, 0

    def step(self, potential: Potential, state: State) -> State:
        self.count += 1
        after = super().step(potential, state)
        return replace(after, velocities=after.velocities + self.drift * self.count)

    def state_dict(self) -> dict[str, Tensor]:
        return {"count": torch.tensor(self.count)}

    def load_state_dict(self, saved: Mapping[str, Tensor]) -> None:
        self.count = int(saved["count"])


class Needy(VelocityVerlet):
    """Needs what no settings say."""

    name = "needy"

    def __init__(self, timestep: float, piston: float) -> None:
        super().__init__(timestep)


class Plugin:
    @hookimpl
    def smoothflow_integrators(self) -> Mapping[str, type[Integrator]]:
        return {kind.name: kind for kind in (Drifting, Needy)}


@contextmanager
def plugin() -> Iterator[None]:
    registry().register(Plugin(), "test-integrators")
    try:
        yield
    finally:
        registry().unregister("test-integrators")


def test_an_integrator_of_a_third_party_runs_by_name_and_by_object(tmp_path: Path) -> None:
    with plugin():
        by_name = Simulation(TRIANGLE, "drifting", start(), NVE)
        by_name.run()
        plain = Simulation(TRIANGLE, "velocity_verlet", start(), NVE)
        plain.run()
        assert torch.equal(by_name.state.positions, plain.state.positions)
        with pytest.raises(ConfigurationError, match=r"needs piston\. Make it yourself"):
            Simulation(TRIANGLE, "needy", start(), NVE)
    whole = Simulation(TRIANGLE, Drifting(0.0005, 1e-4), start(), NVE)
    whole.run()
    part = Simulation(TRIANGLE, Drifting(0.0005, 1e-4), start(), NVE)
    path = tmp_path / "run.checkpoint"
    run_for(part, 11, path)
    part = Simulation.load(path, TRIANGLE, integrator=Drifting(0.0005, 1e-4))
    part.run(path)
    assert_identical(part, whole)


def test_an_integrator_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Known: .*langevin"):
        Simulation(TRIANGLE, "langevim", start(), NVT)
    with pytest.raises(ConfigurationError, match="has a thermostat: it samples nvt, not nve"):
        Simulation(TRIANGLE, "langevin", start(), NVE)
    with pytest.raises(ConfigurationError, match="has no thermostat: it samples nve, not nvt"):
        Simulation(TRIANGLE, "velocity_verlet", start(), NVT)
    with pytest.raises(ConfigurationError, match=r"time step of 0\.001 ps and the settings say 0\.0005"):
        Simulation(TRIANGLE, VelocityVerlet(0.001), start(), NVE)
    path = tmp_path / "run.checkpoint"
    Simulation(TRIANGLE, Langevin(0.0005, 300.0, 1.0, torch.Generator()), start(), NVT).run(path)
    with pytest.raises(FileFormatError, match="Go on with the integrator that was saved"):
        Simulation.load(path, TRIANGLE, integrator=VelocityVerlet(0.0005))
    with pytest.raises(ConfigurationError, match="exists"):
        Simulation(TRIANGLE, "langevin", start(), NVT).run(path)


def test_files_that_are_not_checkpoints_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    with pytest.raises(FileFormatError, match="There is no checkpoint"):
        Simulation.load(path, TRIANGLE)
    simulation = Simulation(TRIANGLE, "langevin", start(), NVT)
    simulation.save(path)
    content = path.read_bytes()
    for damaged in (
        b"",
        b"no safetensors",
        content[: len(content) // 2],
        content.replace(b"velocities", b"felocities"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match=r"damaged|not a checkpoint"):
            Simulation.load(path, TRIANGLE)
    with pytest.raises(FileFormatError, match="cannot be written"):
        simulation.save(tmp_path / "no folder" / "run.checkpoint")
