"""Molecular dynamics in i-PI with any potential."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....core.engine import DynamicsSettings, Engine, OnReport, Trajectory, check_configurations, check_start, record
from ....core.errors import SimulationError, SmoothflowError
from ....core.integrator import State
from ....core.potential import Potential
from ....core.units import thermal_energy
from ..bridge import import_optional
from .pes import BOHR, HARTREE, PES

ELECTRON_MASS = 1 / 1822.888486209
"""The mass of an electron in amu (CODATA 2018)."""

TIME_UNIT = BOHR * math.sqrt(ELECTRON_MASS / HARTREE)
"""The atomic unit of time in ps, about 2.42e-5."""

INPUT = """
<simulation verbosity='quiet' threading='false'>
  <prng> <seed> {seed} </seed> </prng>
  <ffdirect name='potential'> <pes> dummy </pes> </ffdirect>
  <system>
    {beads}
    <cell> [ 1e6, 0, 0, 0, 1e6, 0, 0, 0, 1e6 ] </cell>
    <forces> <force forcefield='potential'/> </forces>
    <ensemble> <temperature> {temperature!r} </temperature> </ensemble>
    <motion mode='dynamics'>
      <fixcom> False </fixcom>
      <dynamics mode='{ensemble}' splitting='baoab'>
        <timestep> {timestep!r} </timestep>
        <thermostat mode='langevin'> <tau> {tau!r} </tau> </thermostat>
      </dynamics>
    </motion>
  </system>
</simulation>
"""


class IPIEngine(Engine):
    """i-PI's dynamics of one bead: velocity Verlet (``nve``) and BAOAB Langevin (``nvt``).

    i-PI's objects make the steps in this process, without i-PI's main loop: no threads, no sockets, no files. Replicas
    take turns from report to report. Results are float64 on the CPU.
    """

    name = "ipi"
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
        import_optional("ipi", "The engine ipi", "ipi")
        check_start(potential, masses, positions, velocities)
        check_configurations(potential, positions)
        masses, positions, velocities = (x.detach().to("cpu", torch.float64) for x in (masses, positions, velocities))
        seeds = np.random.SeedSequence(settings.seed).generate_state(len(positions))
        systems = [
            _system(potential, masses, x, v, settings, int(seed))
            for x, v, seed in zip(positions, velocities, seeds, strict=True)
        ]

        def advance(time: float, n_steps: int) -> State:
            found = []
            for replica, system in enumerate(systems):
                done = 0
                try:
                    while done < n_steps:
                        system.motion.step()
                        done += 1
                    found.append([np.array(part) for part in _read(system)])
                except SmoothflowError as error:
                    raise SimulationError(
                        f"i-PI stopped in replica {replica} at {time + (done + 1) * settings.timestep:.6g} ps: {error}"
                    ) from error
            x, p, forces, energies = (torch.from_numpy(np.stack(part)) for part in zip(*found, strict=True))
            return State(
                x.reshape(positions.shape) * BOHR,
                p.reshape(positions.shape) * (ELECTRON_MASS * BOHR / TIME_UNIT) / masses[:, None],
                forces.reshape(positions.shape) * (HARTREE / BOHR),
                energies * HARTREE,
                masses,
                time + n_steps * settings.timestep,
            )

        def later(state: State, n_steps: int) -> State:
            return advance(state.time, n_steps)

        return record(advance(0.0, 0), later, settings, on_report, potential.topology)


def _read(system: Any) -> tuple[Any, Any, Any, Any]:
    """Positions, momenta, forces and energy of one bead, atomic units."""
    return system.beads.q[0], system.beads.p[0], system.forces.f[0], system.forces.pot


def _system(
    potential: Potential,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "atoms 3"],
    velocities: Float[Tensor, "atoms 3"],
    settings: DynamicsSettings,
    seed: int,
) -> Any:
    """i-PI's system of one replica, with its forces and its motion."""
    from ipi.engine.beads import Beads
    from ipi.engine.simulation import Simulation
    from ipi.inputs.beads import InputBeads

    beads = Beads(natoms=len(masses), nbeads=1)
    beads.m = masses.numpy() / ELECTRON_MASS
    beads.names = np.array(potential.topology.elements if potential.topology is not None else ["X"] * len(masses))
    given = InputBeads()
    given.store(beads)
    simulation = Simulation.load_from_xml(
        INPUT.format(
            seed=seed,
            beads=given.write("beads"),
            temperature=thermal_energy(settings.temperature) / HARTREE,
            ensemble=settings.ensemble,
            timestep=settings.timestep / TIME_UNIT,
            tau=1 / (settings.friction * TIME_UNIT) if settings.friction else math.inf,
        ),
        read_only=True,  # else i-PI takes over signals and writes files
    )
    simulation.fflist["potential"].driver = PES(potential)
    (system,) = simulation.syslist
    system.beads.m = beads.m  # the text kept fewer digits
    system.beads.q[0] = positions.numpy().ravel() / BOHR
    system.beads.p[0] = (masses[:, None] * velocities).numpy().ravel() * (TIME_UNIT / (ELECTRON_MASS * BOHR))
    return system
