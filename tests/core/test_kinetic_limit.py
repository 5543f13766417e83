"""Kinetic energies that no temperature explains end a run."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import Linear
from smoothflow.core.engine import DynamicsSettings, kinetic_limit
from smoothflow.core.errors import SimulationError
from smoothflow.core.plugins import registry
from smoothflow.core.units import thermal_energy

MASSES = torch.full((2,), 12.0, dtype=torch.float64)


@pytest.mark.parametrize("n_atoms", [1, 22, 1000])
def test_the_limit_is_far_beyond_what_a_temperature_gives(n_atoms: int) -> None:
    limit = 2 * kinetic_limit(n_atoms, 300.0) / thermal_energy(300.0)
    # the tail of the chi-squared distribution, by the incomplete gamma function
    half = torch.tensor(1.5 * n_atoms, dtype=torch.float64)
    tail = torch.special.gammaincc(half, torch.tensor(limit / 2, dtype=torch.float64))
    assert float(tail) < math.exp(-100)


@pytest.mark.parametrize("engine", ["native", "openmm"])
def test_a_run_that_falls_is_stopped_by_its_kinetic_energy(engine: str) -> None:
    x = torch.zeros(1, 2, 3, dtype=torch.float64)
    with pytest.raises(SimulationError, match=r"At 0\.05 ps replica 0 has a kinetic energy of .*more than the temp"):
        registry().engine(engine)().run(Linear(2, 1e5), MASSES, x, 0 * x, DynamicsSettings(1000, report_every=50))


def test_a_run_that_starts_hot_is_measured_by_its_own_temperature() -> None:
    x = torch.zeros(1, 2, 3, dtype=torch.float64)
    fast = torch.full_like(x, 50.0)
    registry().engine("native")().run(Linear(2, 0.0), MASSES, x, fast, DynamicsSettings(20))
