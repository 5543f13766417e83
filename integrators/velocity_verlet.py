"""Velocity Verlet: Newton's equations of motion, for the nve ensemble."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..core.integrator import Integrator, State
from ..core.plugins import hookimpl
from ..core.potential import Potential, next_forces


class VelocityVerlet(Integrator):
    r"""The velocity Verlet scheme: second order, symplectic and reversible; one force evaluation per step.

    .. math::
        v &\leftarrow v + \tfrac{\Delta t}{2} m^{-1} F(x) \\
        x &\leftarrow x + \Delta t\, v \\
        v &\leftarrow v + \tfrac{\Delta t}{2} m^{-1} F(x)

    Args:
        timestep: ps.

    Reference: Swope, Andersen, Berens, Wilson, J. Chem. Phys. 76, 637 (1982).
    """

    name = "velocity_verlet"

    def __init__(self, timestep: float) -> None:
        self.timestep = timestep

    def propagate(self, potential: Potential, state: State, *noise: Tensor) -> State:
        half_kick = (0.5 * self.timestep / state.masses)[:, None]
        velocities = state.velocities + half_kick * state.forces
        positions = state.positions + self.timestep * velocities
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
    return {VelocityVerlet.name: VelocityVerlet}
