"""ASE calculators as potentials."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...core.errors import ConfigurationError, FileFormatError, MissingDependencyError, SimulationError
from ...core.topology import Atom, Topology
from ...core.units import ANGSTROM, ELECTRONVOLT
from .border import ExternalPotential, import_optional


class ASEPotential(ExternalPotential):
    """The potential energy that an ASE calculator gives; the free energy where it knows one, as forces belong to it.

    Args:
        calculator: Any ASE calculator with forces.
        atoms: The molecule; only its elements, names and settings are used. No bonds are guessed.

    Raises:
        ConfigurationError: If a periodic boundary is on, or the calculator has no forces.
    """

    def __init__(self, calculator: Any, atoms: Any) -> None:
        if atoms.pbc.any():
            raise ConfigurationError(
                "Periodic boundaries are on; potentials here are those of a molecule in free space. "
                "Set atoms.pbc = False."
            )
        if "forces" not in calculator.implemented_properties:
            raise ConfigurationError(f"The ASE calculator {type(calculator).__name__} gives no forces. Use another.")
        super().__init__(topology_from_atoms(atoms))
        self.atoms = atoms.copy()
        self.calculator = calculator
        self.energy_name = "free_energy" if "free_energy" in calculator.implemented_properties else "energy"

    def evaluate(self, positions: Float[np.ndarray, "atoms 3"]) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        self.atoms.set_positions(positions / ANGSTROM)
        try:
            forces = self.calculator.get_property("forces", self.atoms)
            energy = self.calculator.get_property(self.energy_name, self.atoms)
        # calculators raise whatever their programs do
        except Exception as error:
            name = type(self.calculator).__name__
            raise SimulationError(
                f"The ASE calculator {name} failed at a configuration: {type(error).__name__}: {error}"
            ) from error
        return float(energy) * ELECTRONVOLT, np.asarray(forces) * (ELECTRONVOLT / ANGSTROM)


def topology_from_atoms(atoms: Any) -> Topology:
    """Elements of an ``ase.Atoms``, and names and residues where a PDB file gave them; without bonds."""
    symbols = atoms.get_chemical_symbols()
    arrays = atoms.arrays
    names = arrays.get("atomtypes", np.array(symbols))
    residue_names = arrays.get("residuenames", np.full(len(symbols), "MOL"))
    numbers = arrays.get("residuenumbers", np.zeros(len(symbols), dtype=int))
    residues = np.unique(numbers, return_inverse=True)[1]
    return Topology(
        tuple(
            Atom(symbol, str(name).strip(), str(residue).strip(), int(index))
            for symbol, name, residue, index in zip(symbols, names, residue_names, residues, strict=True)
        ),
        (),
    )


def ase_provider(argument: str, structure: Path) -> ASEPotential:
    """The potential of an ASE calculator for the molecule in a file.

    Args:
        argument: ASE's name of a calculator, like ``emt`` or ``lj``; ``tblite`` or ``tblite:GFN2-xTB``; or where a
            class that needs no arguments is, like ``package.module:Class``.
        structure: Any file with one molecule that ASE reads, like PDB or XYZ.

    Raises:
        FileFormatError: If the structure is missing or ASE cannot read it.
        ConfigurationError: If there is no such calculator, or it cannot be made without arguments.
        MissingDependencyError: If ASE or the calculator's package is not installed.
    """
    import_optional("ase", "The ase provider", "ase")
    io = import_optional("ase.io", "The ase provider", "ase")
    calculator = _calculator(argument)
    if not structure.is_file():
        raise FileFormatError(f'There is no file "{structure}". Give the structure of the molecule.')
    try:
        atoms = io.read(str(structure))
    # ASE's readers raise whatever a wrong line gives
    except Exception as error:
        raise FileFormatError(f'ASE cannot read "{structure}": {type(error).__name__}: {error}.') from error
    atoms.pbc = False  # a PDB file's unit cell says nothing about the molecule
    return ASEPotential(calculator, atoms)


ase_provider.arguments = ("tblite", "emt", "lj", "morse", "tip3p", "eam", "xtb", "dftb", "gaussian", "orca", "psi4")  # type: ignore[attr-defined]


def _calculator(argument: str) -> Any:
    name, _, rest = argument.partition(":")
    if name == "tblite":
        try:
            module = importlib.import_module("tblite.ase")
        except ModuleNotFoundError as error:
            raise MissingDependencyError(f'The calculator "{argument}"', "tblite", "tblite") from error
        return module.TBLite(method=rest or "GFN2-xTB", verbosity=0)
    try:
        if rest:
            cls = getattr(importlib.import_module(name), rest)
        else:
            cls = import_optional("ase.calculators.calculator", "The ase provider", "ase").get_calculator_class(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(
            f'There is no ASE calculator "{argument}": {error}. Give a name that ASE knows, like emt or lj, '
            "tblite:GFN2-xTB, or package.module:Class."
        ) from error
    try:
        return cls()
    # programs that are not set up, and arguments that are missing
    except Exception as error:
        raise ConfigurationError(
            f'The ASE calculator "{argument}" cannot be made without arguments: {type(error).__name__}: {error}. '
            "Make it in a script and use ASEPotential(calculator, atoms)."
        ) from error
