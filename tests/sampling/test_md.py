"""Runs with files and bounds, in our engine and in others."""

from __future__ import annotations

import math
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import ConfigurationError, SimulationError
from smoothflow.core.integrator import State
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.integrators.checkpoint import read_checkpoint, write_checkpoint
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames
from smoothflow.runs.locks import lock_file
from smoothflow.runs.progress import OnProgress, Progress, silent
from smoothflow.sampling.md import DynamicsPlan, DynamicsReport, EnergyBounds, run_dynamics

NVT = DynamicsSettings(n_steps=40, timestep=0.0005, ensemble="nvt")


def run(plan: DynamicsPlan, potential: Potential, frames: Frames, on_progress: OnProgress = silent) -> DynamicsReport:
    """Two replicas of hydrogen peroxide."""
    x = torch.from_numpy(frames.positions[:2]).double()
    v = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=x.dtype)
    return run_dynamics(plan, potential, frames.topology, masses(frames.topology), x, v, {}, on_progress)


def state(potential: list[float], kinetic: float = 0.0) -> State:
    """Replicas of four atoms of 1 amu with these energies."""
    v = torch.full((len(potential), 4, 3), math.sqrt(2 * kinetic / 12), dtype=torch.float64)
    return State(v, v, v, torch.tensor(potential, dtype=torch.float64), torch.ones(4, dtype=torch.float64), 0.5)


@pytest.mark.parametrize(
    ("ensemble", "bound", "potential", "kinetic", "fails"),
    [
        # four atoms: six degrees of freedom
        ("nve", None, 5.9, 0.0, False),
        ("nve", None, 6.1, 0.0, True),
        ("nve", None, -6.1, 0.0, True),
        ("nve", None, 3.0, 3.1, True),
        ("nve", 2.0, 11.9, 0.0, False),
        ("nvt", None, 59.9, 100.0, False),
        ("nvt", None, 60.1, 0.0, True),
        ("nvt", None, -1000.0, 0.0, False),
        ("nvt", 1.0, 6.1, 0.0, True),
        ("nvt", None, math.nan, 0.0, True),
    ],
)
def test_bounds_are_kt_per_degree_of_freedom(
    ensemble: str, bound: float | None, potential: float, kinetic: float, fails: bool
) -> None:
    kT = thermal_energy(300.0)
    settings = replace(NVT, ensemble=ensemble)  # type: ignore[arg-type]
    bounds = EnergyBounds(state([-7.0, -7.0]), settings, bound)
    after = state([-7.0, -7.0 + potential * kT], kinetic * kT)
    if not fails:
        bounds.report(10, after)
        return
    with pytest.raises(
        SimulationError, match=r"At 0\.5 ps the (total|potential) energy of replica 1 .*smaller time step"
    ):
        bounds.report(10, after)


def test_a_bound_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="must be positive"):
        EnergyBounds(state([0.0]), NVT, 0.0)


def test_energies_temperature_and_speed_are_reported(force_field: Potential, peroxide_frames: Frames) -> None:
    told: list[Progress] = []
    report = run(DynamicsPlan(NVT), force_field, peroxide_frames, told.append)
    assert [progress.done for progress in told] == [0, 10, 20, 30, 40]
    assert (told[-1].stage, told[-1].total) == ("nvt in native", 40)
    values = told[-1].values
    assert values["E (kJ/mol)"] == pytest.approx(float(report.energies.potential_energy[-1].mean()))
    kinetic = float(report.energies.kinetic_energy[-1].mean())
    assert values["T (K)"] == pytest.approx(300 * kinetic / (6 * thermal_energy(300.0)))
    assert values["ns/day"] > 0


@pytest.mark.parametrize("engine", ["native", "ase", "openmm"])
def test_a_signal_ends_a_run_with_its_files_complete(
    tmp_path: Path, force_field: Potential, peroxide_frames: Frames, engine: str
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(progress: Progress) -> None:
        if progress.done == 20:
            os.kill(os.getpid(), signal.SIGTERM)

    files = {"frames": tmp_path / "run.h5", "log": tmp_path / "run.csv"}
    plan = DynamicsPlan(NVT, engine, **files)
    report = run(plan, force_field, peroxide_frames, interrupt)
    assert (report.stopped_by, report.goes_on) == (signal.SIGTERM, engine == "native")
    assert report.steps == 20
    assert len(read_frames(tmp_path / "run.h5")) == 6
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 7
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    if engine == "native":
        assert run(plan, force_field, peroxide_frames).resumed_from == 20
        whole = DynamicsPlan(NVT, frames=tmp_path / "whole.h5")
        run(whole, force_field, peroxide_frames)
        assert read_frames(tmp_path / "run.h5").digest() == read_frames(tmp_path / "whole.h5").digest()
    else:
        with pytest.raises(ConfigurationError, match="exists already"):
            run(plan, force_field, peroxide_frames)


def test_an_energy_out_of_bounds_keeps_what_was_recorded(
    tmp_path: Path, force_field: Potential, peroxide_frames: Frames
) -> None:
    # bonds of 1e5 kJ/mol/nm^2 with hydrogens are unstable beyond 6 fs
    plan = DynamicsPlan(replace(NVT, timestep=0.007, n_steps=1000, report_every=1), frames=tmp_path / "run.h5")
    for _ in range(2):  # the same run again ends in the same place
        with pytest.raises(SimulationError, match=r"energy of replica . is .*smaller time step"):
            run(plan, force_field, peroxide_frames)
        frames = read_frames(tmp_path / "run.h5")
        assert frames.energies is not None
        # the last report is the one that went too far
        rise = frames.energies.reshape(-1, 2) - frames.energies[:2]
        allowed = 10 * 6 * thermal_energy(300.0)
        assert rise[-1].max() > allowed
        assert rise[:-1].max() <= allowed


def test_a_run_of_the_engine_by_its_old_name_goes_on(
    tmp_path: Path, force_field: Potential, peroxide_frames: Frames
) -> None:
    plan = DynamicsPlan(NVT, frames=tmp_path / "run.h5")
    assert plan.checkpoint is not None
    run(replace(plan, settings=replace(NVT, n_steps=20)), force_field, peroxide_frames)
    before = read_checkpoint(plan.checkpoint)
    write_checkpoint(plan.checkpoint, replace(before, provenance={**before.provenance, "engine": "verlet"}))
    with pytest.warns(DeprecationWarning, match='called "native"'):
        report = run(replace(plan, engine="verlet"), force_field, peroxide_frames)
    assert (report.resumed_from, report.steps) == (20, 40)
    again = replace(plan, frames=tmp_path / "again.h5")
    run(again, force_field, peroxide_frames)
    assert read_frames(tmp_path / "run.h5").digest() == read_frames(tmp_path / "again.h5").digest()


def test_one_process_at_a_time(tmp_path: Path, force_field: Potential, peroxide_frames: Frames) -> None:
    plan = DynamicsPlan(NVT, log=tmp_path / "run.csv")
    assert plan.checkpoint is not None
    with lock_file(plan.checkpoint), pytest.raises(ConfigurationError, match="another process"):
        run(plan, force_field, peroxide_frames)
    assert list(tmp_path.iterdir()) == []
    run(plan, force_field, peroxide_frames)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.csv", "run.csv.checkpoint"]
