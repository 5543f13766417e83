"""Molecular dynamics in TorchSim with any potential."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ....core.engine import Advance, DynamicsSettings, Engine
from ....core.errors import ConfigurationError, SimulationError, SmoothflowError
from ....core.integrator import State
from ....core.optional import import_optional
from ....core.potential import Potential
from ....core.units import ANGSTROM, ELECTRONVOLT, ELECTRONVOLT_TIME, thermal_energy
from ....molecules.elements import atomic_numbers


def import_torch_sim(feature: str) -> Any:
    """The package ``torch_sim``, 0.6 or newer.

    Raises:
        MissingDependencyError: If it is not installed.
        ConfigurationError: If it is too old, as what pip installs for Python 3.11 is.
    """
    with suppress(PackageNotFoundError):
        found = version("torch-sim-atomistic")
        if tuple(map(int, found.split(".")[:2])) < (0, 6):
            raise ConfigurationError(
                f"{feature} needs TorchSim 0.6 or newer, and this one is {found}. In Python 3.12 or newer: "
                "pip install 'smoothflow[torchsim]'."
            )
    return import_optional("torch_sim", f"{feature}, with Python 3.12 or newer,", "torchsim")


class TorchSimEngine(Engine):
    """TorchSim's velocity Verlet (``nve``) and BAOAB Langevin (``nvt``), all replicas at once.

    Results are in the precision and on the device of the potential.
    """

    name = "torchsim"

    def begin(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
    ) -> Advance:
        torch_sim = import_torch_sim("The engine torchsim")
        from .model import TorchSimModel

        masses, positions, velocities = (
            x.detach().to(potential.device, potential.dtype) for x in (masses, positions, velocities)
        )
        model = TorchSimModel(potential)
        shape = positions.shape

        def step(md: Any) -> Any:
            timestep = settings.timestep / ELECTRONVOLT_TIME
            if settings.ensemble == "nve":
                return torch_sim.nve_step(md, model, dt=timestep)
            return torch_sim.nvt_langevin_step(
                md,
                model,
                dt=timestep,
                kT=thermal_energy(settings.temperature) / ELECTRONVOLT,
                gamma=settings.friction * ELECTRONVOLT_TIME,
            )

        md = _start(torch_sim, model, masses, positions, velocities, settings.seed)

        done = 0

        def advance(n_steps: int) -> State:
            nonlocal md, done
            try:
                for _ in range(n_steps):
                    done += 1
                    md = step(md)
            except SmoothflowError as error:
                reason = str(error).replace("In system", "In replica")  # replicas are TorchSim's systems
                raise SimulationError(f"TorchSim stopped at {done * settings.timestep:.6g} ps. {reason}") from error
            return State(
                md.positions.reshape(shape) * ANGSTROM,
                md.momenta.reshape(shape) * (ANGSTROM / ELECTRONVOLT_TIME) / masses[:, None],
                md.forces.reshape(shape) * (ELECTRONVOLT / ANGSTROM),
                md.energy * ELECTRONVOLT,
                masses,
                done * settings.timestep,
            )

        return advance


def _start(
    torch_sim: Any,
    model: Any,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "replicas atoms 3"],
    velocities: Float[Tensor, "replicas atoms 3"],
    seed: int,
) -> Any:
    """TorchSim's state of all replicas, with energies and forces."""
    n_replicas, n_atoms = positions.shape[:2]
    topology = model.potential.topology
    numbers = torch.tensor(atomic_numbers(topology) if topology is not None else [1] * n_atoms, device=masses.device)
    state = torch_sim.SimState(
        positions=positions.reshape(-1, 3) / ANGSTROM,
        masses=masses.repeat(n_replicas),
        cell=torch.eye(3).to(positions).repeat(n_replicas, 1, 1),
        pbc=False,
        atomic_numbers=numbers.repeat(n_replicas),
        system_idx=torch.arange(n_replicas, device=masses.device).repeat_interleave(n_atoms),
    )
    state.rng = seed
    found = model(state)
    momenta = (masses[:, None] * velocities).reshape(-1, 3) * (ELECTRONVOLT_TIME / ANGSTROM)
    return torch_sim.integrators.MDState.from_state(
        state, momenta=momenta, energy=found["energy"], forces=found["forces"]
    )
