"""Options that several commands share, and their meaning."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..coordinates.molecules import molecule_path
from ..core.errors import ConfigurationError, FileFormatError
from . import completion
from .console import note

if TYPE_CHECKING:
    import torch

    from ..core.potential import Potential

AMBER = "openmm:amber99sbildn.xml,amber99_obc.xml"
"""The force field of the demonstration."""

AMBER_NAME = "Amber ff99SB-ILDN with OBC in openmm"
"""What it is, in words that fit into the help."""


class Precision(StrEnum):
    """Floating-point precision of weights and coordinates."""

    float32 = "float32"
    float64 = "float64"

    @property
    def torch(self) -> torch.dtype:
        """The same as torch names it."""
        import torch

        return torch.float32 if self is Precision.float32 else torch.float64


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model file; where there is no such file, a model that ships with the package (see: smoothflow info).",
        autocompletion=completion.MODELS,
    ),
]
Seed = Annotated[int, typer.Option(help="Of every random number that is drawn.")]
Device = Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, cuda:1, ...")]
DType = Annotated[Precision, typer.Option("--dtype", help="Precision of weights and coordinates.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Structure = Annotated[
    str,
    typer.Option(
        help="PDB file, or the name of a molecule that ships with the package.", autocompletion=completion.STRUCTURES
    ),
]
Reference = Annotated[
    str,
    typer.Option(
        help="The force field, as PROVIDER:ARGUMENT (see: smoothflow plugins).",
        show_default=AMBER_NAME,
        autocompletion=completion.PROVIDERS,
    ),
]


def require_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigurationError: If torch does not know it or cannot use it here.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f'The device "{name}" cannot be used here: {reason} Use --device cpu.') from error
    return device


def structure_path(name: str) -> Path:
    """A PDB file by its path, or a shipped molecule by its name.

    Raises:
        FileFormatError: If it is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise FileFormatError(f'There is no file "{name}". Give the path of a PDB file.')
    return molecule_path(name)


def provider_potential(reference: str, structure: Path) -> Potential:
    """The potential that ``PROVIDER:ARGUMENT`` names, for the molecule in a PDB file."""
    from ..core.plugins import registry

    name, _, argument = reference.partition(":")
    return tell_code(reference, registry().provider(name)(argument, structure))


def tell_code(name: str, potential: Potential) -> Potential:
    """The potential, having said of a compiled package, before anything in it runs, that it is a program."""
    from ..potentials.compiled import CompiledPotential

    if isinstance(potential, CompiledPotential):
        note(f'"{name}" is native code: run it only if you trust who made it.')
    return potential
