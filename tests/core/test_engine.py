"""What every engine checks and records."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from closed_forms import Linear
from smoothflow.core.engine import DynamicsSettings, check_start, record, require_finite
from smoothflow.core.errors import ConfigurationError, SimulationError
from smoothflow.core.integrator import State
from smoothflow.core.topology import Atom, Topology
from torch import Tensor

TOPOLOGY = Topology((Atom("C", "C1", "MOL", 0), Atom("O", "O1", "MOL", 4)), ((0, 1),))
MASSES = torch.tensor([12.0, 16.0])


def state(time: float = 0.0, n_replicas: int = 3) -> State:
    """Replicas at ``time`` everywhere, which move with 2 nm/ps along every axis."""
    x = torch.full((n_replicas, 2, 3), time)
    return State(x, torch.full_like(x, 2.0), torch.zeros_like(x), time + torch.zeros(n_replicas), MASSES, time)


@pytest.mark.parametrize(
    "values",
    [
        {"n_steps": 0},
        {"n_steps": 1, "timestep": 1e-9, "temperature": 0.0, "friction": 0.0, "report_every": 1, "seed": 0},
        {"n_steps": 1, "timestep": 0.5, "ensemble": "nvt", "temperature": 1e4, "friction": 1e3},
    ],
)
def test_settings_that_can_be_run(values: dict[str, Any]) -> None:
    settings = DynamicsSettings(**values)
    assert settings == replace(settings, **values)


def test_defaults_of_settings() -> None:
    assert DynamicsSettings(5) == DynamicsSettings(5, 0.001, "nve", 300.0, 1.0, 10, 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n_steps", -1, "n_steps is -1; give 0 or more"),
        ("timestep", 0.0, "timestep is 0.0 ps; give a positive number"),
        ("timestep", math.inf, "timestep is inf ps"),
        ("timestep", math.nan, "timestep is nan ps"),
        ("ensemble", "npt", 'ensemble is "npt"; give nve or nvt'),
        ("temperature", -0.1, "temperature is -0.1 K; give 0 or more"),
        ("temperature", math.inf, "temperature is inf K"),
        ("friction", -0.1, "friction is -0.1 1/ps; give 0 or more"),
        ("friction", math.inf, "friction is inf 1/ps"),
        ("report_every", 0, "report_every is 0; give 1 or more"),
        ("seed", -1, "seed is -1; give 0 or more"),
    ],
)
def test_settings_that_cannot_be_run_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^Dynamics cannot be run: {message}"):
        DynamicsSettings(**{"n_steps": 1, name: value})


def test_a_start_that_fits_is_accepted() -> None:
    x = state().positions
    check_start(Linear(2, 0.0), MASSES, x, x)
    check_start(Linear(2, 0.0), MASSES, x[:1], x[:1])


X = torch.zeros(3, 2, 3)


@pytest.mark.parametrize(
    ("masses", "positions", "velocities", "message"),
    [
        (MASSES, X[0], X[0], r"shape \(2, 3\); the potential needs \(replicas, 2, 3\)"),
        (MASSES, X[:0], X[:0], r"shape \(0, 2, 3\); the potential needs"),
        (MASSES[:1], X[:, :1], X[:, :1], r"shape \(3, 1, 3\); the potential needs"),
        (MASSES, X, X[:2], r"velocities of the same shape and 2 masses; these have shapes \(2, 2, 3\) and \(2,\)"),
        (MASSES[:1], X, X, r"and 2 masses; these have shapes \(3, 2, 3\) and \(1,\)"),
        (torch.tensor([1.0, 0.0]), X, X, r"Atom 1 has mass 0\.0 amu"),
        (torch.tensor([math.nan, 1.0]), X, X, "Atom 0 has mass nan amu"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    masses: Tensor, positions: Tensor, velocities: Tensor, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_start(Linear(2, 0.0), masses, positions, velocities)


@pytest.mark.parametrize("what", ["position", "velocity"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_start_that_is_not_finite_is_named(what: str, value: float) -> None:
    given = {"position": X.clone(), "velocity": X.clone()}
    given[what][2, 1, 0] = value
    with pytest.raises(ConfigurationError, match=f"The {what} of atom 1 in replica 2 is not finite"):
        check_start(Linear(2, 0.0), MASSES, given["position"], given["velocity"])


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ("forces", "the force on atom 1{}"),
        ("positions", "the position of atom 1{}"),
        ("velocities", "the velocity of atom 1{}"),
    ],
)
@pytest.mark.parametrize("topology", [None, TOPOLOGY])
def test_what_is_not_finite_is_named(field: str, where: str, topology: Topology | None) -> None:
    good = state(0.25)
    require_finite(good, topology)
    values = getattr(good, field).clone()
    values[2, 1, 0] = math.nan
    bad = replace(good, **{field: values}, potential_energy=torch.tensor([0.0, 0.0, math.nan]))
    named = where.format(r" \(MOL5-O1\)" if topology else "")
    with pytest.raises(
        SimulationError, match=f"^At 0.25 ps {named} in replica 2 is not finite. Use a smaller time step"
    ):
        require_finite(bad, topology)


def test_an_energy_alone_that_is_not_finite_is_named() -> None:
    bad = replace(state(), potential_energy=torch.tensor([0.0, math.inf, 0.0]))
    with pytest.raises(SimulationError, match="At 0 ps the energy in replica 1 is not finite"):
        require_finite(bad)


def later(before: State, n_steps: int) -> State:
    return state(before.time + n_steps)


@pytest.mark.parametrize(
    ("n_steps", "expected"), [(0, [0]), (2, [0, 2]), (3, [0, 3]), (7, [0, 3, 6, 7]), (9, [0, 3, 6, 9])]
)
def test_every_report_is_recorded_and_the_last_step(n_steps: int, expected: list[int]) -> None:
    seen: list[tuple[int, float]] = []
    settings = DynamicsSettings(n_steps, report_every=3)
    found = record(state(), later, settings, lambda done, at: seen.append((done, at.time)))
    assert seen == [(step, step) for step in expected]
    assert found.times.tolist() == expected
    assert found.positions.shape == found.velocities.shape == (len(expected), 3, 2, 3)
    assert found.positions[:, 0, 0, 0].tolist() == expected
    assert bool((found.velocities == 2).all())
    assert found.potential_energy[:, 0].tolist() == expected
    # three components of 2 nm/ps, 28 amu
    assert bool((found.kinetic_energy == 0.5 * 28 * 12).all())
    assert torch.equal(found.total_energy, found.potential_energy + 168)
    assert torch.equal(record(state(), later, settings).times, found.times)


def test_a_run_ends_at_values_that_are_not_finite() -> None:
    def breaks(before: State, n_steps: int) -> State:
        after = later(before, n_steps)
        return after if after.time < 4 else replace(after, forces=after.forces * math.nan)

    seen: list[int] = []
    with pytest.raises(SimulationError, match=r"At 6 ps the force on atom 0 \(MOL1-C1\) in replica 0"):
        record(state(), breaks, DynamicsSettings(9, report_every=3), lambda done, _: seen.append(done), TOPOLOGY)
    assert seen == [0, 3]
    with pytest.raises(SimulationError, match="At 5 ps"):
        record(breaks(state(), 5), later, DynamicsSettings(0))
