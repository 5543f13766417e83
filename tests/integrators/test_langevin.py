"""BAOAB against its exact stationary distribution in a harmonic well."""

from __future__ import annotations

import math

import pytest
import torch
from closed_forms import HarmonicWell
from smoothflow.core.integrator import State, maxwell_boltzmann
from smoothflow.core.units import thermal_energy
from smoothflow.integrators.langevin import Langevin
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from torch import Tensor

F64 = torch.float64
KT = thermal_energy(300.0)


def after_one_step(x: float, v: float, omega_dt: float, friction: float, temperature: float) -> tuple[Tensor, Tensor]:
    """Positions and velocities of one atom of mass 1 in a well of stiffness 1e4, and always the same noise."""
    potential = HarmonicWell(1, 1e4)
    positions, velocities = torch.full((1, 1, 3), x, dtype=F64), torch.full((1, 1, 3), v, dtype=F64)
    state = State.start(potential, positions, velocities, torch.ones(1, dtype=F64))
    generator = torch.Generator().manual_seed(7)
    integrator = Langevin(omega_dt / 100.0, temperature, friction, generator)
    state = integrator.step(potential, state)
    return state.positions.flatten(), state.velocities.flatten()


@pytest.mark.parametrize("omega_dt", [0.1, 0.8, 1.9])
@pytest.mark.parametrize("friction", [1.0, 100.0])
def test_stationary_covariance_in_a_harmonic_well_is_the_known_one(omega_dt: float, friction: float) -> None:
    # one step is z -> M z + N xi for z = (x, v): read M from two unit vectors at zero temperature, and N from zero
    columns = [torch.stack(after_one_step(x, v, omega_dt, friction, 0.0))[:, 0] for x, v in ((1.0, 0.0), (0.0, 1.0))]
    m = torch.stack(columns, dim=1)
    noise = torch.randn((1, 1, 3), generator=torch.Generator().manual_seed(7), dtype=F64).flatten()
    n = torch.stack(after_one_step(0.0, 0.0, omega_dt, friction, 300.0))[:, :1] / noise[0]
    # Leimkuhler & Matthews: positions exact, velocities narrow by 1 - (omega dt)^2 / 4
    covariance = torch.diag(torch.tensor([KT / 1e4, KT * (1 - omega_dt**2 / 4)], dtype=F64))
    torch.testing.assert_close(m @ covariance @ m.T + n @ n.T, covariance, rtol=1e-11, atol=1e-15)


def test_noise_keeps_a_harmonic_well_at_its_temperature() -> None:
    n_atoms, omega_dt = 20_000, 1.0
    potential = HarmonicWell(n_atoms, 1e4)
    masses = torch.ones(n_atoms, dtype=F64)
    generator = torch.Generator().manual_seed(3)
    state = State.start(potential, torch.zeros(1, n_atoms, 3, dtype=F64), torch.zeros(1, n_atoms, 3, dtype=F64), masses)
    integrator = Langevin(omega_dt / 100.0, 300.0, 50.0, generator)
    for _ in range(100):  # 50 relaxation times
        state = integrator.step(potential, state)
    # the variance of n numbers has relative standard error sqrt(2/n) = 0.6 %; five of them
    assert state.positions.var().item() == pytest.approx(KT / 1e4, rel=0.03)
    assert state.velocities.var().item() == pytest.approx(0.75 * KT, rel=0.03)


def test_without_friction_it_is_velocity_verlet() -> None:
    potential = HarmonicWell(2, 1e4)
    masses = torch.tensor([1.0, 12.0], dtype=F64)
    x, v = torch.randn(2, 1, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    langevin = verlet = State.start(potential, x, v, masses)
    for _ in range(50):
        langevin = Langevin(0.002, 300.0, 0.0, torch.Generator()).step(potential, langevin)
        verlet = VelocityVerlet(0.002).step(potential, verlet)
    torch.testing.assert_close(langevin.positions, verlet.positions, rtol=0, atol=1e-12)  # rounding of 50 steps


def test_start_velocities_are_maxwell_boltzmann() -> None:
    masses = torch.tensor([1.0, 4.0, 16.0], dtype=F64)
    v = maxwell_boltzmann(masses, 40_000, 300.0, torch.Generator().manual_seed(1))
    scaled = v * (masses / KT).sqrt()[:, None]
    n = scaled[:, 0].numel()
    for atom in range(3):
        sample = scaled[:, atom]
        # moments of a standard normal; five standard errors 1/sqrt(n), sqrt(2/n), sqrt(96/n)
        assert sample.mean().item() == pytest.approx(0, abs=5 / math.sqrt(n))
        assert (sample**2).mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / n))
        assert (sample**4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / n))
