"""Velocity Verlet against the exact solution of its own difference equation."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from closed_forms import HarmonicWell
from smoothflow.core.integrator import State
from smoothflow.integrators.velocity_verlet import VelocityVerlet

F64 = torch.float64


def start(n_replicas: int = 3) -> tuple[HarmonicWell, State]:
    generator = torch.Generator().manual_seed(0)
    masses = torch.tensor([1.0, 12.0, 16.0, 35.0], dtype=F64)
    potential = HarmonicWell(4, torch.tensor([3e5, 2e5, 1e4, 5.0], dtype=F64))
    positions, velocities = torch.randn(2, n_replicas, 4, 3, generator=generator, dtype=F64)
    return potential, State.start(potential, 0.01 * positions, velocities, masses)


def test_harmonic_oscillator_follows_the_exact_discrete_solution() -> None:
    potential, state = start()
    dt, n_steps = 0.0005, 400
    x0, v0 = state.positions, state.velocities
    integrator = VelocityVerlet(dt)
    for _ in range(n_steps):
        state = integrator.step(potential, state)
    # x_n = x0 cos(n theta) + v0 sin(n theta) / omega', with sin(theta / 2) = omega dt / 2 and the frequency of the
    # discrete oscillator omega' = omega sqrt(1 - (omega dt)^2 / 4)
    omega = (potential.stiffness / state.masses[:, None]).sqrt()
    theta = 2 * torch.asin(omega * dt / 2)
    discrete = omega * (1 - (omega * dt) ** 2 / 4).sqrt()
    x = x0 * (n_steps * theta).cos() + v0 / discrete * (n_steps * theta).sin()
    v = v0 * (n_steps * theta).cos() - x0 * discrete * (n_steps * theta).sin()
    # rounding of 400 steps
    torch.testing.assert_close(state.positions, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.velocities, v, rtol=0, atol=1e-10)
    assert state.time == pytest.approx(n_steps * dt, rel=1e-12)


def test_motion_is_reversed_by_reversed_velocities() -> None:
    potential, first = start()
    integrator = VelocityVerlet(0.0005)
    state = first
    for _ in range(100):
        state = integrator.step(potential, state)
    state = State.start(potential, state.positions, -state.velocities, state.masses)
    for _ in range(100):
        state = integrator.step(potential, state)
    torch.testing.assert_close(state.positions, first.positions, rtol=0, atol=1e-13)  # rounding of 200 steps


def test_energy_error_is_of_second_order_in_the_time_step() -> None:
    fluctuations = []
    for dt, n_steps in ((0.0004, 500), (0.0002, 1000), (0.0001, 2000)):
        potential, state = start(n_replicas=1)
        integrator = VelocityVerlet(dt)
        energies = []
        for _ in range(n_steps):
            state = integrator.step(potential, state)
            energies.append(state.total_energy)
        fluctuations.append(torch.stack(energies).std().item())
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(fluctuations)]
    assert slopes == pytest.approx([2, 2], abs=0.1)  # (omega dt)^2 < 0.05 is the next order


def test_a_step_evaluates_the_forces_once() -> None:
    potential, state = start()
    potential.n_evaluations = 0
    VelocityVerlet(0.0005).step(potential, state)
    assert potential.n_evaluations == 1
