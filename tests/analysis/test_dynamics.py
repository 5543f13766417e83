"""Energy conservation of synthetic trajectories, and force gradients of harmonic potentials."""

import math

import pytest
import torch
from closed_forms import Quartic
from smoothflow.analysis.dynamics import (
    energy_conservation,
    largest_force_gradient,
    scaling_exponent,
)
from smoothflow.analysis.estimates import Estimate
from smoothflow.core.engine import Trajectory
from smoothflow.core.errors import ConfigurationError

N_ATOMS = 22


def trajectory(total: torch.Tensor, duration: float = 5.0) -> Trajectory:
    """A trajectory with these total energies, half of them kinetic."""
    frames, replicas = total.shape
    still = torch.zeros(frames, replicas, N_ATOMS, 3, dtype=torch.float64)
    times = torch.linspace(0, duration, frames, dtype=torch.float64)
    return Trajectory(times, still, still, total / 2, total / 2)


def test_fluctuation_and_drift_of_lines_and_waves() -> None:
    time = torch.linspace(0, 5, 5001, dtype=torch.float64)[:, None]
    slopes = torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64)
    found = energy_conservation(trajectory(-80 + slopes * (time - 2.5)))
    assert found.drift.value == pytest.approx(0.2 / 3, rel=1e-10)
    assert found.abs_drift.value == pytest.approx(0.2, rel=1e-10)
    assert found.abs_drift.error == pytest.approx(0.1 / math.sqrt(3), rel=1e-10)
    # a line of slope s over 5 ps has a standard deviation of 5 s / sqrt(12), up to one frame in 5001
    assert found.std_per_dof.value == pytest.approx(0.2 * 5 / math.sqrt(12) / 60, rel=1e-3)
    assert found.duration == 5

    wave = energy_conservation(trajectory(3 * torch.cos(2 * math.pi * 40 * time)))
    # whole periods of a wave of amplitude 3, up to one frame in 5001
    assert wave.std_per_dof.value == pytest.approx(3 / math.sqrt(2) / 60, rel=1e-3)
    assert abs(wave.drift.value) < 1e-3
    assert wave.drift.n == 1


def test_error_of_the_drift_of_one_replica() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(1000, 300, generator=generator, dtype=torch.float64)
    found = [energy_conservation(trajectory(noise[:, i : i + 1])).drift for i in range(300)]
    spread = torch.tensor([e.value for e in found]).std().item()
    claimed = sum(e.error for e in found) / 300
    assert claimed == pytest.approx(spread, rel=0.15)  # the spread of 300 is known to 4 %


def test_short_trajectories_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="three frames"):
        energy_conservation(trajectory(torch.zeros(2, 1)))


@pytest.mark.parametrize("relative_error", [0.02, math.nan])
def test_scaling_exponent_of_a_power_law(relative_error: float) -> None:
    timesteps = [0.00025, 0.0005, 0.001]
    std = [Estimate(3e4 * dt**1.97, 3e4 * dt**1.97 * relative_error, 10) for dt in timesteps]
    found = scaling_exponent(timesteps, std)
    assert found.value == pytest.approx(1.97, abs=1e-12)
    if math.isnan(relative_error):
        assert found.error == pytest.approx(0, abs=1e-12)
    else:
        # three equal errors d at -h, 0, h: d / (h sqrt(2)), h = log 2
        assert found.error == pytest.approx(0.02 / math.log(2) / math.sqrt(2), rel=1e-10)


def test_scaling_needs_two_time_steps() -> None:
    with pytest.raises(ConfigurationError, match="two different time steps"):
        scaling_exponent([0.001, 0.001], [Estimate(1.0, 0.1, 3)] * 2)


def test_largest_force_gradient_is_the_largest_eigenvalue() -> None:
    generator = torch.Generator().manual_seed(2)
    basis, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    eigenvalues = torch.tensor([-900.0, 500.0, *range(10)], dtype=torch.float64)
    potential = Quartic(basis @ torch.diag(eigenvalues) @ basis.T)
    positions = 0.1 * torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    found = largest_force_gradient(potential, positions, generator, n_iterations=40)
    # (500 / 900)^80 of the second eigenvector is left; differencing loses 1e-11 / 1e-5
    torch.testing.assert_close(found, torch.full((3,), 900.0, dtype=torch.float64), rtol=1e-6, atol=0)
