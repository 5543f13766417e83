"""Normalizing flows as smooth molecular potentials and samplers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.moved import find_moved_modules

if TYPE_CHECKING:
    from .backends.engines.ase import SmoothflowCalculator
    from .backends.engines.openmm import to_openmm_force
    from .coordinates.internal import InternalCoordinates
    from .core.architecture import FlowSettings, build_flow
    from .core.engine import DynamicsSettings
    from .core.errors import SmoothflowError
    from .core.flow import Flow
    from .core.integrator import State
    from .core.plugins import hookimpl, registry
    from .core.potential import Potential
    from .core.transforms import Transform
    from .integrators.simulation import Simulation
    from .potentials.compilation import compile_potential
    from .potentials.compiled import CompiledPotential, load_compiled
    from .potentials.flow_potential import FlowPotential
    from .potentials.model_file import load_model, save_model
    from .potentials.shipped import load

__version__ = "0.1.0"

find_moved_modules()

__all__ = [
    "CompiledPotential",
    "DynamicsSettings",
    "Flow",
    "FlowPotential",
    "FlowSettings",
    "InternalCoordinates",
    "Potential",
    "Simulation",
    "SmoothflowCalculator",
    "SmoothflowError",
    "State",
    "Transform",
    "build_flow",
    "compile_potential",
    "hookimpl",
    "load",
    "load_compiled",
    "load_model",
    "registry",
    "save_model",
    "to_openmm_force",
]

_HOMES = {
    "CompiledPotential": ".potentials.compiled",
    "DynamicsSettings": ".core.engine",
    "Flow": ".core.flow",
    "FlowPotential": ".potentials.flow_potential",
    "FlowSettings": ".core.architecture",
    "InternalCoordinates": ".coordinates.internal",
    "Potential": ".core.potential",
    "Simulation": ".integrators.simulation",
    "SmoothflowCalculator": ".backends.engines.ase",
    "SmoothflowError": ".core.errors",
    "State": ".core.integrator",
    "Transform": ".core.transforms",
    "build_flow": ".core.architecture",
    "compile_potential": ".potentials.compilation",
    "hookimpl": ".core.plugins",
    "load": ".potentials.shipped",
    "load_compiled": ".potentials.compiled",
    "load_model": ".potentials.model_file",
    "registry": ".core.plugins",
    "save_model": ".potentials.model_file",
    "to_openmm_force": ".backends.engines.openmm",
}


def __getattr__(name: str) -> Any:
    # found when asked for: ASE and OpenMM are optional, and programs that look for their plug-ins here, while they
    # start, must neither wait for torch nor fail with it
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
