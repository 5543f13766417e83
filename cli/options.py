"""Options that several commands share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import ConfigurationError
from ..molecules.shipped import AMBER, molecule_names, molecule_path
from ..molecules.structure_names import structure_file
from . import completion
from .console import note

if TYPE_CHECKING:
    import torch

    from ..core.potential import Potential
    from ..core.topology import Topology
    from ..potentials.flow_potential import FlowPotential

AMBER_NAME = "Amber ff99SB-ILDN with OBC in openmm"
"""The default force field, in words that fit in the help."""


class Precision(StrEnum):
    """Floating-point precision of weights and coordinates."""

    float32 = "float32"
    float64 = "float64"

    @property
    def torch(self) -> torch.dtype:
        """The torch dtype."""
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
LARGEST_SEED = 2**63 - 1
"""torch's generators take 64 bits."""

Seed = Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Seed of the random numbers.")]
Device = Annotated[str, typer.Option(help="Where torch computes: cpu, cuda, cuda:1, ...")]
DType = Annotated[Precision, typer.Option("--dtype", help="Precision of weights and coordinates.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Temperature in K, for a model of a range of temperatures; other models have only their own.",
        show_default="the model's",
    ),
]
Capture = Annotated[
    bool,
    typer.Option("--compile", help="On a GPU, record the model's work once, in seconds, and replay it much faster."),
]
STRUCTURE = "PDB, mmCIF, SDF or SMILES file, the name of a molecule that ships with the package, or a SMILES string."
Structure = Annotated[str, typer.Option(help=STRUCTURE, autocompletion=completion.STRUCTURES)]
Molecule = Annotated[str, typer.Argument(help=STRUCTURE, autocompletion=completion.STRUCTURES)]
ModelStructure = Annotated[
    str | None,
    typer.Option(
        help="Structure file of the molecule, for the force field.",
        show_default="the model's",
        autocompletion=completion.STRUCTURES,
    ),
]
Basins = Annotated[
    list[str] | None,
    typer.Option(
        help="Population of this region, and its free energy above the first one: alpha, beta, ppii, or one of your "
        "own in degrees, like left:phi=20..120. Repeat it for more."
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="The force field, as PROVIDER:ARGUMENT (see: smoothflow plugins).",
        show_default=AMBER_NAME,
        autocompletion=completion.PROVIDERS,
    ),
]


Charge = Annotated[
    int | None,
    typer.Option(help="Total charge of the molecule, for references that compute electrons; by default the file's."),
]
Multiplicity = Annotated[
    int | None, typer.Option(help="Spin multiplicity of the molecule, 2S + 1: 2 for a radical, 3 for a triplet.")
]


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter is on the command line, even with its default value."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def require_none_given(context: typer.Context, names: Iterable[str], why: str) -> None:
    """Raise if options are on the command line that a command would ignore.

    Args:
        context: The command's.
        names: Names of its parameters.
        why: What makes them useless, as the beginning of a sentence.

    Raises:
        ConfigurationError: If one of them is given.
    """
    flags = {parameter.name: max(parameter.opts, key=len) for parameter in context.command.params}
    given = [flags[name] for name in names if is_given(context, name)]
    if given:
        raise ConfigurationError(f"{why}: leave out {', '.join(given)}.")


def require_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigurationError: If torch does not know it or cannot use it here.
    """
    import torch

    try:
        device = torch.device(name)
        # a device without numbers, like meta, cannot compute
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f'The device "{name}" cannot be used here: {reason} Use --device cpu.') from error
    return device


def captured(potential: FlowPotential) -> FlowPotential:
    """A flow whose work is recorded and replayed.

    Raises:
        ConfigurationError: If it is on the CPU.
    """
    from ..potentials.captured import CapturedFlow

    if potential.device.type == "cpu":
        raise ConfigurationError(
            "On the CPU this command has nothing to compile: leave out --compile, or add --device cuda. The commands "
            "md and check run compiled models on the CPU, too."
        )
    return CapturedFlow(potential)


def model_reference(model: str, topology: Topology) -> str:
    """The force field whose frames a model was trained on, according to its file.

    Raises:
        ConfigurationError: If it does not say.
    """
    from ..molecules.parts import require_system
    from ..potentials.shipped import provenance_of

    frames = provenance_of(model).get("frames", {})
    require_system(frames, f'The frames of the model "{model}"')
    said = [frames.get(key) for key in ("potential", "weighted to", "energies and forces")] if frames else []
    for text in said:
        # "openmm:FILES of STRUCTURE", "recomputed with openmm:FILES"
        words = str(text).removeprefix("recomputed with ").split(" of ")[0] if text else ""
        if ":" in words and " " not in words:
            return words
    if shipped_structure(topology) == molecule_path("capped-alanine"):
        return AMBER
    raise ConfigurationError(
        f'The model "{model}" does not name the force field of its frames. Name it: --reference PROVIDER:ARGUMENT.'
    )


@contextmanager
def model_structure(model: FlowPotential, name: str | None) -> Iterator[tuple[Path, str]]:
    """A structure file of a model's molecule, and its name: the one given, or else one made from the model."""
    if name is not None:
        with structure_file(name) as path:
            yield path, name
        return
    topology = model.coordinates.topology
    shipped = shipped_structure(topology)
    if shipped is not None:
        yield shipped, shipped.stem
        return
    import torch

    from ..molecules.pdb import write_pdb

    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        positions, _ = model.sample(1, seed=0)
        path = Path(folder) / "model.pdb"
        write_pdb(topology, positions, path, "SAMPLE OF A MODEL")
        yield path, "the model's molecule"


def shipped_structure(topology: Topology) -> Path | None:
    """The file of a molecule that ships with the package; None if it does not."""
    from ..molecules.topologies import topology_from_pdb

    for name in molecule_names():
        path = molecule_path(name)
        n_atoms = sum(line.startswith(("ATOM", "HETATM")) for line in path.read_text(encoding="ascii").splitlines())
        if n_atoms == len(topology) and topology_from_pdb(path)[0] == topology:
            return path
    return None


def provider_potential(name: str, structure: str | Path | None, device: torch.device | None = None) -> Potential:
    """The potential that ``PROVIDER:ARGUMENT`` names, for the molecule of a structure; see `reference`."""
    from ..potentials.reference import reference

    return tell_code(name, reference(name, structure, device=device))


def tell_code(name: str, potential: Potential) -> Potential:
    """The potential; for a compiled package, warn that it is a program before anything in it runs."""
    from ..core.committee import CommitteePotential
    from ..potentials.compiled import CompiledPotential

    parts = potential.members if isinstance(potential, CommitteePotential) else [potential]
    if any(isinstance(part, CompiledPotential) for part in parts):
        note(f'"{name}" is native code: run it only if you trust who made it.')
    return potential
