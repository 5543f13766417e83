"""Models by name: those that come with the package, and how any model is named.

A model is named by the path of its file, or by the name under which it ships; `Registry.model_path` decides which file
is meant. ``smoothflow:MODEL`` says the same where a provider of potentials is expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from ..coordinates.topologies import topology_from_pdb
from ..core.errors import GeometryError
from ..core.plugins import PotentialProvider, hookimpl, registry
from ..core.potential import Potential
from .flow_potential import FlowPotential
from .model_file import load_model

FOLDER = Path(__file__).parent.parent / "models"


def shipped_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def load(model: str | Path, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu") -> FlowPotential:
    """A trained flow as a potential, ready to evaluate and to sample.

    Args:
        model: The name of a model that comes with the package, like ``ala2-smooth``, or the path of a model file; where
            there is a file of that name, it is that file.
        dtype: Precision of weights and coordinates; float64 for molecular dynamics.
        device: Where to put it.

    Raises:
        UnknownNameError: If there is neither a file nor a model of that name.
        FileFormatError: If the file is missing, damaged or no model.
        PluginError: If a plug-in that supplied a transform is not installed; says which distribution to install.
    """
    return load_model(registry().model_path(model), dtype, device)


def model_provider(argument: str, structure: Path) -> Potential:
    """What `Registry.load` gives, for programs that know potentials only as ``smoothflow:MODEL``.

    Args:
        argument: Name of a model, or path of a file of any suffix that a plug-in reads.
        structure: A PDB file whose atoms must be the model's, in its order and of its handedness; not checked if there
            is no such file, since the model knows its molecule.

    Raises:
        FileFormatError: If the model is missing or damaged, or the structure is no PDB file.
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


@hookimpl
def smoothflow_providers() -> Mapping[str, PotentialProvider]:
    return {"smoothflow": model_provider}


@hookimpl
def smoothflow_models() -> Mapping[str, Path]:
    return {name: FOLDER / f"{name}.safetensors" for name in shipped_models()}
