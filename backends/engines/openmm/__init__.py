"""OpenMM as a provider of potentials and as an engine; and any potential as an OpenMM force.

>>> force = to_openmm_force(potential, topology)
>>> system.addForce(force)
"""

from __future__ import annotations

from collections.abc import Mapping

from ....core.engine import Engine
from ....core.plugins import PotentialProvider, hookimpl
from .engine import OpenMMEngine
from .force import to_openmm_force
from .potential import OpenMMPotential
from .provider import openmm_provider

__all__ = ["OpenMMEngine", "OpenMMPotential", "openmm_provider", "to_openmm_force"]


@hookimpl
def smoothflow_providers() -> Mapping[str, PotentialProvider]:
    return {"openmm": openmm_provider}


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    return {OpenMMEngine.name: OpenMMEngine}
