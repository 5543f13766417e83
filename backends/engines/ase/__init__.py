"""ASE as a provider of potentials and as an engine; and any potential as an ASE calculator.

>>> atoms.calc = SmoothflowCalculator(potential)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ....core.engine import Engine
from ....core.errors import ConfigurationError
from ....core.plugins import PotentialProvider, hookimpl
from ..bridge import import_optional
from .engine import ASEEngine
from .potential import ASEPotential, ase_provider

if TYPE_CHECKING:
    from .calculator import SmoothflowCalculator

__all__ = ["ASEEngine", "ASEPotential", "SmoothflowCalculator", "ase_provider"]


def __getattr__(name: str) -> Any:
    # its base class is ASE's, which may not be installed
    if name == "SmoothflowCalculator":
        ase = import_optional("ase", "The calculator for ASE", "ase")
        calculators = import_optional("ase.calculators.calculator", "The calculator for ASE", "ase")
        if not hasattr(calculators, "BaseCalculator"):
            raise ConfigurationError(
                f"ASE {ase.__version__} has no BaseCalculator. Install a newer one: pip install 'smoothflow[ase]'."
            )
        from .calculator import SmoothflowCalculator

        return SmoothflowCalculator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def smoothflow_providers() -> Mapping[str, PotentialProvider]:
    return {"ase": ase_provider}


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    return {ASEEngine.name: ASEEngine}
