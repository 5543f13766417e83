"""A smooth flow conserves energy as a smooth potential must: fluctuations fall with the square of the time step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from smoothflow import FlowPotential, registry
from smoothflow.analysis.dynamics import energy_conservation, scaling_exponent
from smoothflow.coordinates.elements import masses
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.integrator import maxwell_boltzmann

TIMESTEPS = (0.00005, 0.0001, 0.0002)  # ps; the flow is untrained, and stiffer than a trained one


@pytest.mark.slow
def test_fluctuations_of_energy_scale_with_the_square_of_the_time_step(
    make_potential: Callable[[str], FlowPotential],
) -> None:
    potential = make_potential("smooth")
    weights = masses(potential.coordinates.topology)
    generator = torch.Generator().manual_seed(4)
    x, _ = potential.sample(6, generator)
    v = maxwell_boltzmann(weights, 6, 300.0, generator)
    fluctuations = []
    for timestep in TIMESTEPS:
        settings = DynamicsSettings(round(0.04 / timestep), timestep, report_every=round(0.0004 / timestep))
        run = registry().engine("verlet")().run(potential, weights, x, v, settings)
        fluctuations.append(energy_conservation(run).std_per_dof)
    # second order; the bounds leave room for the statistics of six short runs
    assert 1.8 < scaling_exponent(TIMESTEPS, fluctuations).value < 2.2
