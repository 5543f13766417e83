"""Any potential as an ASE calculator; imported only where ASE is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from ase.calculators.calculator import BaseCalculator
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor

from ....core.committee import CommitteePotential
from ....core.errors import ConfigurationError, SimulationError
from ....core.potential import Potential, hessian, unchecked
from ....core.units import ANGSTROM, ELECTRONVOLT
from ....molecules.conversions import topology_from_ase
from ..bridge import Evaluator


class SmoothflowCalculator(BaseCalculator):  # type: ignore[misc]  # ASE is untyped
    """A potential as an ASE calculator: energy, free energy and forces from one evaluation, in eV and Å.

    >>> atoms.calc = SmoothflowCalculator(potential)

    The first configuration of each Atoms object, and any that jumps, is checked: names of the atoms where a file gave
    them, bonds, angles and stereocentres, which show a wrong unit, a wrong order of the atoms or another isomer.

    A committee's spread stands beside: ``results["energy_std"]`` in eV, and ``results["forces_std"]`` in eV/Å, one for
    each atom. With percentiles, ``results["energy_percentile"]`` says where the energy lies among the model's own.

    Args:
        potential: Any molecular potential; float64 ones suit vibrations and optimizers best.
        percentiles: Percentiles of the potential's energies (kJ/mol), as `Familiarity` of a flow gives them.

    Raises:
        ConfigurationError: If the potential is not a molecule's; when calculating, if a periodic boundary is on.
        TopologyError: When calculating, if number, elements or order of the atoms are not the potential's.
        GeometryError: When calculating, if new positions are in a wrong unit or order, torn, or of another isomer.
        SimulationError: When calculating, if the energy or a force is not finite.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(
        self, potential: Potential, percentiles: Callable[[Float[Tensor, "n"]], Float[Tensor, "n"]] | None = None
    ) -> None:
        super().__init__()
        self._percentiles = percentiles
        self._spread: list[Tensor] = []
        self._with_spread = None
        if isinstance(potential, CommitteePotential):
            self._with_spread = unchecked(potential, "energy_forces_and_spread")
        self._evaluator = Evaluator(potential, "ASE", self._with_spread and self._compute)
        self.potential = potential
        elements = () if potential.topology is None else potential.topology.elements
        self._numbers = np.array([atomic_numbers.get(element, -1) for element in elements])

    def _compute(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]:
        """Energies and forces of a committee, whose spread is kept."""
        assert self._with_spread is not None
        energy, forces, *self._spread = self._with_spread(positions)
        return energy, forces

    def calculate(self, atoms: Any, properties: list[str], system_changes: list[str]) -> None:
        kilojoules, forces = self._evaluator(self._positions(atoms))
        energy = kilojoules / ELECTRONVOLT
        self.results = {"energy": energy, "free_energy": energy, "forces": forces * (ANGSTROM / ELECTRONVOLT)}
        if self._spread:
            energy_spread, forces_spread = (each[0].cpu().double().numpy() for each in self._spread)
            self.results["energy_std"] = float(energy_spread) / ELECTRONVOLT
            self.results["forces_std"] = forces_spread * (ANGSTROM / ELECTRONVOLT)
        if self._percentiles is not None:
            self.results["energy_percentile"] = float(self._percentiles(torch.tensor([kilojoules]).double()))

    def get_hessian(self, atoms: Any) -> Float[np.ndarray, "atoms 3 atoms 3"]:
        """Second derivatives of the energy in eV/Å^2, as ``ase.vibrations.VibrationsData`` takes them.

        Raises:
            ConfigurationError: If the potential can be differentiated only once.
            SimulationError: If a second derivative is not finite.
        """
        positions = self._positions(atoms)
        self._evaluator.require(positions)
        second = hessian(self.potential, self._evaluator.as_batch(positions))[0]
        array: Float[np.ndarray, "atoms 3 atoms 3"] = second.cpu().double().numpy() * (ANGSTROM**2 / ELECTRONVOLT)
        if not np.isfinite(array).all():
            raise SimulationError(
                "In this configuration second derivatives of the energy are not finite. Start from positions closer to "
                "those that the potential was made for."
            )
        return array

    def _positions(self, atoms: Any) -> Float[np.ndarray, "atoms 3"]:
        """Positions in nm of atoms that are the potential's."""
        if atoms.pbc.any():
            raise ConfigurationError(
                "Periodic boundaries are on, but the potential is that of a molecule in free space. "
                "Set atoms.pbc = False."
            )
        topology = self.potential.topology
        if topology is not None and not np.array_equal(atoms.numbers, self._numbers):
            topology.require_elements(tuple(atoms.get_chemical_symbols()), "the potential", "the Atoms object")
        positions: Float[np.ndarray, "atoms 3"] = atoms.get_positions() * ANGSTROM
        if topology is not None and self._evaluator.is_new(positions):
            topology.require_same(topology_from_ase(atoms, guess_bonds=False), "the potential", "the Atoms object")
        return positions
