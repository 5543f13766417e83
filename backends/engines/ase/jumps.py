"""Jumps that a model proposes, within a user's own dynamics of ASE."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ....core.errors import ConfigurationError
from ....core.jumps import Jumps
from ....core.optional import import_optional
from ....core.potential import Potential
from ....core.units import ANGSTROM, ELECTRONVOLT
from ....molecules.conversions import topology_from_ase


class ASEJumps:
    """Metropolis jumps in a dynamics of ASE with a thermostat; attach it like any observer.

    >>> jumps = smoothflow.ASEJumps(atoms, smoothflow.load("ala2-smooth"), temperature=300)
    >>> dynamics.attach(jumps, interval=500)

    The calculator of the atoms decides: its distribution at the temperature stays what it is.

    Args:
        atoms: Of the model's molecule alone, with a calculator, without constraints and periodic boundaries.
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
        self._jumps = Jumps(model, temperature)
        self._atoms = atoms
        self._n = n
        self._generator = torch.Generator().manual_seed(seed)
        self.attempted = self.accepted = 0

    def __call__(self) -> None:
        self.attempt(self._n)

    def attempt(self, n: int = 1) -> int:
        """Attempt jumps, one after the other; the number of those made."""
        atoms = self._atoms
        here = torch.from_numpy(atoms.get_positions() * ANGSTROM)
        energy = atoms.get_potential_energy() * ELECTRONVOLT
        jump = self._jumps.attempt(here, energy, self._energies, self._generator, n)
        self.attempted += n
        self.accepted += jump.accepted
        if jump.accepted:
            atoms.set_positions(jump.positions.numpy() / ANGSTROM)
        return jump.accepted

    def _energies(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        # the dynamics has forces of its own atoms, which no proposal may touch
        trial = self._atoms.copy()
        trial.calc = self._atoms.calc
        found = []
        for configuration in positions.numpy():
            trial.set_positions(configuration / ANGSTROM)
            found.append(trial.get_potential_energy() * ELECTRONVOLT)
        return torch.tensor(found, dtype=torch.float64)
