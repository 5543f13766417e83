"""Jumps that a model proposes, within a user's own dynamics of ASE."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from ....core.errors import ConfigurationError
from ....core.jumps import Jump
from ....core.optional import import_optional
from ....core.potential import Potential
from ....core.units import ANGSTROM, ELECTRONVOLT
from ....molecules.conversions import topology_from_ase
from ..bridge import ProgramJumps


class ASEJumps(ProgramJumps):
    """Metropolis jumps in a dynamics of ASE with a thermostat; attach it like any observer.

    >>> jumps = smoothflow.ASEJumps(atoms, smoothflow.load("ala2-smooth"), temperature=300)
    >>> dynamics.attach(jumps, interval=500)

    The calculator of the atoms decides: its distribution at the temperature stays what it is.

    Args:
        atoms: Atoms of the model's molecule alone, with a calculator, without constraints or periodic boundaries.
        model: A flow of the molecule.
        temperature: K; that of the thermostat.
        n: Jumps at each call, one after the other.
        seed: Seed of the random numbers.

    Attributes:
        attempted: Jumps so far.
        accepted: Those that were made.

    Raises:
        ConfigurationError: If the atoms have constraints or periodic boundaries, or the model draws no samples.
        TopologyError: If the atoms are of another molecule than the model.
    """

    def __init__(self, atoms: Any, model: Potential, temperature: float, n: int = 1, seed: int = 0) -> None:
        import_optional("ase", "Jumps in ASE", "ase")
        if atoms.constraints or atoms.pbc.any():
            what = "constraints" if atoms.constraints else "periodic boundaries"
            raise ConfigurationError(f"The atoms have {what}, which no jump would keep. Take them off.")
        if model.topology is not None:
            model.topology.require_same(topology_from_ase(atoms, guess_bonds=False), "the model", "the Atoms object")
        model.require_configuration(atoms.get_positions() * ANGSTROM)
        super().__init__(model, temperature, seed)
        self._atoms = atoms
        self._n = n

    def __call__(self) -> None:
        self.attempt(self._n)

    def _read(self) -> tuple[Float[np.ndarray, "atoms 3"], float]:
        # the dynamics has forces of its own atoms, which no proposal may touch
        self._trial = self._atoms.copy()
        self._trial.calc = self._atoms.calc
        return self._atoms.get_positions() * ANGSTROM, self._atoms.get_potential_energy() * ELECTRONVOLT

    def _energy(self, positions: Float[np.ndarray, "atoms 3"]) -> float:
        self._trial.set_positions(positions / ANGSTROM)
        return float(self._trial.get_potential_energy()) * ELECTRONVOLT

    def _finish(self, jump: Jump) -> None:
        if jump.accepted:
            self._atoms.set_positions(jump.positions.numpy() / ANGSTROM)
