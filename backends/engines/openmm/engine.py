"""Molecular dynamics in OpenMM with any potential."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....core.engine import DynamicsSettings, Engine, OnReport, Trajectory, check_configurations, check_start, record
from ....core.errors import SimulationError
from ....core.integrator import State
from ....core.potential import Potential
from ..bridge import import_optional
from .force import to_openmm_force
from .potential import OpenMMPotential, make_context


class OpenMMEngine(Engine):
    r"""OpenMM's integrators: velocity Verlet (``nve``) and BAOAB Langevin (``nvt``).

    OpenMM's Verlet and LangevinMiddle integrators are leapfrogs: their velocities are half a kick behind,

    .. math:: v_{\mathrm{OpenMM}} = v(t) - \tfrac{\Delta t}{2} m^{-1} F(x(t)).

    Taken off before a stretch of steps and put back after it, the half kick turns them into velocity Verlet and BAOAB,
    whose velocities belong to the instant of the positions.

    A potential that is itself OpenMM's runs natively, on its own platform; any other one through a PythonForce on the
    Reference platform, in float64. Replicas take turns from report to report. Results are float64 on the CPU.
    """

    name = "openmm"
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
        openmm = import_optional("openmm", "The engine openmm", "openmm")
        check_start(potential, masses, positions, velocities)
        check_configurations(potential, positions)
        masses, positions, velocities = (x.detach().to("cpu", torch.float64) for x in (masses, positions, velocities))
        context = _context(openmm, potential, masses, positions, settings)
        half_kick = (0.5 * settings.timestep / masses)[:, None].numpy()

        def advance(state: State, n_steps: int) -> State:
            found = [_advance(openmm, context, half_kick, state, replica, n_steps) for replica in range(len(positions))]
            x, v, forces, energies = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
            return State(x, v, forces, energies, masses, state.time + n_steps * settings.timestep)

        # no forces are known yet, and none are needed to take no step
        start = advance(State(positions, velocities, torch.zeros_like(positions), positions[:, 0, 0], masses, 0.0), 0)
        return record(start, advance, settings, on_report, potential.topology)


def _advance(
    openmm: Any, context: Any, half_kick: Float[np.ndarray, "atoms 1"], state: State, replica: int, n_steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Positions, velocities, forces and energy of one replica a number of steps later."""
    velocities = state.velocities[replica].numpy()
    try:
        context.setPositions(state.positions[replica].numpy())
        if n_steps > 0:
            context.setVelocities(velocities - half_kick * state.forces[replica].numpy())
            context.getIntegrator().step(n_steps)
        found = context.getState(positions=True, velocities=True, energy=True, forces=True)
    except openmm.OpenMMException as error:
        raise SimulationError(
            f"OpenMM stopped in replica {replica} less than {n_steps} steps after {state.time:.6g} ps: {error}"
        ) from error
    forces = found.getForces(asNumpy=True)._value
    if n_steps > 0:
        velocities = found.getVelocities(asNumpy=True)._value + half_kick * forces
    return found.getPositions(asNumpy=True)._value, velocities, forces, np.array(found.getPotentialEnergy()._value)


def _context(
    openmm: Any,
    potential: Potential,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "replicas atoms 3"],
    settings: DynamicsSettings,
) -> Any:
    if isinstance(potential, OpenMMPotential):
        system = openmm.XmlSerializer.clone(potential.system)
        for i, mass in enumerate(masses.tolist()):
            system.setParticleMass(i, mass)
        platform = potential.choose_platform(positions[0].numpy())
    else:
        system = openmm.System()
        for mass in masses.tolist():
            system.addParticle(mass)
        system.addForce(to_openmm_force(potential))
        platform = "Reference"
    if settings.ensemble == "nve":
        integrator = openmm.VerletIntegrator(settings.timestep)
    else:
        integrator = openmm.LangevinMiddleIntegrator(settings.temperature, settings.friction, settings.timestep)
        # OpenMM takes 0 for "choose one"
        integrator.setRandomNumberSeed(settings.seed % (2**31 - 2) + 1)
    return make_context(system, platform, integrator)
