"""The tests of a physical examination, and its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ...core.errors import ConfigurationError

PHYSICS_TESTS = ("forces", "net force", "hessian", "continuity", "minima", "conservation", "order", "thermostat")
"""Names of the tests, in the order in which they run, the cheap ones first."""


@dataclass(frozen=True)
class PhysicsSettings:
    """How a potential is examined; the defaults are the protocol of the paper and of the literature.

    Attributes:
        temperature: Temperature of all dynamics, K.
        n_replicas: Independent copies, all in one batch.
        timestep: ps.
        equilibration: Langevin dynamics before the NVE runs, ps.
        equilibration_friction: Friction of the equilibration, 1/ps.
        production: Duration of the NVE run, ps.
        timesteps: Time steps whose energy fluctuations are compared, ps.
        scaling_duration: Duration of the run at each of them, ps.
        nvt_steps: Steps of the NVT run.
        friction: Friction in the NVT run, 1/ps.
        n_frames: Start frames at which forces and Hessians are examined; the scans begin at the first one.
        seed: Seed of velocities and of the thermostat's noise.

    Raises:
        ConfigurationError: If a value is out of range.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, arXiv 2110.00351.
    """

    temperature: float = 300.0
    n_replicas: int = 10
    timestep: float = 0.001
    equilibration: float = 1.0
    equilibration_friction: float = 10.0
    production: float = 5.0
    timesteps: tuple[float, ...] = (0.000125, 0.00025, 0.0005, 0.001)
    scaling_duration: float = 1.0
    nvt_steps: int = 100_000
    friction: float = 1.0
    n_frames: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not 0 <= number < math.inf or (number == 0 and field.name not in ("equilibration", "seed")):
                    raise ConfigurationError(f"{field.name} is {value}; an examination needs a positive number.")
        shortest = min(self.production, self.scaling_duration)
        if shortest < 3 * max((self.timestep, *self.timesteps)):
            raise ConfigurationError(f"An NVE run of {shortest} ps has less than three steps. Run it longer.")
