"""ASE as a provider of potentials and as an engine; and any potential as an ASE calculator.

>>> atoms.calc = SmoothflowCalculator(potential)
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ....core.hooks import hookimpl

if TYPE_CHECKING:
    from ....core.engine import Engine
    from ....core.plugins import PotentialProvider
    from .calculator import SmoothflowCalculator
    from .engine import ASEEngine
    from .jumps import ASEJumps
    from .potential import ASEPotential, ase_provider

__all__ = ["ASEEngine", "ASEJumps", "ASEPotential", "SmoothflowCalculator", "ase_provider"]

_HOMES = {
    "ASEEngine": ".engine",
    "ASEJumps": ".jumps",
    "ASEPotential": ".potential",
    "SmoothflowCalculator": ".calculator",
    "ase_provider": ".potential",
}


def __getattr__(name: str) -> Any:
    # ASE imports this folder when it looks for its plug-ins, and must neither wait for torch nor fail with it
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "SmoothflowCalculator":
        _require_base_class()
    return getattr(import_module(_HOMES[name], __name__), name)


def _require_base_class() -> None:
    """Raise unless ASE is installed, and has the base class of our calculator."""
    from ....core.errors import ConfigurationError
    from ....core.optional import import_optional

    ase = import_optional("ase", "The calculator for ASE", "ase")
    calculators = import_optional("ase.calculators.calculator", "The calculator for ASE", "ase")
    if not hasattr(calculators, "BaseCalculator"):
        raise ConfigurationError(
            f"ASE {ase.__version__} has no BaseCalculator. Install a newer one: pip install 'smoothflow[ase]'."
        )


@hookimpl
def smoothflow_providers() -> Mapping[str, PotentialProvider]:
    from .potential import ase_provider

    return {"ase": ase_provider}


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    from .engine import ASEEngine

    return {ASEEngine.name: ASEEngine}
