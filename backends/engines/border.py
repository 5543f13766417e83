"""Between our potentials and programs that speak NumPy, one configuration at a time, in float64."""

from __future__ import annotations

import importlib
import itertools
import math
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...core.errors import ConfigurationError, GeometryError, MissingDependencyError, SimulationError
from ...core.external import attach_forces
from ...core.potential import Potential
from ...core.topology import Topology


def import_optional(module: str, feature: str, extra: str) -> Any:
    """A module of an optional package.

    Raises:
        MissingDependencyError: If the package is not installed; says which extra has it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is not None and error.name.partition(".")[0] != package:
            raise
        raise MissingDependencyError(feature, package, extra) from error


def atom_name(topology: Topology | None, atom: int) -> str:
    """How errors call an atom."""
    return f"atom {atom}" if topology is None else f"atom {atom} ({topology.atoms[atom]})"


def evaluate(
    potential: Potential, positions: Float[np.ndarray, "atoms 3"]
) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
    """Energy in kJ/mol and forces in kJ/mol/nm, float64, of one configuration in nm.

    The potential computes in the precision and on the device of its own parameters.

    Raises:
        ConfigurationError: If the number of atoms is not the potential's.
        SimulationError: If the energy or a force is not finite.
    """
    if positions.shape != tuple(potential.shape):
        raise ConfigurationError(
            f"The potential is one of {potential.shape[0]} atoms and was given {positions.shape[0]}. "
            "Use it with the molecule that it was made for."
        )
    dtype, device = working_type(potential)
    energy, forces = potential.energy_and_forces(torch.tensor(positions, dtype=dtype, device=device)[None])
    value = energy.item()
    array = forces[0].to("cpu", torch.float64).numpy()
    if not (math.isfinite(value) and np.isfinite(array).all()):
        bad = np.argwhere(~np.isfinite(array))
        where = f"the force on {atom_name(potential.topology, int(bad[0, 0]))}" if len(bad) else "the energy"
        raise SimulationError(
            f"In this configuration {where} is not finite. "
            "Use a smaller time step, or start from positions closer to those that the potential was made for."
        )
    return value, array


def working_type(potential: Potential) -> tuple[torch.dtype, torch.device]:
    """The precision and device of a potential's parameters or buffers; float64 on the CPU if it has none."""
    for tensor in itertools.chain(potential.parameters(), potential.buffers()):
        if tensor.is_floating_point():
            return tensor.dtype, tensor.device
    return torch.float64, torch.device("cpu")


class ExternalPotential(Potential):
    """A potential that another program computes; differentiable once, through the program's own forces.

    Args:
        topology: The molecule.
    """

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self.topology: Topology = topology
        self.shape = (len(topology), 3)

    @abstractmethod
    def evaluate(self, positions: Float[np.ndarray, "atoms 3"]) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        """Energy in kJ/mol and forces in kJ/mol/nm of one configuration in nm."""

    def energy_and_forces(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]:
        if tuple(positions.shape[1:]) != self.shape:
            raise ConfigurationError(
                f"The positions have shape {tuple(positions.shape)}; the potential needs (batch, {self.shape[0]}, 3)."
            )
        array = positions.detach().to("cpu", torch.float64).numpy()
        bad = np.argwhere(~np.isfinite(array))
        if len(bad):
            configuration, atom = int(bad[0, 0]), int(bad[0, 1])
            where = f"In configuration {configuration} the" if len(array) > 1 else "The"
            raise GeometryError(
                f"{where} position of {atom_name(self.topology, atom)} is not finite. Leave such configurations out."
            )
        energies, forces = np.empty(len(array)), np.empty_like(array)
        for i, configuration in enumerate(array):
            energies[i], forces[i] = self.evaluate(configuration)
        return torch.from_numpy(energies).to(positions), torch.from_numpy(forces).to(positions)

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return attach_forces(positions, *self.energy_and_forces(positions))
