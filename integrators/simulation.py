"""Molecular dynamics with our own integrators: all replicas at once, on any device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import DynamicsSettings, Engine, OnReport, Trajectory, check_start, record, require_finite
from ..core.errors import SimulationError, SmoothflowError
from ..core.integrator import Integrator, State
from ..core.plugins import hookimpl
from ..core.potential import Potential
from .langevin import Langevin
from .velocity_verlet import VelocityVerlet


def simulate(
    potential: Potential,
    integrator: Integrator,
    start: State,
    settings: DynamicsSettings,
    on_report: OnReport | None = None,
) -> Trajectory:
    """Run any integrator with any potential.

    Args:
        potential: Gives energies and forces of all replicas at once.
        integrator: Makes the steps; its time step is the one that counts.
        start: Frame 0.
        settings: Number of steps, and how often to record.
        on_report: Sees the number of steps done and the state at each recorded frame; what it raises ends the run.

    Raises:
        SimulationError: If an energy or a force is not finite, or the potential refuses a configuration; the message
            names replica, atom and time.
    """

    def advance(state: State, n_steps: int) -> State:
        for _ in range(n_steps):
            try:
                state = integrator.step(potential, state)
            except SmoothflowError as error:
                time = state.time + integrator.timestep
                raise SimulationError(f"At {time:.6g} ps the potential cannot be computed. {error}") from error
            require_finite(state, potential.topology)
        return state

    return record(start, advance, settings, on_report, potential.topology)


class VerletEngine(Engine):
    """Our own velocity Verlet (``nve``) and BAOAB Langevin (``nvt``), in the precision and on the device given."""

    name = "verlet"
    thermostat = "Langevin, BAOAB"

    def run(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
        on_report: OnReport | None = None,
    ) -> Trajectory:
        check_start(potential, masses, positions, velocities)
        integrator: Integrator
        if settings.ensemble == "nve":
            integrator = VelocityVerlet(settings.timestep)
        else:
            generator = torch.Generator(positions.device).manual_seed(settings.seed)
            integrator = Langevin(settings.timestep, settings.temperature, settings.friction, generator)
        # masses in float64 would turn a float32 run into float64 from the second step on
        start = State.start(potential, positions, velocities.to(positions), masses.to(positions))
        return simulate(potential, integrator, start, settings, on_report)


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    return {VerletEngine.name: VerletEngine}
