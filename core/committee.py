"""Several potentials of one molecule as one, with how much they disagree."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import ConfigurationError, TopologyError
from .identity import Geometry
from .potential import Potential, next_forces, takes_positions, unchecked
from .topology import Topology


def common_topology(potentials: Sequence[Potential], whole: str) -> Topology | None:
    """The molecule of potentials that make up a whole; None if none of them knows it.

    Raises:
        ConfigurationError: If they are on several devices.
        TopologyError: If they are of different systems.
    """
    shape, topology = potentials[0].shape, None
    for i, potential in enumerate(potentials):
        if potential.shape != shape:
            raise TopologyError(
                f"Potential {i} of a {whole} takes configurations of shape {potential.shape}, and the first one of "
                f"shape {shape}. Give potentials of one system."
            )
        if topology is None:
            topology = potential.topology
        elif potential.topology is not None:
            topology.require_same(potential.topology, "the first potential", f"potential {i} of the {whole}")
    devices = sorted({str(potential.device) for potential in potentials})
    if len(devices) > 1:
        raise ConfigurationError(f"The potentials of a {whole} are on {', '.join(devices)}. Move them to one device.")
    return topology


class CommitteePotential(Potential):
    r"""The mean of several potentials of one molecule, and their spread: what they were not taught, they guess apart.

    .. math::
        U(x) = \frac1K \sum_k U_k(x), \qquad
        s_U^2 = \frac{1}{K-1} \sum_k (U_k - U)^2, \qquad
        s_i^2 = \frac{1}{K-1} \sum_k |F_{k,i} - F_i|^2

    for the energy and for the force on atom i. Energies are compared as they are. Those of flows are
    :math:`-kT \log p` of normalized densities over positions modulo rigid motion: their zeros are the same, and no
    constants are fitted. Other potentials must agree about the zero of the energy, or their spread of energies holds
    the difference; that of forces never does.

    Args:
        potentials: Two or more, of one molecule, on one device and, where they have a temperature, of one temperature.

    Attributes:
        temperature: K; None where the members have none.

    Raises:
        ConfigurationError: If there are fewer than two, one is given twice, or temperatures or devices differ.
        TopologyError: If they are of different molecules.

    Reference: Schran, Brezina, Marsalek, J. Chem. Phys. 153, 104105 (2020), arXiv 2006.01541.
    """

    def __init__(self, potentials: Sequence[Potential]) -> None:
        super().__init__()
        if len(potentials) < 2:
            raise ConfigurationError(f"A committee has two members or more; got {len(potentials)}.")
        if len({id(potential) for potential in potentials}) < len(potentials):
            raise ConfigurationError("One potential is a member of the committee twice. Give each once.")
        self.shape = potentials[0].shape
        self.topology = common_topology(potentials, "committee")
        self.temperature = _common_temperature(potentials)
        self.potentials = nn.ModuleList(potentials)
        self.dtype = functools.reduce(torch.promote_types, (potential.dtype for potential in potentials))
        self.device = potentials[0].device

    def extra_repr(self) -> str:
        return ", ".join(type(member).__name__ for member in self.members)

    @property
    def members(self) -> list[Potential]:
        """The potentials, as they were given."""
        return cast("list[Potential]", list(self.potentials))

    @property
    def geometry(self) -> Geometry | None:
        """That of the first member that knows one."""
        return next((member.geometry for member in self.members if member.geometry is not None), None)

    @takes_positions
    def energies(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch members"]:
        """The energy of each member, kJ/mol; takes positions and raises as `energy` does."""
        found = [unchecked(member, "energy")(positions.to(member.dtype)) for member in self.members]
        return torch.stack([each.to(self.dtype) for each in found], -1)

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        energies: Tensor = unchecked(self, "energies")(positions)
        return energies.mean(-1)

    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        energies, forces = self._of_members(positions)
        return energies.mean(0), forces.mean(0)

    @takes_positions
    def energy_forces_and_spread(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[
        Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"], Float[Tensor, "batch"], Float[Tensor, "batch atoms"]
    ]:
        """Mean energies (kJ/mol) and forces (kJ/mol/nm), and the spread of energies and of each atom's force.

        Takes positions, and raises, as `energy` does; nothing is attached to a graph.
        """
        energies, forces = self._of_members(positions)
        deviations = forces - forces.mean(0)
        spread = (deviations.square().sum((0, -1)) / (len(self.potentials) - 1)).sqrt()
        return energies.mean(0), forces.mean(0), energies.std(0), spread

    def _of_members(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "members batch"], Float[Tensor, "members batch *shape"]]:
        energies, forces = zip(*(next_forces(member, positions) for member in self.members), strict=True)
        return torch.stack(energies), torch.stack(forces)


def _common_temperature(potentials: Sequence[Potential]) -> float | None:
    found = [getattr(potential, "temperature", None) for potential in potentials]
    known = [float(temperature) for temperature in found if temperature is not None]
    if not known:
        return None
    if len(known) < len(found):
        raise ConfigurationError(
            "Some members of the committee are flows, whose densities are normalized, and others are not: their "
            "energies have no common zero. Give flows only, or none."
        )
    for temperature in known[1:]:
        if not math.isclose(temperature, known[0], rel_tol=1e-6):
            raise ConfigurationError(
                f"The members of the committee are for {known[0]:g} and {temperature:g} K. Give models of one "
                "temperature."
            )
    return known[0]
