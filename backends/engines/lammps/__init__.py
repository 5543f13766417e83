"""Any potential as a force in LAMMPS; and LAMMPS as an engine.

>>> lmp = new_lammps()
>>> lmp.file("in.molecule")
>>> attach_to_lammps(lmp, potential, ["C", "H", "N", "O"])
>>> lmp.command("run 1000")
"""

from __future__ import annotations

from collections.abc import Mapping

from ....core.engine import Engine
from ....core.plugins import hookimpl
from .engine import LAMMPSEngine
from .force import LAMMPSForce, attach_to_lammps, new_lammps

__all__ = ["LAMMPSEngine", "LAMMPSForce", "attach_to_lammps", "new_lammps"]


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    return {LAMMPSEngine.name: LAMMPSEngine}
