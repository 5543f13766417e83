"""TorchSim as an engine; and any potential as a TorchSim model. TorchSim needs Python 3.12.

>>> model = TorchSimModel(potential)
>>> torch_sim.integrate(system=atoms, model=model, integrator=torch_sim.Integrator.nve, ...)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ....core.engine import Engine
from ....core.plugins import hookimpl
from .engine import TorchSimEngine, import_torch_sim

if TYPE_CHECKING:
    from .model import TorchSimModel

__all__ = ["TorchSimEngine", "TorchSimModel"]


def __getattr__(name: str) -> Any:
    # its base class is TorchSim's, which may not be installed
    if name == "TorchSimModel":
        import_torch_sim("The model for TorchSim")
        from .model import TorchSimModel

        return TorchSimModel
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    return {TorchSimEngine.name: TorchSimEngine}
