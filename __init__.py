"""Normalizing flows as smooth molecular potentials and samplers."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.moved import find_moved_modules

if TYPE_CHECKING:
    from .analysis.estimates import mean_of_independent
    from .analysis.evaluation import evaluate
    from .analysis.reweighting import clipped_ess_fraction, ess_fraction, free_energy_difference, weighted_mean
    from .backends.engines.ase import ASEJumps, SmoothflowCalculator
    from .backends.engines.ipi import SmoothflowPES
    from .backends.engines.lammps import attach_to_lammps, new_lammps
    from .backends.engines.metatomic import to_metatomic
    from .backends.engines.openmm import OpenMMJumps, to_openmm_force
    from .coordinates.internal import InternalCoordinates
    from .coordinates.zmatrix import ZMatrix
    from .core.architecture import FlowSettings, build_flow
    from .core.charts import Chart
    from .core.committee import CommitteePotential
    from .core.engine import DynamicsSettings, Engine
    from .core.errors import SmoothflowError
    from .core.flow import Flow
    from .core.hooks import hookimpl
    from .core.integrator import Integrator, State, maxwell_boltzmann
    from .core.manifolds import Circle, Interval, Line, Manifold
    from .core.plugins import registry
    from .core.potential import Potential
    from .core.topology import Atom, Topology
    from .core.transforms import Transform
    from .integrators.simulation import Simulation
    from .molecules.elements import masses
    from .molecules.frames import Frames
    from .molecules.frames_file import read_frames, write_frames
    from .molecules.shipped import molecule_path
    from .molecules.topologies import Structure, read_structure, topology_from_pdb, topology_from_smiles
    from .potentials.captured import CapturedPotential
    from .potentials.compilation import compile_potential
    from .potentials.compiled import CompiledPotential
    from .potentials.familiarity import Familiarity
    from .potentials.features import Features
    from .potentials.flow_potential import FlowPotential
    from .potentials.force_field import ForceField
    from .potentials.model_file import add_provenance, read_header, save_model
    from .potentials.parallel import ParallelPotential
    from .potentials.reference import reference
    from .potentials.shipped import load
    from .potentials.sums import SumPotential
    from .potentials.temperatures import TemperatureRange
    from .sampling.simulate import SimulateSettings, simulate
    from .training.config import LossWeights, TrainSettings, read_settings
    from .training.reproduction import reproduce
    from .training.run import train

__version__ = "0.2.0"

find_moved_modules()

__all__ = [
    "ASEJumps",
    "Atom",
    "CapturedPotential",
    "Chart",
    "Circle",
    "CommitteePotential",
    "CompiledPotential",
    "DynamicsSettings",
    "Engine",
    "Familiarity",
    "Features",
    "Flow",
    "FlowPotential",
    "FlowSettings",
    "ForceField",
    "Frames",
    "Integrator",
    "InternalCoordinates",
    "Interval",
    "Line",
    "LossWeights",
    "Manifold",
    "OpenMMJumps",
    "ParallelPotential",
    "Potential",
    "SimulateSettings",
    "Simulation",
    "SmoothflowCalculator",
    "SmoothflowError",
    "SmoothflowPES",
    "State",
    "Structure",
    "SumPotential",
    "TemperatureRange",
    "Topology",
    "TrainSettings",
    "Transform",
    "ZMatrix",
    "add_provenance",
    "attach_to_lammps",
    "build_flow",
    "clipped_ess_fraction",
    "compile_potential",
    "ess_fraction",
    "evaluate",
    "free_energy_difference",
    "hookimpl",
    "load",
    "masses",
    "maxwell_boltzmann",
    "mean_of_independent",
    "molecule_path",
    "new_lammps",
    "read_frames",
    "read_header",
    "read_settings",
    "read_structure",
    "reference",
    "registry",
    "reproduce",
    "save_model",
    "simulate",
    "to_metatomic",
    "to_openmm_force",
    "topology_from_pdb",
    "topology_from_smiles",
    "train",
    "weighted_mean",
    "write_frames",
]

_HOMES = {
    "ASEJumps": ".backends.engines.ase",
    "Atom": ".core.topology",
    "CapturedPotential": ".potentials.captured",
    "Chart": ".core.charts",
    "Circle": ".core.manifolds",
    "CommitteePotential": ".core.committee",
    "CompiledPotential": ".potentials.compiled",
    "DynamicsSettings": ".core.engine",
    "Engine": ".core.engine",
    "Familiarity": ".potentials.familiarity",
    "Features": ".potentials.features",
    "Flow": ".core.flow",
    "FlowPotential": ".potentials.flow_potential",
    "FlowSettings": ".core.architecture",
    "ForceField": ".potentials.force_field",
    "Frames": ".molecules.frames",
    "Integrator": ".core.integrator",
    "InternalCoordinates": ".coordinates.internal",
    "Interval": ".core.manifolds",
    "Line": ".core.manifolds",
    "LossWeights": ".training.config",
    "Manifold": ".core.manifolds",
    "OpenMMJumps": ".backends.engines.openmm",
    "ParallelPotential": ".potentials.parallel",
    "Potential": ".core.potential",
    "SimulateSettings": ".sampling.simulate",
    "Simulation": ".integrators.simulation",
    "SmoothflowCalculator": ".backends.engines.ase",
    "SmoothflowError": ".core.errors",
    "SmoothflowPES": ".backends.engines.ipi",
    "State": ".core.integrator",
    "Structure": ".molecules.topologies",
    "SumPotential": ".potentials.sums",
    "TemperatureRange": ".potentials.temperatures",
    "Topology": ".core.topology",
    "TrainSettings": ".training.config",
    "Transform": ".core.transforms",
    "ZMatrix": ".coordinates.zmatrix",
    "add_provenance": ".potentials.model_file",
    "attach_to_lammps": ".backends.engines.lammps",
    "build_flow": ".core.architecture",
    "clipped_ess_fraction": ".analysis.reweighting",
    "compile_potential": ".potentials.compilation",
    "ess_fraction": ".analysis.reweighting",
    "evaluate": ".analysis.evaluation",
    "free_energy_difference": ".analysis.reweighting",
    "hookimpl": ".core.hooks",
    "load": ".potentials.shipped",
    "masses": ".molecules.elements",
    "maxwell_boltzmann": ".core.integrator",
    "mean_of_independent": ".analysis.estimates",
    "molecule_path": ".molecules.shipped",
    "new_lammps": ".backends.engines.lammps",
    "read_frames": ".molecules.frames_file",
    "read_header": ".potentials.model_file",
    "read_settings": ".training.config",
    "read_structure": ".molecules.topologies",
    "reference": ".potentials.reference",
    "registry": ".core.plugins",
    "reproduce": ".training.reproduction",
    "save_model": ".potentials.model_file",
    "simulate": ".sampling.simulate",
    "to_metatomic": ".backends.engines.metatomic",
    "to_openmm_force": ".backends.engines.openmm",
    "topology_from_pdb": ".molecules.topologies",
    "topology_from_smiles": ".molecules.topologies",
    "train": ".training.run",
    "weighted_mean": ".analysis.reweighting",
    "write_frames": ".molecules.frames_file",
}
"""The modules of the public names."""

DEPRECATED = {
    "load_compiled": (".potentials.compiled", "read_compiled", "load"),
    "load_model": (".potentials.model_file", "read_model", "load"),
}
"""Names of version 0.1: module and name of what they give, and what takes their place."""


def __getattr__(name: str) -> Any:
    # found when asked for: ASE and OpenMM are optional, and programs that look for their plug-ins here, while they
    # start, must neither wait for torch nor fail with it
    if name in _HOMES:
        return getattr(import_module(_HOMES[name], __name__), name)
    if name in DEPRECATED:
        module, now, instead = DEPRECATED[name]
        warnings.warn(f"smoothflow.{name} is deprecated: call smoothflow.{instead}.", DeprecationWarning, stacklevel=2)
        return getattr(import_module(module, __name__), now)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
