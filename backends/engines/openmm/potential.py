"""An OpenMM System as a potential."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from jaxtyping import Float

from ....core.errors import ConfigurationError, TopologyError, UnknownNameError
from ....core.optional import import_optional
from ....core.topology import Topology, atom_name
from ....molecules.conversions import foreign_elements, topology_from_openmm
from ..bridge import ExternalPotential

SMALL = 100
"""Below this many atoms the platforms are timed; above it OpenMM's own choice wins."""


class OpenMMPotential(ExternalPotential):
    """The potential energy of an OpenMM System, with OpenMM's own forces.

    The Context is made at the first evaluation and kept, one for each process. For small molecules the Reference
    platform is often the fastest by far, but not for every force: unless a platform is named, a few evaluations decide.
    Reference computes in float64; the other platforms in float32 or mixed precision.

    Args:
        system: An ``openmm.System`` without periodic box, constraints or barostat. It is copied; a CMMotionRemover,
            which has no energy, is left out of the copy.
        topology: An ``openmm.app.Topology`` or ours.
        platform: Name of an OpenMM platform.

    Raises:
        ConfigurationError: If the System is not that of a molecule in free space.
        TopologyError: If System and topology differ in the number or masses of their atoms.
        UnknownNameError: If there is no such platform.
        MissingDependencyError: If OpenMM is not installed.
    """

    def __init__(self, system: Any, topology: Any, platform: str | None = None) -> None:
        openmm = import_optional("openmm", "A potential from OpenMM", "openmm")
        super().__init__(topology_from_openmm(topology))
        if platform is not None:
            names = [openmm.Platform.getPlatform(i).getName() for i in range(openmm.Platform.getNumPlatforms())]
            if platform not in names:
                raise UnknownNameError("OpenMM platform", platform, names)
        self.system = _copy(openmm, system)
        _check_system(openmm, self.system, self.topology)
        self.platform = platform
        self._context: Any = None
        self._process = 0

    def evaluate(self, positions: Float[np.ndarray, "atoms 3"]) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        # a Context does not survive a fork
        if self._context is None or self._process != os.getpid():
            openmm = import_optional("openmm", "A potential from OpenMM", "openmm")
            try:
                self._context = make_context(self.system, self.choose_platform(positions))
            # a force on atoms that do not exist, a formula with an undefined name, ...
            except openmm.OpenMMException as error:
                raise ConfigurationError(
                    f"OpenMM cannot compute this System: {error}. Correct the force field or the System."
                ) from error
            self._process = os.getpid()
        return _evaluate(self._context, positions)

    def choose_platform(self, positions: Float[np.ndarray, "atoms 3"]) -> str:
        """The platform named, or else the one that is fastest for this System at these positions (nm)."""
        if self.platform is None:
            self.platform = fastest_platform(self.system, positions)
        return self.platform

    def __getstate__(self) -> dict[str, Any]:
        # copies and other processes make their own Context
        return {**self.__dict__, "_context": None}


def make_context(system: Any, platform: str | None, integrator: Any = None) -> Any:
    """A Context on a platform, by name; mixed precision where the platform has a choice."""
    openmm = import_optional("openmm", "A potential from OpenMM", "openmm")
    integrator = openmm.VerletIntegrator(0.001) if integrator is None else integrator
    if platform is None:
        return openmm.Context(system, integrator)
    chosen = openmm.Platform.getPlatformByName(platform)
    properties = {"Precision": "mixed"} if "Precision" in chosen.getPropertyNames() else {}
    return openmm.Context(system, integrator, chosen, properties)


def fastest_platform(system: Any, positions: Float[np.ndarray, "atoms 3"]) -> str:
    """OpenMM's own choice of a platform, or for a small System Reference if that is faster in five evaluations."""
    default: str = make_context(system, None).getPlatform().getName()
    if system.getNumParticles() >= SMALL or default == "Reference":
        return default
    times = {}
    for name in ("Reference", default):
        context = make_context(system, name)
        _evaluate(context, positions)  # the first evaluation sets things up
        durations = []
        for _ in range(5):
            begin = time.perf_counter()
            _evaluate(context, positions)
            durations.append(time.perf_counter() - begin)
        times[name] = min(durations)  # whatever else the machine does only adds
    return min(times, key=times.__getitem__)


def _evaluate(context: Any, positions: Float[np.ndarray, "atoms 3"]) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def _copy(openmm: Any, system: Any) -> Any:
    """The System without forces that have no energy but act on the motion."""
    copy = openmm.XmlSerializer.clone(system)
    for i in reversed(range(copy.getNumForces())):
        if isinstance(copy.getForce(i), openmm.CMMotionRemover):
            copy.removeForce(i)
    return copy


def _check_system(openmm: Any, system: Any, topology: Topology) -> None:
    n_particles = system.getNumParticles()
    if n_particles != len(topology):
        raise TopologyError(
            f"The OpenMM System has {n_particles} particles and the topology {len(topology)} atoms. "
            "Make both from one structure, without virtual sites."
        )
    if system.usesPeriodicBoundaryConditions():
        raise ConfigurationError(
            "The OpenMM System is periodic; potentials here are those of a molecule in free space. "
            "Build it with nonbondedMethod=NoCutoff."
        )
    if system.getNumConstraints():
        raise ConfigurationError(
            f"The OpenMM System has {system.getNumConstraints()} constraints, which its energy knows nothing of. "
            "Build it with constraints=None and rigidWater=False."
        )
    for force in system.getForces():
        if isinstance(force, _motion_controls(openmm)):
            raise ConfigurationError(
                f"The OpenMM System contains a {type(force).__name__}, which is not a potential energy. Leave it out: "
                "thermostats are chosen where dynamics is run."
            )
    masses = np.array([system.getParticleMass(i)._value for i in range(n_particles)])
    elements = _element_masses(topology)
    hydrogens = masses[elements < 1.5]
    if len(hydrogens) and np.ptp(hydrogens) < 0.1 and hydrogens[0] > 1.5:
        return  # hydrogen masses were repartitioned, so that masses say nothing about elements
    wrong = np.flatnonzero(np.abs(masses - elements) > 0.1)
    if len(wrong):
        i = int(wrong[0])
        raise TopologyError(
            f"In the OpenMM System {atom_name(topology, i)} has mass {masses[i]:.3f} amu, which is not that of "
            f"{topology.atoms[i].element}. Make System and topology from one structure, with atoms in one order."
        )


def _element_masses(topology: Topology) -> Float[np.ndarray, "atoms"]:
    element = import_optional("openmm.app.element", "A potential from OpenMM", "openmm").Element
    return np.array([known.mass._value for known in foreign_elements(topology, element.getBySymbol, "OpenMM")])


def _motion_controls(openmm: Any) -> tuple[type, ...]:
    names = (
        "AndersenThermostat",
        "MonteCarloBarostat",
        "MonteCarloAnisotropicBarostat",
        "MonteCarloMembraneBarostat",
        "MonteCarloFlexibleBarostat",
    )
    return tuple(getattr(openmm, name) for name in names)
