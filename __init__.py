"""Normalizing flows as smooth molecular potentials and samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .coordinates.internal import InternalCoordinates
from .core.architecture import FlowSettings, build_flow
from .core.errors import SmoothflowError
from .core.flow import Flow
from .core.plugins import hookimpl, registry
from .core.potential import Potential
from .core.transforms import Transform
from .potentials.flow_potential import FlowPotential
from .potentials.model_file import load_model, save_model

if TYPE_CHECKING:
    from .backends.engines.ase import SmoothflowCalculator
    from .backends.engines.openmm import to_openmm_force

__version__ = "0.1.0"

__all__ = [
    "Flow",
    "FlowPotential",
    "FlowSettings",
    "InternalCoordinates",
    "Potential",
    "SmoothflowCalculator",
    "SmoothflowError",
    "Transform",
    "build_flow",
    "hookimpl",
    "load_model",
    "registry",
    "save_model",
    "to_openmm_force",
]


def __getattr__(name: str) -> Any:
    # ASE and OpenMM are optional, so what stands on them is imported when it is asked for
    if name == "SmoothflowCalculator":
        from .backends.engines.ase import SmoothflowCalculator

        return SmoothflowCalculator
    if name == "to_openmm_force":
        from .backends.engines.openmm import to_openmm_force

        return to_openmm_force
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
