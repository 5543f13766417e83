"""Potentials as i-PI's potential-energy surfaces; atomic units on i-PI's side."""

from __future__ import annotations

import os

import numpy as np
import torch
from jaxtyping import Float

from ...core.plugins import registry
from ...core.potential import Potential
from .border import evaluate, require_molecular, require_start

BOHR = 0.0529177210903
"""One Bohr radius in nm (CODATA 2018)."""

HARTREE = 2625.4996394798254
"""One Hartree in kJ/mol (CODATA 2018)."""


class PES:
    """What i-PI calls for energies and forces.

    Args:
        potential: Any molecular potential.

    Raises:
        ConfigurationError: If the potential is no molecule's.
    """

    def __init__(self, potential: Potential) -> None:
        require_molecular(potential, "i-PI")
        self.potential = potential

    def __call__(
        self, cell: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "atoms 3"]
    ) -> tuple[float, Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"], str]:
        r"""Energy (Hartree), forces (Hartree/Bohr) and virial of one structure (Bohr), and no extras.

        .. math:: W_{ab} = \sum_i F_{ia} x_{ib}

        Raises:
            ConfigurationError: If the number of atoms is not the potential's.
            SimulationError: If the energy or a force is not finite.
        """
        energy, forces = evaluate(self.potential, positions * BOHR)
        forces = forces * (BOHR / HARTREE)
        return energy / HARTREE, forces, forces.T @ positions, ""


class SmoothflowPES(PES):
    """A model file as a potential-energy surface, in i-PI's ``<ffdirect>`` or in ``i-pi-py_driver -m custom``.

    i-PI tells neither elements nor whether it folds atoms into its cell: bond lengths are checked in every structure.
    It computes forces in threads, which do not inherit settings: each uses one core unless ``OMP_NUM_THREADS`` says
    otherwise.

    Args:
        model: Path of a model file.
        verbosity: What i-PI passes; not used.

    Raises:
        FileFormatError: If the file is missing or is not what it should be.
    """

    def __init__(self, model: str, verbosity: object = None) -> None:
        super().__init__(registry().load(model))

    def __call__(
        self, cell: Float[np.ndarray, "3 3"], positions: Float[np.ndarray, "atoms 3"]
    ) -> tuple[float, Float[np.ndarray, "atoms 3"], Float[np.ndarray, "3 3"], str]:
        """What `PES` gives; also raises a `GeometryError` if bonded atoms are nowhere near each other."""
        if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > 1:
            torch.set_num_threads(1)  # holds for the thread that calls
        require_start(self.potential, positions * BOHR)
        return super().__call__(cell, positions)
