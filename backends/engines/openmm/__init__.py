"""OpenMM as a provider of potentials and as an engine; and any potential as an OpenMM force.

>>> force = to_openmm_force(potential, topology)
>>> system.addForce(force)
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ....core.hooks import hookimpl

if TYPE_CHECKING:
    from ....core.engine import Engine
    from ....core.plugins import PotentialProvider
    from .engine import OpenMMEngine
    from .force import to_openmm_force
    from .jumps import OpenMMJumps
    from .potential import OpenMMPotential
    from .provider import openmm_provider

__all__ = ["OpenMMEngine", "OpenMMJumps", "OpenMMPotential", "openmm_provider", "to_openmm_force"]

_HOMES = {
    "OpenMMEngine": ".engine",
    "OpenMMJumps": ".jumps",
    "OpenMMPotential": ".potential",
    "openmm_provider": ".provider",
    "to_openmm_force": ".force",
}


def __getattr__(name: str) -> Any:
    # OpenMM-ML imports this folder while it starts, and must neither wait for torch nor fail with it
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def smoothflow_providers() -> Mapping[str, PotentialProvider]:
    from .provider import openmm_provider

    return {"openmm": openmm_provider}


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    from .engine import OpenMMEngine

    return {OpenMMEngine.name: OpenMMEngine}
