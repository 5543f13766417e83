"""Energy conservation of molecular dynamics, and the curvature of the energy that decides it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import Trajectory
from ..core.errors import ConfigurationError
from ..core.potential import Potential
from .estimates import Estimate, mean_of_independent

FINITE_DIFFERENCE_STEP = 1e-5
"""Displacement for finite differences of forces, nm; float64 loses about six of its digits there."""


@dataclass(frozen=True)
class EnergyConservation:
    """Conservation of total energy in one set of NVE runs; each error is that of the mean over replicas.

    Attributes:
        std_per_dof: Standard deviation of the total energy over a run, divided by the 3n - 6 internal degrees of
            freedom, kJ/mol.
        abs_drift: Absolute value of the linear drift of the total energy, kJ/mol/ps.
        drift: The same with its sign, kJ/mol/ps.
        duration: ps.
    """

    std_per_dof: Estimate
    abs_drift: Estimate
    drift: Estimate
    duration: float


def energy_conservation(trajectory: Trajectory) -> EnergyConservation:
    r"""Fluctuation and drift of the total energy E of NVE runs.

    .. math:: \frac{\mathrm{std}_t\, E(t)}{3n - 6}, \qquad
              \frac{\sum_t (t - \bar t) E(t)}{\sum_t (t - \bar t)^2}

    Both are raw: the fluctuation contains the drift.

    Raises:
        ConfigurationError: If the trajectory has fewer than three frames or three atoms.
    """
    return conservation_of_series(trajectory.times, trajectory.total_energy, trajectory.positions.shape[-2])


def conservation_of_series(
    times: Float[Tensor, "frames"], total_energy: Float[Tensor, "frames replicas"], n_atoms: int
) -> EnergyConservation:
    """As `energy_conservation`, of times (ps) and total energies (kJ/mol) of a molecule of ``n_atoms``."""
    times = times.double().cpu()
    energy = total_energy.double().cpu()
    if len(times) < 3 or n_atoms < 3:
        raise ConfigurationError(
            f"Energy conservation needs three frames of three atoms or more; got {len(times)} frames of {n_atoms} "
            "atoms. Record more frames."
        )
    centred = (times - times.mean())[:, None]
    slopes = (centred * energy).sum(0) / (centred**2).sum()
    if energy.shape[1] > 1:
        drift, abs_drift = mean_of_independent(slopes), mean_of_independent(slopes.abs())
    else:
        # one replica: the error of the least-squares line
        residuals = energy - energy.mean(0) - centred * slopes
        error = float(((residuals**2).sum() / (len(times) - 2) / (centred**2).sum()).sqrt())
        drift, abs_drift = Estimate(float(slopes), error, 1), Estimate(float(slopes.abs()), error, 1)
    return EnergyConservation(
        std_per_dof=mean_of_independent(energy.std(dim=0) / (3 * n_atoms - 6)),
        abs_drift=abs_drift,
        drift=drift,
        duration=float(times[-1] - times[0]),
    )


def scaling_exponent(timesteps: Sequence[float], fluctuations: Sequence[Estimate]) -> Estimate:
    r"""The exponent a with which the energy fluctuation grows with the time step: 2 for velocity Verlet.

    .. math:: \mathrm{std}\, E \propto (\Delta t)^a

    A line is fitted to the logarithms, weighted by their errors where all have one.

    Args:
        timesteps: ps; at least two different ones.
        fluctuations: Fluctuations of the total energy, one for each time step.
    """
    if len(timesteps) != len(fluctuations) or len(set(timesteps)) < 2:
        raise ConfigurationError(
            f"A scaling exponent needs at least two different time steps and one fluctuation for each; got "
            f"{len(timesteps)} and {len(fluctuations)}."
        )
    x = torch.tensor(timesteps, dtype=torch.float64).log()
    y = torch.tensor([estimate.value for estimate in fluctuations], dtype=torch.float64).log()
    errors = torch.tensor([estimate.error / estimate.value for estimate in fluctuations], dtype=torch.float64)
    known = bool((errors.isfinite() & (errors > 0)).all())
    weights = errors**-2 if known else torch.ones_like(x)
    centred = x - (weights * x).sum() / weights.sum()
    spread = (weights * centred**2).sum()
    slope = (weights * centred * y).sum() / spread
    if known:
        error = float(spread**-0.5)
    elif len(x) > 2:
        residuals = y - y.mean() - slope * centred
        error = float(((residuals**2).sum() / (len(x) - 2) / spread).sqrt())
    else:
        error = math.nan
    return Estimate(float(slope), error, len(x))


def largest_force_gradient(
    potential: Potential,
    positions: Float[Tensor, "batch atoms 3"],
    generator: torch.Generator,
    n_iterations: int = 20,
    step: float = FINITE_DIFFERENCE_STEP,
) -> Float[Tensor, "batch"]:
    r"""The largest curvature of the energy in any direction, kJ/mol/nm^2, at each configuration.

    .. math:: \max_{|v| = 1} |H v|, \qquad H v \approx -\frac{F(x + h v) - F(x - h v)}{2 h}

    Found by power iteration from a random direction, on differences of forces, so that any potential can be probed.
    It converges from below.

    Args:
        potential: Any potential, in float64.
        positions: nm.
        generator: Generator of the first direction.
        n_iterations: Each costs two evaluations of the forces.
        step: h, nm.
    """
    v = torch.randn(positions.shape, generator=generator, dtype=positions.dtype, device=generator.device)
    v = v.to(positions.device)
    size = torch.zeros(len(positions), dtype=positions.dtype, device=positions.device)
    for _ in range(n_iterations):
        v = v / v.flatten(1).norm(dim=-1)[:, None, None]
        ahead = potential.energy_and_forces(positions + step * v)[1]
        behind = potential.energy_and_forces(positions - step * v)[1]
        v = (behind - ahead) / (2 * step)
        size = v.flatten(1).norm(dim=-1)
        # a direction that the energy does not feel has nothing to iterate on
        if not bool((size > 0).all()):
            break
    return size
