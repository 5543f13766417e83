"""Models by name: those that come with the package, and how any model is named.

`load` goes from a name to a potential. A model is named by the path of its file, or by the name under which it ships;
`Registry.model_path` decides which file is meant. ``smoothflow:MODEL`` says the same where a provider of potentials is
expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.committee import CommitteePotential
from ..core.errors import ConfigurationError, GeometryError
from ..core.files import file_digest
from ..core.plugins import PotentialProvider, hookimpl, registry
from ..core.potential import Potential
from ..molecules.topologies import topology_from_pdb
from .compiled import CompiledPotential
from .flow_potential import FlowPotential
from .force_field import torch_provider
from .model_file import read_header, read_model

FOLDER = Path(__file__).parent.parent / "models"


def shipped_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load(
    model: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    temperature: float | None = None,
) -> Potential:
    """A potential from a file, or by the name under which it ships: a trained flow, or compiled code.

    Args:
        model: The path of a model, of a compiled package, or of a file of any suffix that a plug-in reads; or the name
            of a model that comes with the package, like ``ala2-smooth``. Where there is a file of that name, it is
            that file. A compiled package is native code: load only those that you trust.
        dtype: Precision of weights and coordinates. By default float64 for a flow, and for compiled code where it was
            compiled in float64.
        device: Where to put it. By default the CPU for a flow, and for compiled code where it was compiled for.
        temperature: K, of a model of a range of temperatures; by default that which its file names.

    Returns:
        A `FlowPotential` of a model file, a `CompiledPotential` of a compiled package.

    Raises:
        UnknownNameError: If there is neither a file nor a model of that name.
        ConfigurationError: If the potential cannot compute in that precision or on that device, or is not of that
            temperature.
        FileFormatError: If the file is missing, damaged or not a potential.
        PluginError: If a plug-in that supplied a transform is not installed; says which distribution to install.
    """
    path = registry().model_path(model)
    if temperature is not None:
        return load_flow(model, dtype or torch.float64, device or "cpu", temperature)
    if not _has_own_loader(path):
        return read_model(path, dtype or torch.float64, device or "cpu")
    potential = registry().load(path)
    if isinstance(potential, CompiledPotential):
        if dtype is not None and not potential.computes_in(dtype):
            raise ConfigurationError(
                f'"{path}" was not compiled in {dtype}. Leave dtype out, or compile the model again in that precision.'
            )
    elif isinstance(potential, FlowPotential):
        dtype = dtype or torch.float64
    return potential.to(device=device or potential.device, dtype=dtype).requires_grad_(False).eval()


def load_flow(
    model: str | Path,
    dtype: torch.dtype = torch.float64,
    device: str | torch.device = "cpu",
    temperature: float | None = None,
) -> FlowPotential:
    """`load` for what only a flow can do: sampling, likelihoods, training, and other temperatures.

    Raises:
        ConfigurationError: If the file holds another potential.
        SmoothflowError: As `load` does.
    """
    potential = load(model, device=device)
    if not isinstance(potential, FlowPotential):
        path = registry().model_path(model)
        raise ConfigurationError(f'"{path}" holds a {type(potential).__name__}, which is not a flow. Give a flow.')
    if temperature is not None:
        potential = potential.at_temperature(temperature)
    return potential if potential.dtype == dtype else potential.to(dtype)


def provenance_of(model: str | Path) -> dict[str, Any]:
    """How a model came to be, as far as its file says; files of plug-ins' formats say nothing."""
    path = registry().model_path(model)
    return {} if _has_own_loader(path) else dict(read_header(path)["provenance"])


def _has_own_loader(path: Path) -> bool:
    """Whether a file is not read as a model file: a plug-in, or compiled code, has its suffix."""
    return path.suffix in registry().names("loader") and registry().entry("loader", path.suffix).value is not read_model


def model_provider(argument: str, structure: Path) -> Potential:
    """What `Registry.load` gives, for programs that know potentials only as ``smoothflow:MODEL``.

    Args:
        argument: Name of a model, or path of a file of any suffix that a plug-in reads.
        structure: A PDB file whose atoms must be the model's, in its order and of its handedness; not checked if there
            is no such file, since the model knows its molecule.

    Raises:
        FileFormatError: If the model is missing or damaged, or the structure is not a PDB file.
        TopologyError: If number, elements, bonds or order of the atoms are not the model's.
        GeometryError: If the structure is not a configuration of the model's molecule.
    """
    potential = registry().load(argument)
    if structure.is_file() and potential.topology is not None:
        topology, configurations = topology_from_pdb(structure)
        potential.topology.require_same(topology, f'the model "{argument}"', f'"{structure}"')
        try:
            potential.require_configuration(configurations[0].double().numpy())
        except GeometryError as error:
            raise GeometryError(f'In "{structure}": {error}') from error
    return potential


def committee_provider(argument: str, structure: Path) -> CommitteePotential:
    """The mean of several models, which tells their spread: ``committee:FIRST,SECOND,...``.

    Args:
        argument: Two or more models as `model_provider` takes them, separated by commas.
        structure: As `model_provider` takes it.

    Raises:
        ConfigurationError: If there are fewer than two models, one is given twice, or their temperatures differ.
        TopologyError: If they are of different molecules, or of another one than the structure.
        SmoothflowError: Whatever `model_provider` raises.
    """
    names = [name.strip() for name in argument.split(",") if name.strip()]
    if len(names) < 2:
        raise ConfigurationError(
            f'"{argument}" is not a committee. Name two models or more, separated by commas: committee:FIRST,SECOND.'
        )
    require_different(names)
    return CommitteePotential([model_provider(name, structure) for name in names])


def require_different(models: Sequence[str | Path]) -> None:
    """Raise a `ConfigurationError` if two names lead to one model."""
    digests = [file_digest(registry().model_path(model)) for model in models]
    if len(set(digests)) < len(digests):
        raise ConfigurationError("One model is given twice. Give each once.")


@hookimpl
def smoothflow_providers() -> Mapping[str, PotentialProvider]:
    return {"smoothflow": model_provider, "torch": torch_provider, "committee": committee_provider}


@hookimpl
def smoothflow_models() -> Mapping[str, Path]:
    return {name: FOLDER / f"{name}.safetensors" for name in shipped_models()}
