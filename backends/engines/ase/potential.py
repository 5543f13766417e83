"""ASE calculators as potentials."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ....core.errors import ConfigurationError, FileFormatError, SimulationError
from ....core.optional import import_optional
from ....core.topology import Topology
from ....core.units import ANGSTROM, ELECTRONVOLT
from ....molecules.conversions import topology_from_ase, topology_to_ase
from ....molecules.electrons import require_electrons
from ....molecules.topologies import STRUCTURE_SUFFIXES, read_structure
from ..bridge import ExternalPotential


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
        super().__init__(topology_from_ase(atoms, guess_bonds=False))
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


def ase_provider(argument: str, structure: str | Path) -> ASEPotential:
    """The potential of an ASE calculator for the molecule in a file.

    The molecule's charge is what ``charge=`` says, or else the sum of the formal charges in the file. It is compared
    with the number of electrons and with groups that are always charged; what does not fit is refused rather
    than computed.

    Args:
        argument: ASE's name of a calculator, like ``emt`` or ``lj``; ``tblite`` or ``tblite:GFN2-xTB``; or where a
            class that needs no arguments is, like ``package.module:Class``. For calculators of electrons, charge and
            multiplicity may follow: ``tblite:GFN2-xTB,charge=-1,multiplicity=2``.
        structure: PDB, mmCIF, SDF or SMILES file with one molecule, or any other that ASE reads, like XYZ.

    Raises:
        FileFormatError: If the structure is missing or cannot be read.
        ConfigurationError: If there is no such calculator, it cannot be made without arguments, or charge and
            multiplicity cannot be the molecule's.
        MissingDependencyError: If ASE or the calculator's package is not installed.
    """
    import_optional("ase", "The ase provider", "ase")
    structure = Path(structure)
    name, state = _state(argument)
    calculator = _calculator(name)
    atoms, charges = _read_atoms(structure)
    if "charge" in getattr(calculator, "default_parameters", {}):
        topology = _with_bonds(atoms, structure)
        charge, multiplicity = require_electrons(
            topology, charges, state.get("charge"), state.get("multiplicity"), name
        )
        calculator.set(charge=charge, multiplicity=multiplicity)
    elif state:
        raise ConfigurationError(f'The ASE calculator "{name}" takes no {next(iter(state))}. Leave it out.')
    return ASEPotential(calculator, atoms)


ase_provider.arguments = ("tblite", "emt", "lj", "morse", "tip3p", "eam", "xtb", "dftb", "gaussian", "orca", "psi4")  # type: ignore[attr-defined]


def _read_atoms(structure: Path) -> tuple[Any, tuple[int, ...] | None]:
    """The molecule in a file as ASE knows it, and its formal charges, where the file says any."""
    if structure.is_file() and structure.suffix.lower() not in STRUCTURE_SUFFIXES:
        io = import_optional("ase.io", "The ase provider", "ase")
        try:
            atoms = io.read(str(structure))
        # ASE's readers raise whatever a wrong line gives
        except Exception as error:
            raise FileFormatError(f'ASE cannot read "{structure}": {type(error).__name__}: {error}.') from error
        atoms.pbc = False
        charges = atoms.get_initial_charges()
        whole = tuple(round(charge) for charge in charges)
        return atoms, whole if charges.any() and np.allclose(charges, whole) else None
    found = read_structure(structure)
    return topology_to_ase(found.topology, found.positions[0], found.charges), found.charges


def _with_bonds(atoms: Any, structure: Path) -> Topology:
    """The molecule with its bonds, where the file has them or distances show them."""
    if structure.suffix.lower() in STRUCTURE_SUFFIXES:
        return read_structure(structure).topology
    return topology_from_ase(atoms)


def _state(argument: str) -> tuple[str, dict[str, int]]:
    """The calculator of ``name,charge=-1,multiplicity=2``, and the rest of it."""
    name, *parts = argument.split(",")
    state = {}
    for part in parts:
        key, _, value = (piece.strip() for piece in part.partition("="))
        if key not in ("charge", "multiplicity") or re.fullmatch(r"[-+]?\d{1,4}", value) is None or key in state:
            raise ConfigurationError(
                f'"{part}" in "ase:{argument}" is neither charge=NUMBER nor multiplicity=NUMBER. Write, for example, '
                "ase:tblite:GFN2-xTB,charge=-1,multiplicity=1."
            )
        state[key] = int(value)
    return name, state


def _calculator(argument: str) -> Any:
    name, _, rest = argument.partition(":")
    if name == "tblite":
        module = import_optional("tblite.ase", f'The calculator "{argument}"', "tblite")
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
