"""Any potential as a TorchSim model; imported only where TorchSim is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch_sim.models.interface import ModelInterface

from ....core.errors import ConfigurationError, GeometryError, SimulationError
from ....core.finite import first_not_finite
from ....core.potential import Potential, unchecked
from ....core.topology import atom_name
from ....core.units import ANGSTROM, ELECTRONVOLT
from ....molecules.elements import symbol_of
from ..bridge import JUMP, require_molecular


class TorchSimModel(ModelInterface):  # type: ignore[misc]  # TorchSim is not installed with Python 3.11
    """A potential as a TorchSim model: energies and forces of all systems in one evaluation, in eV and eV/Å.

    Every system of a state must be the potential's molecule. There is no stress: the molecule is in free space.

    Args:
        potential: Any molecular potential; it computes in its own precision on its own device.

    Raises:
        ConfigurationError: If the potential is not a molecule's; when called, if a periodic boundary is on.
        TopologyError: When called, if number, elements or order of a system's atoms are not the potential's.
        GeometryError: When called, if a system that is new is in a wrong unit or order, torn, or another isomer.
        SimulationError: When called, if an energy or a force is not finite.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        require_molecular(potential, "TorchSim")
        self.potential = potential
        self._dtype, self._device = potential.dtype, potential.device
        self._last: Tensor | None = None
        self._compute_stress = False
        self._compute_forces = True
        self._memory_scales_with = "n_atoms"

    def forward(self, state: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Energies (eV) and forces (eV/Å) of a ``SimState``."""
        if bool(state.pbc.any()):
            raise ConfigurationError(
                "Periodic boundaries are on, but the potential is that of a molecule in free space. Set state.pbc = "
                "False."
            )
        self._require_atoms(state)
        positions = state.positions.to(self._device, self._dtype).reshape(-1, *self.potential.shape) * ANGSTROM
        self._require_configurations(positions.detach())
        energy, forces = unchecked(self.potential, "energy_and_forces")(positions)
        if not bool(torch.isfinite(energy.sum() + forces.sum())):
            bad = first_not_finite(forces)
            system, *_ = bad or first_not_finite(energy) or (0,)
            atom = atom_name(self.potential.topology, bad[1]) if bad is not None else ""
            what = f"the force on {atom}" if atom else "the energy"
            raise SimulationError(
                f"In system {system} {what} is not finite. Use a smaller time step, or start from positions closer to "
                "those that the potential was made for."
            )
        return {
            "energy": (energy / ELECTRONVOLT).to(state.positions),
            "forces": (forces * (ANGSTROM / ELECTRONVOLT)).reshape(-1, 3).to(state.positions),
        }

    def _require_configurations(self, positions: Tensor) -> None:
        """Check configurations (nm) in which an atom has jumped since the last call: they are new."""
        last = self._last if self._last is not None and self._last.shape == positions.shape else None
        if last is None or not bool((positions - last).abs().max() < JUMP):
            for system, configuration in enumerate(positions.to("cpu", torch.float64).numpy()):
                try:
                    self.potential.require_configuration(configuration)
                except GeometryError as error:
                    raise GeometryError(f"In system {system}: {error}") from error
        self._last = positions

    def _require_atoms(self, state: Any) -> None:
        counts = torch.bincount(state.system_idx)
        wrong = (counts != self.potential.shape[0]).nonzero()
        if len(wrong):
            system = int(wrong[0])
            raise ConfigurationError(
                f"The potential has {self.potential.shape[0]} atoms and system {system} has {int(counts[system])}. "
                "Use the molecule that it was made for."
            )
        if self.potential.topology is not None:
            for system, numbers in enumerate(state.atomic_numbers.reshape(len(counts), -1).tolist()):
                found = tuple(symbol_of(number) for number in numbers)
                self.potential.topology.require_elements(found, "the potential", f"system {system}")
