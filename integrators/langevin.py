"""Langevin dynamics in the BAOAB splitting, for the nvt ensemble."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..core.integrator import Integrator, State
from ..core.plugins import hookimpl
from ..core.potential import Potential, next_forces
from ..core.units import thermal_energy


class Langevin(Integrator):
    r"""The BAOAB splitting of Langevin dynamics; one force evaluation per step.

    .. math::
        \text{B:}\quad v &\leftarrow v + \tfrac{\Delta t}{2} m^{-1} F(x) \\
        \text{A:}\quad x &\leftarrow x + \tfrac{\Delta t}{2} v \\
        \text{O:}\quad v &\leftarrow e^{-\gamma \Delta t} v + \sqrt{(1 - e^{-2 \gamma \Delta t})\, kT / m}\; \xi \\
        \text{A, B:}\quad &\text{as above}

    Positions are those of OpenMM's LangevinMiddleIntegrator, which takes the two half kicks that meet between two
    steps at once and so keeps velocities half a kick earlier. In a harmonic well the distribution of the positions is
    exact for every stable time step; that of the velocities is too narrow by the factor
    :math:`1 - (\omega \Delta t)^2 / 4`.

    Args:
        timestep: ps.
        temperature: In K.
        friction: 1/ps.
        generator: Source of the noise; on its device the noise is drawn.

    Reference: Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34 (2013).
    """

    name = "langevin"

    def __init__(self, timestep: float, temperature: float, friction: float, generator: torch.Generator) -> None:
        self.timestep = timestep
        self.temperature = temperature
        self.friction = friction
        self.generator = generator

    def draw(self, state: State) -> tuple[Tensor, ...]:
        shape, dtype = state.velocities.shape, state.velocities.dtype
        noise = torch.randn(shape, generator=self.generator, dtype=dtype, device=self.generator.device)
        return (noise.to(state.velocities.device),)

    def propagate(self, potential: Potential, state: State, *noise: Tensor) -> State:
        half_kick = (0.5 * self.timestep / state.masses)[:, None]
        damping = math.exp(-self.friction * self.timestep)
        # expm1 keeps the digits of 1 - exp(-2 gamma dt) when the friction is small
        variance = -math.expm1(-2 * self.friction * self.timestep) * thermal_energy(self.temperature)
        velocities = state.velocities + half_kick * state.forces
        positions = state.positions + 0.5 * self.timestep * velocities
        velocities = damping * velocities + (variance / state.masses)[:, None].sqrt() * noise[0]
        positions = positions + 0.5 * self.timestep * velocities
        energy, forces = next_forces(potential, positions)
        return replace(
            state,
            positions=positions,
            velocities=velocities + half_kick * forces,
            forces=forces,
            potential_energy=energy,
            time=state.time + self.timestep,
        )


@hookimpl
def smoothflow_integrators() -> Mapping[str, type[Integrator]]:
    return {Langevin.name: Langevin}
