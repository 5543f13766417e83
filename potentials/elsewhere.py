"""A potential on a GPU as programs on the CPU see it."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ..core.identity import Geometry
from ..core.potential import Potential, unchecked


class ElsewherePotential(Potential):
    """Computes on the device of a potential, and takes positions and gives energies on the CPU.

    Derivatives of any order that the potential has go through it.

    Args:
        potential: On any device.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        self.topology, self.shape = potential.topology, tuple(potential.shape)
        self.dtype, self.device = potential.dtype, "cpu"

    @property
    def geometry(self) -> Geometry | None:
        """That of the potential."""
        return self.potential.geometry

    def explain(self, positions: Float[Tensor, "1 *shape"]) -> str:
        """What the potential says."""
        return self.potential.explain(positions.to(self.potential.device))

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        energy: Tensor = unchecked(self.potential, "energy")(positions.to(self.potential.device))
        return energy.to(positions.device)

    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        energy, forces = unchecked(self.potential, "energy_and_forces")(positions.to(self.potential.device))
        return energy.to(positions.device), forces.to(positions.device)
