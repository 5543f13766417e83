"""Modules of version 0.1 under their old names, for one release."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import MappingProxyType, ModuleType

PACKAGE = __name__.partition(".")[0]

MOVED = MappingProxyType(
    {
        "analysis.benchmarks": "studies.benchmarks",
        "analysis.comparison": "studies.comparison.comparison",
        "analysis.comparison_cell": "studies.comparison.cell",
        "analysis.comparison_report": "studies.comparison.report",
        "analysis.comparison_settings": "studies.comparison.settings",
        "analysis.conservation": "studies.conservation",
        "analysis.demonstration": "studies.demo.demonstration",
        "analysis.figures": "studies.figures",
        "analysis.gallery": "studies.gallery",
        "analysis.measured": "studies.comparison.measured",
        "analysis.origin": "runs.provenance",
        "analysis.physics": "studies.physics.physics",
        "analysis.physics_dynamics": "studies.physics.dynamics",
        "analysis.physics_forces": "studies.physics.forces",
        "analysis.physics_report": "studies.physics.report",
        "analysis.physics_settings": "studies.physics.settings",
        "analysis.pretrained": "studies.demo.pretrained",
        "analysis.report": "studies.report",
        "analysis.scans": "studies.physics.scans",
        "analysis.showcase": "studies.demo.showcase",
        "analysis.toy_comparison": "studies.toys.comparison",
        "analysis.toy_figures": "studies.toys.figures",
        "analysis.toy_smoothness": "studies.toys.smoothness",
        "backends.engines.ase_calculator": "backends.engines.ase.calculator",
        "backends.engines.ase_engine": "backends.engines.ase.engine",
        "backends.engines.ase_plugin": "backends.engines.ase.registration",
        "backends.engines.ase_potential": "backends.engines.ase.potential",
        "backends.engines.atomic_numbers": "molecules.elements",
        "backends.engines.border": "backends.engines.bridge",
        "backends.engines.ipi_engine": "backends.engines.ipi.engine",
        "backends.engines.ipi_pes": "backends.engines.ipi.pes",
        "backends.engines.lammps_engine": "backends.engines.lammps.engine",
        "backends.engines.lammps_force": "backends.engines.lammps.force",
        "backends.engines.metatomic_model": "backends.engines.metatomic.model",
        "backends.engines.openmm_engine": "backends.engines.openmm.engine",
        "backends.engines.openmm_force": "backends.engines.openmm.force",
        "backends.engines.openmm_potential": "backends.engines.openmm.potential",
        "backends.engines.openmm_provider": "backends.engines.openmm.provider",
        "backends.engines.openmm_topology": "molecules.conversions",
        "backends.engines.openmmml": "backends.engines.openmm.openmmml",
        "backends.engines.torchsim_engine": "backends.engines.torchsim.engine",
        "backends.engines.torchsim_model": "backends.engines.torchsim.model",
        "coordinates.elements": "molecules.elements",
        "coordinates.geometry": "molecules.geometry",
        "coordinates.molecules": "molecules.shipped",
        "coordinates.pdb": "molecules.pdb",
        "coordinates.topologies": "molecules.topologies",
        "coordinates.topology_checks": "molecules.topology_checks",
        "training.appended": "runs.appended",
        "training.dynamics": "sampling.md",
        "training.exchange": "molecules.formats",
        "training.frames": "molecules.frames",
        "training.frames_file": "molecules.frames_file",
        "training.frames_reader": "molecules.frames_reader",
        "training.locks": "runs.locks",
        "training.progress": "runs.progress",
        "training.reporters": "sampling.reporters",
        "training.sampling": "sampling.draws",
        "training.settings_file": "runs.settings_file",
        "training.simulate": "sampling.simulate",
        "training.starting": "sampling.starting",
        "training.stopping": "runs.stopping",
        "training.superblock": "molecules.superblock",
        "training.toy_training": "studies.toys.training",
        "training.walkers": "sampling.walkers",
        "training.workers": "runs.workers",
    }
)
"""Where each module of version 0.1 is now."""


class MovedFinder(MetaPathFinder, Loader):
    """Finds a module by its old name, with a warning that tells the new one; asked only for what is not there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == PACKAGE and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = f"{PACKAGE}.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(
            f"The module {spec.name} is now {new}; the old name goes with the next release.",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # it has been executed under its own name, by which it goes on
        if module.__spec__ is not None:
            module.__spec__ = module.__spec__.loader_state


def find_moved_modules() -> None:
    """Let the import system look for old names, after everything else."""
    if not any(isinstance(finder, MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(MovedFinder())
