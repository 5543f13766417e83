"""Between our potentials and programs that speak NumPy, one configuration at a time, in float64."""

from __future__ import annotations

import importlib
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

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


def require_molecular(potential: Potential, program: str) -> None:
    """Raise a `ConfigurationError` unless the potential is a molecule's."""
    if len(potential.shape) != 2 or potential.shape[1] != 3:
        raise ConfigurationError(
            f"A potential of shape {tuple(potential.shape)} is no molecule's; {program} cannot use it."
        )


def require_start(potential: Potential, positions: Float[np.ndarray, "atoms 3"]) -> None:
    """What is checked once, at the first configuration (nm) of another program: its number of atoms and its unit.

    Raises:
        ConfigurationError: If the number of atoms is not the potential's.
        GeometryError: If bonded atoms are nowhere near each other: in a wrong unit, order or periodic image.
    """
    _require_shape(potential, positions)
    if potential.topology is not None:
        potential.topology.require_bond_lengths(positions)


def evaluate(
    potential: Potential, positions: Float[np.ndarray, "atoms 3"]
) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
    """Energy in kJ/mol and forces in kJ/mol/nm, float64, of one configuration in nm.

    The potential computes in the precision and on the device of its own parameters.

    Raises:
        ConfigurationError: If the number of atoms is not the potential's.
        SimulationError: If the energy or a force is not finite; says where, as far as the potential can.
    """
    batch = as_batch(potential, positions)
    energy, forces = potential.energy_and_forces(batch)
    value = energy.item()
    array = forces.to("cpu", torch.float64).numpy()[0]
    # one sum: cheap at every step, and the sum of finite numbers of physical size is finite
    if not math.isfinite(value + array.sum()):
        what = _not_finite(potential.topology, positions, array)
        explanation = potential.explain(batch)
        raise SimulationError(
            f"In this configuration {what} is not finite. {explanation}{' ' if explanation else ''}"
            "Use a smaller time step, or start from positions closer to those that the potential was made for."
        )
    return value, array


def as_batch(potential: Potential, positions: Float[np.ndarray, "atoms 3"]) -> Float[Tensor, "1 atoms 3"]:
    """One configuration in the precision and on the device of a potential.

    Raises:
        ConfigurationError: If the number of atoms is not the potential's.
    """
    _require_shape(potential, positions)
    dtype, device = working_type(potential)
    return torch.from_numpy(positions[None]).to(device, dtype)


def _require_shape(potential: Potential, positions: Float[np.ndarray, "atoms 3"]) -> None:
    if positions.shape != tuple(potential.shape):
        raise ConfigurationError(
            f"The potential is one of {potential.shape[0]} atoms and was given {positions.shape[0]}. "
            "Use it with the molecule that it was made for."
        )


def _not_finite(
    topology: Topology | None, positions: Float[np.ndarray, "atoms 3"], forces: Float[np.ndarray, "atoms 3"]
) -> str:
    """What is not finite, at which atom."""
    for what, values in (("position of", positions), ("force on", forces)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            return f"the {what} {atom_name(topology, int(bad[0, 0]))}"
    return "the energy"


def working_type(potential: Potential) -> tuple[torch.dtype, torch.device]:
    """The precision and device of a potential's parameters or buffers; float64 on the CPU if it has none."""
    home = _homes.get(potential)
    if home is None:
        home = _homes[potential] = _find_home(potential)
    tensors, name = home
    tensor = tensors.get(name)
    return (torch.float64, torch.device("cpu")) if tensor is None else (tensor.dtype, tensor.device)


_Home = tuple[Mapping[str, Tensor | None], str]

_homes: WeakKeyDictionary[Potential, _Home] = WeakKeyDictionary()
"""Where each potential's first number is: looking for it at every step would cost as much as OpenMM's own work."""


def _find_home(potential: Potential) -> _Home:
    modules = list(potential.modules())
    stores: list[Mapping[str, Tensor | None]] = [m._parameters for m in modules] + [m._buffers for m in modules]
    for tensors in stores:
        for name, tensor in tensors.items():
            if tensor is not None and tensor.is_floating_point():
                return tensors, name
    return {}, ""


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
