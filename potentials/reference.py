"""Force fields by name: ``PROVIDER:ARGUMENT`` and a structure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ConfigurationError
from ..core.plugins import registry
from ..core.potential import Potential
from ..molecules.structure_names import structure_file
from .force_field import CompiledForceField, ForceField


def reference(
    name: str,
    structure: str | Path | None = None,
    *,
    charge: int | None = None,
    multiplicity: int | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Potential:
    """The force field that a name means, for a molecule.

    Args:
        name: ``PROVIDER:ARGUMENT``, like ``openmm:amber99sbildn.xml,amber99_obc.xml``, the same in torch with
            ``torch:``, or ``ase:tblite:GFN2-xTB``; ``smoothflow plugins`` lists the providers.
        structure: A structure file with all hydrogens, the name of a molecule that comes with the package, or a SMILES
            string. A model (``smoothflow:``) needs none: it knows its molecule.
        charge: Total charge of the molecule, for what computes electrons; by default the structure's.
        multiplicity: 2S + 1, for what computes electrons.
        dtype: Precision in which energies are computed; by default the provider's own, mostly float64.
        device: Where energies are computed, for what torch computes; by default the CPU.

    Raises:
        UnknownNameError: If there is no such provider.
        ConfigurationError: If the provider has no such potential, or takes no charge and multiplicity.
        FileFormatError: If a file is missing or is not what it should be.
        TopologyError: If the force field does not fit the molecule.
        MissingDependencyError: If a package is not installed.
    """
    provider, _, argument = with_electrons(name, charge, multiplicity).partition(":")
    with nullcontext(Path()) if structure is None else structure_file(structure) as path:
        potential = registry().provider(provider)(argument, path)
    if dtype is not None or device is not None:
        potential = potential.to(dtype=dtype, device=device)
    # on a GPU it is not arithmetic that takes the time, but that thousands of operations are started
    if isinstance(potential, ForceField) and potential.device.type == "cuda":
        return CompiledForceField(potential)
    return potential


def require_provider(name: str) -> None:
    """Say what is meant where a reference names a calculator of ASE or a force field without its provider.

    Raises:
        ConfigurationError: If it does.
    """
    provider, _, _ = name.partition(":")
    if provider in registry().names("provider"):
        return
    meant = "openmm" if provider.endswith(".xml") else "ase" if provider in _ase_calculators() else None
    if meant is not None:
        raise ConfigurationError(f'No provider is called "{provider}". Did you mean "{meant}:{name}"?')


def _ase_calculators() -> tuple[str, ...]:
    """Calculators that ASE knows by name, and those that our provider does."""
    if find_spec("ase") is None:
        return ("tblite",)
    from ase.calculators.calculator import names

    return ("tblite", *names)


def with_electrons(
    name: str, charge: int | None, multiplicity: int | None, provenance: Mapping[str, Any] | None = None
) -> str:
    """A reference with the charge and multiplicity that it computes.

    Args:
        name: The reference.
        charge: What the user says; it comes before what the reference's name and the frames say.
        multiplicity: The same of the multiplicity.
        provenance: Provenance of frames whose file gave a charge or multiplicity.

    Raises:
        ConfigurationError: If it knows neither.
    """
    if name.startswith("ase:") and provenance is not None:
        said = {key: provenance.get(key) for key in ("charge", "multiplicity") if f"{key}=" not in name}
        charge = _whole(said.get("charge")) if charge is None else charge
        multiplicity = _whole(said.get("multiplicity")) if multiplicity is None else multiplicity
    require_provider(name)
    given = {"charge": charge, "multiplicity": multiplicity}
    parts = [f"{key}={value}" for key, value in given.items() if value is not None]
    if parts and not name.startswith("ase:"):
        raise ConfigurationError(
            f'"{name}" does not compute electrons: leave charge and multiplicity out. Calculators of ASE do, like '
            "ase:tblite:GFN2-xTB."
        )
    return ",".join([name, *parts])


def _whole(value: object) -> int | None:
    """A number of a provenance, where anything may stand."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None
