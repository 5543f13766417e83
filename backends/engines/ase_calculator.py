"""Any potential as an ASE calculator; imported only where ASE is."""

from __future__ import annotations

from typing import Any, ClassVar

from ase.calculators.calculator import BaseCalculator

from ...core.errors import ConfigurationError
from ...core.potential import Potential
from ...core.units import ANGSTROM, ELECTRONVOLT
from .border import evaluate


class SmoothflowCalculator(BaseCalculator):  # type: ignore[misc]  # ASE is untyped
    """A potential as an ASE calculator: energy, free energy and forces from one evaluation, in eV and Å.

    >>> atoms.calc = SmoothflowCalculator(potential)

    Args:
        potential: Any molecular potential; float64 ones suit vibrations and optimizers best.

    Raises:
        ConfigurationError: If the potential is no molecule's; when calculating, if a periodic boundary is on.
        TopologyError: When calculating, if number, elements or order of the atoms are not the potential's.
        SimulationError: When calculating, if the energy or a force is not finite.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "free_energy", "forces"]

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        if len(potential.shape) != 2 or potential.shape[1] != 3:
            raise ConfigurationError(f"A potential of shape {potential.shape} is no molecule's; ASE cannot use it.")
        self.potential = potential

    def calculate(self, atoms: Any, properties: list[str], system_changes: list[str]) -> None:
        if atoms.pbc.any():
            raise ConfigurationError(
                "Periodic boundaries are on, but the potential is that of a molecule in free space. "
                "Set atoms.pbc = False."
            )
        if self.potential.topology is not None:
            symbols = tuple(atoms.get_chemical_symbols())
            self.potential.topology.require_elements(symbols, "the potential", "the Atoms object")
        energy, forces = evaluate(self.potential, atoms.get_positions() * ANGSTROM)
        energy /= ELECTRONVOLT
        self.results = {"energy": energy, "free_energy": energy, "forces": forces * (ANGSTROM / ELECTRONVOLT)}
