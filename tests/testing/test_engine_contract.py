"""Engines: our own keeps the contract, one with a fault each fails on the clause that is about it."""

from __future__ import annotations

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from smoothflow.core.engine import DynamicsSettings, Engine, OnReport, Trajectory, check_start, record
from smoothflow.core.errors import ConfigurationError, MissingDependencyError, SimulationError, SmoothflowError
from smoothflow.core.integrator import State
from smoothflow.core.plugins import Registry
from smoothflow.core.potential import Potential
from smoothflow.integrators.simulation import NativeEngine
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from smoothflow.testing import ENGINE_CLAUSES, check_engine, examine_engine
from torch import Tensor


class Nameless(NativeEngine):
    name = ""


class Accepting(NativeEngine):
    """Cuts what is given to the atoms that there are masses for."""

    def run(
        self, potential: Potential, masses: Tensor, positions: Tensor, velocities: Tensor, *rest: Any
    ) -> Trajectory:
        masses = masses.clamp(min=1.0)
        return super().run(potential, masses, positions, velocities, *rest)


class Truncated(NativeEngine):
    """Loses the last frame of a run whose length is not a multiple of the interval."""

    def run(
        self,
        potential: Potential,
        masses: Tensor,
        positions: Tensor,
        velocities: Tensor,
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        n_steps = settings.n_steps // settings.report_every * settings.report_every
        return super().run(potential, masses, positions, velocities, replace(settings, n_steps=n_steps), on_report)


class Around(NativeEngine):
    """Changes what was recorded."""

    def changed(self, trajectory: Trajectory) -> Trajectory:
        raise NotImplementedError

    def run(self, *arguments: Any) -> Trajectory:
        return self.changed(super().run(*arguments))


class StaleEnergies(Around):
    def changed(self, trajectory: Trajectory) -> Trajectory:
        return replace(trajectory, potential_energy=trajectory.potential_energy.roll(1, 0))


class Leapfrog(Around):
    """Velocities and kinetic energies agree with each other, and are a little slow."""

    def changed(self, trajectory: Trajectory) -> Trajectory:
        factor = trajectory.times[:, None] * -1e-4 + 1
        return replace(
            trajectory,
            velocities=trajectory.velocities * factor[..., None, None],
            kinetic_energy=trajectory.kinetic_energy * factor**2,
        )


class Mixing(NativeEngine):
    """The first of several replicas starts a little aside, which only a replica alone does not."""

    def run(
        self, potential: Potential, masses: Tensor, positions: Tensor, velocities: Tensor, *rest: Any
    ) -> Trajectory:
        if len(positions) == 1:
            positions = positions + 1e-6
        return super().run(potential, masses, positions, velocities, *rest)


class Other(NativeEngine):
    """Other settings than those asked for."""

    def asked(self, settings: DynamicsSettings) -> DynamicsSettings:
        raise NotImplementedError

    def run(
        self,
        potential: Potential,
        masses: Tensor,
        positions: Tensor,
        velocities: Tensor,
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        return super().run(potential, masses, positions, velocities, self.asked(settings), on_report)


class Seedless(Other):
    def asked(self, settings: DynamicsSettings) -> DynamicsSettings:
        return replace(settings, seed=0)


class Hot(Other):
    def asked(self, settings: DynamicsSettings) -> DynamicsSettings:
        return replace(settings, temperature=1.03 * settings.temperature)


class Cold(Other):
    def asked(self, settings: DynamicsSettings) -> DynamicsSettings:
        return replace(settings, temperature=0.97 * settings.temperature)


class Vague(NativeEngine):
    def run(self, *arguments: Any) -> Trajectory:
        try:
            return super().run(*arguments)
        except SimulationError:
            raise ConfigurationError("It failed.") from None


class Undated(NativeEngine):
    """Its errors are all of the start, as those of a replica that does not count its steps."""

    def run(self, *arguments: Any) -> Trajectory:
        try:
            return super().run(*arguments)
        except SimulationError:
            raise SimulationError("It stopped in replica 1 at 0 ps.") from None


class Deaf(NativeEngine):
    """Goes on when its observer raises."""

    def run(
        self,
        potential: Potential,
        masses: Tensor,
        positions: Tensor,
        velocities: Tensor,
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        def listen(step: int, state: Any) -> None:
            try:
                if on_report is not None:
                    on_report(step, state)
            except Exception:
                pass

        return super().run(potential, masses, positions, velocities, settings, listen)


@pytest.mark.parametrize(
    ("engine", "clause"),
    [
        (Nameless, "declaration"),
        (Accepting, "refusal"),
        (Truncated, "frames"),
        (StaleEnergies, "energies"),
        (Leapfrog, "trajectory"),
        (Mixing, "replicas"),
        (Seedless, "seed"),
        (Hot, "temperature"),
        (Cold, "temperature"),
        (Vague, "failure"),
        (Undated, "failure"),
        (Deaf, "observer"),
    ],
)
def test_a_broken_engine_fails_on_the_right_clause(engine: type[Engine], clause: str) -> None:
    report = examine_engine(engine, ENGINE_CLAUSES[: ENGINE_CLAUSES.index(clause) + 1])
    broken = [result.clause for result in report.results if result.error is not None]
    assert broken == [clause], str(report)


def test_our_own_engine_keeps_the_contract() -> None:
    assert check_engine(NativeEngine).passed


class WithoutThermostat(NativeEngine):
    def run(
        self,
        potential: Potential,
        masses: Tensor,
        positions: Tensor,
        velocities: Tensor,
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        if settings.ensemble == "nvt":
            raise ConfigurationError("No thermostat here.")
        return super().run(potential, masses, positions, velocities, settings, on_report)


def test_clauses_on_a_thermostat_are_left_out_with_the_reason_where_there_is_none() -> None:
    report = check_engine(WithoutThermostat, ["seed", "temperature", "observer"])
    assert [result.verdict for result in report.results] == ["left out", "left out", "ok"]
    assert "No thermostat here" in report.results[0].left_out
    assert "left out" in str(report)


class Declared(NativeEngine):
    ensembles = ("nve",)


def test_an_engine_that_declares_no_thermostat_is_not_asked_for_one() -> None:
    report = check_engine(Declared, ["seed"])
    assert report.results[0].left_out == "the engine does not run nvt, as its ensembles say"


class NothingOfItsOwn(Engine):
    name = "nothing"


def test_an_engine_without_begin_fails_its_declaration_and_its_run_says_so() -> None:
    report = examine_engine(NothingOfItsOwn, ["declaration", "trajectory"])
    assert [result.error is not None for result in report.results] == [True, True]
    assert all("neither begin nor a run of its own" in str(result.error) for result in report.results)


class Whole(Engine):
    """Written when an engine was a run as a whole."""

    name = "whole"

    def run(
        self,
        potential: Potential,
        masses: Tensor,
        positions: Tensor,
        velocities: Tensor,
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        if settings.ensemble != "nve":
            raise ConfigurationError("No thermostat here.")
        check_start(potential, masses, positions, velocities)
        integrator = VelocityVerlet(settings.timestep)

        def later(state: State, n_steps: int) -> State:
            for _ in range(n_steps):
                try:
                    state = integrator.step(potential, state)
                except SmoothflowError as error:
                    raise SimulationError(f"At {state.time:.6g} ps: {error}") from error
            return state

        start = State.start(potential, positions, velocities, masses)
        return record(start, later, settings, on_report, potential.topology)


def test_an_engine_that_is_a_run_as_a_whole_keeps_the_contract() -> None:
    assert check_engine(Whole).passed


@pytest.fixture
def worked_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine in CONTRIBUTING.md, as a module."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## An engine, worked out")[2].partition("\n## ")[0]
    (listing,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (tmp_path / "leapfrog_of_contributing.py").write_text(listing, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("leapfrog_of_contributing")
    del sys.modules["leapfrog_of_contributing"]


def test_the_engine_in_contributing_keeps_the_contract_and_can_be_registered(worked_out: Any) -> None:
    report = check_engine(worked_out.LeapfrogEngine)
    assert [result.clause for result in report.results if result.left_out] == ["seed", "temperature"]
    registry = Registry()
    registry.register(worked_out, "leapfrog", "smoothflow-leapfrog", "0.1.0")
    assert registry.broken == []
    assert registry.engine("leapfrog") is worked_out.LeapfrogEngine


class Absent(NativeEngine):
    def run(self, *arguments: Any) -> Trajectory:
        raise MissingDependencyError("This engine", "absent", "absent")


def test_a_missing_package_is_not_a_broken_clause() -> None:
    with pytest.raises(MissingDependencyError, match="absent"):
        examine_engine(Absent, ["trajectory"])
