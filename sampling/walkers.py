"""One walker of a simulation: relaxed, warmed up, and advanced by rounds, with jumps and exchanges of temperatures.

Everything random follows from the seed, the walker and the number of the round, so that a walker's path depends neither
on the number of processes nor on where a simulation was interrupted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from ..core.descent import descend
from ..core.engine import DynamicsSettings, Engine
from ..core.errors import SimulationError
from ..core.integrator import maxwell_boltzmann
from ..core.jumps import Jumps
from ..core.potential import Potential
from ..core.units import thermal_energy

RELAXATION_STEPS = 300


@dataclass(frozen=True)
class Protocol:
    """How a walker moves.

    Attributes:
        temperatures: K; the first one, and a ladder for exchanges above it.
        timestep: ps.
        friction: 1/ps.
        frame_steps: Steps between frames.
        round_frames: Frames in a round; after each round neighbouring temperatures may exchange positions.
        warm_up_steps: Steps at the temperature of each replica before the first round.
        start_temperature: K; before that, so that walkers begin in different conformations; 0 for none.
        start_steps: Steps at that temperature.
        seed: Seed of the random numbers.
        jumps: Jumps that are attempted after each round at the first temperature.
        n_kept: Number of temperatures at which frames are kept, from the first one on.
    """

    temperatures: tuple[float, ...]
    timestep: float
    friction: float
    frame_steps: int
    round_frames: int
    warm_up_steps: int
    start_temperature: float
    start_steps: int
    seed: int
    jumps: int = 0
    n_kept: int = 1


@dataclass(frozen=True)
class Walker:
    """Where a walker is: one replica for each temperature.

    Attributes:
        index: Number of the walker.
        rounds: Rounds done.
        positions: nm.
        velocities: nm/ps.
        attempted: Exchanges attempted between each temperature and the next.
        accepted: Exchanges accepted.
        jumps: Jumps attempted, and accepted.
    """

    index: int
    rounds: int
    positions: Float[ndarray, "replicas atoms 3"]
    velocities: Float[ndarray, "replicas atoms 3"]
    attempted: Int[ndarray, "pairs"]
    accepted: Int[ndarray, "pairs"]
    jumps: Int[ndarray, "2"]


@dataclass(frozen=True)
class Found:
    """Frames at one temperature.

    Attributes:
        positions: nm, float32 as they are stored.
        energies: kJ/mol, of exactly these positions.
        forces: kJ/mol/nm, of exactly these positions.
    """

    positions: Float[ndarray, "frames atoms 3"]
    energies: Float[ndarray, "frames"]
    forces: Float[ndarray, "frames atoms 3"]


def start_walker(
    index: int,
    potential: Potential,
    engine: Engine,
    masses: Float[Tensor, "atoms"],
    positions: Float[ndarray, "atoms 3"],
    protocol: Protocol,
) -> Walker:
    """Relax a structure (nm), and bring a replica of it to each temperature.

    Raises:
        SimulationError: If the dynamics is unstable.
    """
    relaxed = relax(potential, positions)
    places, speeds = [], []
    for replica, temperature in enumerate(protocol.temperatures):
        noise = torch.Generator().manual_seed(_seed(protocol, index, 0, replica, 1))
        x, v = relaxed[None], maxwell_boltzmann(masses.double(), 1, temperature, noise).numpy()
        for stage, (kelvin, n_steps) in enumerate(
            [(protocol.start_temperature, protocol.start_steps), (temperature, protocol.warm_up_steps)]
        ):
            if kelvin > 0 and n_steps > 0:
                run = _dynamics(protocol, kelvin, n_steps, n_steps, _seed(protocol, index, 0, replica, 2 + stage))
                trajectory = _run(engine, potential, masses, x, v, run, index)
                x, v = trajectory.positions[-1].numpy(), trajectory.velocities[-1].numpy()
        places.append(x[0])
        speeds.append(v[0])
    n_pairs = len(protocol.temperatures) - 1
    zeros = np.zeros(n_pairs, dtype=np.int64)
    return Walker(index, 0, np.stack(places), np.stack(speeds), zeros, zeros, np.zeros(2, dtype=np.int64))


def advance_walker(
    walker: Walker,
    n_rounds: int,
    potential: Potential,
    engine: Engine,
    masses: Float[Tensor, "atoms"],
    protocol: Protocol,
    jumps: Jumps | None = None,
) -> tuple[Walker, list[Found]]:
    """Advance a walker by rounds, and collect the frames at each temperature at which they are kept.

    Args:
        walker: Where to start.
        n_rounds: How far to go.
        potential: The force field.
        engine: What runs the dynamics.
        masses: amu.
        protocol: How to move.
        jumps: Attempted after each round at the first temperature, if there are any.

    Raises:
        SimulationError: If the dynamics is unstable.
    """
    kept: list[list[Tensor]] = [[] for _ in range(protocol.n_kept)]
    n_steps = protocol.round_frames * protocol.frame_steps
    for _ in range(n_rounds):
        places, speeds, energies = [], [], []
        for replica, temperature in enumerate(protocol.temperatures):
            seed = _seed(protocol, walker.index, 1 + walker.rounds, replica, 0)
            every = protocol.frame_steps if replica < protocol.n_kept else n_steps
            run = _dynamics(protocol, temperature, n_steps, every, seed)
            x, v = walker.positions[replica, None], walker.velocities[replica, None]
            trajectory = _run(engine, potential, masses, x, v, run, walker.index)
            if replica < protocol.n_kept:
                # the first frame is the last one of the round before
                kept[replica].append(trajectory.positions[1:, 0].float())
            places.append(trajectory.positions[-1, 0].numpy())
            speeds.append(trajectory.velocities[-1, 0].numpy())
            energies.append(float(trajectory.potential_energy[-1, 0]))
        walker = replace(walker, rounds=walker.rounds + 1, positions=np.stack(places), velocities=np.stack(speeds))
        if jumps is not None:
            walker, energies[0] = _jump(walker, energies[0], potential, protocol, jumps)
        walker = exchange(walker, np.array(energies), protocol)
    return walker, [_found(potential, torch.cat(positions)) for positions in kept]


def _found(potential: Potential, positions: Float[Tensor, "frames atoms 3"]) -> Found:
    energy, forces = potential.energy_and_forces(positions.double())
    return Found(positions.numpy(), energy.cpu().numpy(), forces.float().cpu().numpy())


def _jump(
    walker: Walker, energy: float, potential: Potential, protocol: Protocol, jumps: Jumps
) -> tuple[Walker, float]:
    """The walker after some jumps at the first temperature, and its energy (kJ/mol) there."""
    noise = torch.Generator().manual_seed(_seed(protocol, walker.index, walker.rounds, 0, 5))

    def energies(x: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return potential.energy_and_forces(x)[0]

    here = torch.from_numpy(walker.positions[0])
    found = jumps.attempt(here, energy, energies, noise, protocol.jumps)
    places = np.concatenate([found.positions.numpy()[None], walker.positions[1:]])
    counts = walker.jumps + np.array([protocol.jumps, found.accepted])
    return replace(walker, positions=places, jumps=counts), found.energy


def exchange(walker: Walker, energies: Float[ndarray, "replicas"], protocol: Protocol) -> Walker:
    r"""Exchange the positions of every second pair of neighbouring temperatures, by Metropolis' criterion.

    .. math:: P = \min\left(1, \exp\left[(\beta_i - \beta_j)(U_i - U_j)\right]\right)

    Velocities go with the positions, scaled by the square root of the ratio of temperatures.

    Args:
        walker: After a round.
        energies: Potential energy of each replica, kJ/mol.
        protocol: Names the temperatures.

    Reference: Sugita, Okamoto, Chem. Phys. Lett. 314, 141 (1999).
    """
    temperatures = protocol.temperatures
    rng = np.random.default_rng(_seed(protocol, walker.index, walker.rounds, 0, 4))
    order = np.arange(len(temperatures))
    attempted, accepted = walker.attempted.copy(), walker.accepted.copy()
    for low in range(walker.rounds % 2, len(temperatures) - 1, 2):
        difference = 1 / thermal_energy(temperatures[low]) - 1 / thermal_energy(temperatures[low + 1])
        exponent = difference * (energies[low] - energies[low + 1])
        attempted[low] += 1
        if rng.random() < math.exp(min(0.0, exponent)):
            accepted[low] += 1
            order[[low, low + 1]] = order[[low + 1, low]]
    scale = np.sqrt(np.array(temperatures) / np.array(temperatures)[order])[:, None, None]
    return replace(
        walker,
        positions=walker.positions[order],
        velocities=walker.velocities[order] * scale,
        attempted=attempted,
        accepted=accepted,
    )


def relax(potential: Potential, positions: Float[ndarray, "atoms 3"]) -> Float[ndarray, "atoms 3"]:
    """Positions (nm) after some steps down the gradient, so that a strained structure does not explode."""
    x = torch.from_numpy(np.asarray(positions, dtype=np.float64))[None]
    return descend(potential, x, RELAXATION_STEPS)[0].numpy()


def _dynamics(protocol: Protocol, temperature: float, n_steps: int, every: int, seed: int) -> DynamicsSettings:
    return DynamicsSettings(
        n_steps, protocol.timestep, "nvt", temperature, protocol.friction, report_every=every, seed=seed
    )


def _run(
    engine: Engine,
    potential: Potential,
    masses: Float[Tensor, "atoms"],
    positions: Float[ndarray, "1 atoms 3"],
    velocities: Float[ndarray, "1 atoms 3"],
    settings: DynamicsSettings,
    index: int,
) -> Any:
    x, v = (torch.from_numpy(np.ascontiguousarray(values)) for values in (positions, velocities))
    try:
        return engine.run(potential, masses.double(), x, v, settings)
    except SimulationError as error:
        raise SimulationError(f"Walker {index} at {settings.temperature} K: {error}") from error


def _seed(protocol: Protocol, *numbers: int) -> int:
    return int(np.random.SeedSequence((protocol.seed, *numbers)).generate_state(1)[0] % (2**31 - 1))
