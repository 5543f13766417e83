"""Potentials as i-PI's potential-energy surfaces; atomic units on i-PI's side."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from ....core.errors import ConfigurationError
from ....core.plugins import registry
from ....core.potential import Potential
from ....core.topology import Topology, atom_name
from ....core.units import BOHR, HARTREE
from ..bridge import Evaluator


class PES:
    """What i-PI calls for energies and forces.

    Args:
        potential: Any molecular potential.

    Raises:
        ConfigurationError: If the potential is not a molecule's.
    """

    def __init__(self, potential: Potential) -> None:
        self._evaluator = Evaluator(potential, "i-PI")
        self.potential = potential

    def __call__(
        self, cell: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "atoms 3"]
    ) -> tuple[float, Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"], str]:
        r"""Energy (Hartree), forces (Hartree/Bohr) and virial of one structure (Bohr), and no extras.

        .. math:: W_{ab} = \sum_i F_{ia} x_{ib}

        Raises:
            GeometryError: If a structure that is new is in a wrong unit or order, or of another isomer.
            ConfigurationError: If the number of atoms is not the potential's, or i-PI folded them into the cell.
            SimulationError: If the energy or a force is not finite.
        """
        x = positions * BOHR
        if self.potential.topology is not None and self._evaluator.is_new(x):
            _require_whole(self.potential.topology, cell, positions)
        energy, forces = self._evaluator(x)
        forces = forces * (BOHR / HARTREE)
        return energy / HARTREE, forces, forces.T @ positions, ""


class SmoothflowPES(PES):
    """A model file as a potential-energy surface, in ``<ffdirect>`` or in ``i-pi-py_driver -m custom``.

    i-PI tells no elements: give the structure that the run starts from to have them checked. It also computes forces
    in threads that know nothing of each other; each computes with one thread unless ``OMP_NUM_THREADS`` says otherwise.

    Args:
        model: Path of a model file, or the name of a model that ships with the package.
        structure: PDB file of the molecule as i-PI has it.
        verbosity: What i-PI passes; not used.

    Raises:
        FileFormatError: If a file is missing or is not what it should be.
        TopologyError: If number, elements or order of the atoms are not the model's.
    """

    def __init__(self, model: str, structure: str = "", verbosity: object = None) -> None:
        if structure and not Path(structure).is_file():
            raise ConfigurationError(f'There is no file "{structure}" to check the atoms with. Correct its path.')
        super().__init__(registry().provider("smoothflow")(model, Path(structure)))

    def __call__(
        self, cell: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "atoms 3"]
    ) -> tuple[float, Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"], str]:
        if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > 1:
            torch.set_num_threads(1)  # holds for the thread that calls
        return super().__call__(cell, positions)


def _require_whole(topology: Topology, cell: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "atoms 3"]) -> None:
    """Raise a `ConfigurationError` if bonded atoms are on opposite sides of the cell (vectors in columns)."""
    if len(positions) != len(topology) or not topology.bonds:
        return
    first, second = np.array(topology.bonds).T
    across = np.abs(np.linalg.solve(cell, (positions[first] - positions[second]).T)).max(axis=0) > 0.5
    if across.any():
        i, j = topology.bonds[int(across.argmax())]
        raise ConfigurationError(
            f"The bonded {atom_name(topology, i)} and {atom_name(topology, j)} are on opposite sides of i-PI's cell, "
            "as if they had been folded into it; the potential is that of a molecule in free space. Set pbc='false' in "
            "the forcefield, and give a cell larger than the molecule."
        )
