"""Any potential as an OpenMM force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from ...core.errors import ConfigurationError
from ...core.potential import Potential
from ...core.topology import Topology
from .border import evaluate, import_optional
from .openmm_topology import core_topology


class ForceFunction:
    """What OpenMM calls at every step; a class of a module, so that it can be pickled with the potential inside."""

    def __init__(self, potential: Potential) -> None:
        self.potential = potential

    def __call__(self, state: Any) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        # the bare array: taking the units off properly costs more than the rest of the call
        return evaluate(self.potential, state.getPositions(asNumpy=True)._value)


def to_openmm_force(potential: Potential, topology: Any = None, particles: Sequence[int] = ()) -> Any:
    """The potential as an ``openmm.PythonForce``, to be added to a System.

    The force can be serialized to XML, with the potential inside. Reading such a file back unpickles the potential:
    like any program, it may do anything. Open only files that you trust.

    Args:
        potential: Any molecular potential.
        topology: OpenMM's topology (or ours) of the whole System; if given, elements and their order are checked.
        particles: Which particles of the System the potential acts on, in its order; all if empty.

    Raises:
        ConfigurationError: If the potential is no molecule's, or OpenMM is too old.
        TopologyError: If number, elements or order of the atoms are not the potential's.
        MissingDependencyError: If OpenMM is not installed.
    """
    openmm = import_optional("openmm", "The force for OpenMM", "openmm")
    if not hasattr(openmm, "PythonForce"):
        raise ConfigurationError(
            f"OpenMM {openmm.__version__} has no PythonForce. Install a newer one: pip install 'smoothflow[openmm]'."
        )
    if len(potential.shape) != 2 or potential.shape[1] != 3:
        raise ConfigurationError(f"A potential of shape {potential.shape} is no molecule's; OpenMM cannot run it.")
    if particles and len(particles) != potential.shape[0]:
        raise ConfigurationError(
            f"The potential has {potential.shape[0]} atoms and {len(particles)} particles are named. Name one for each."
        )
    if topology is not None and potential.topology is not None:
        check_elements(potential.topology, core_topology(topology), particles)
    force = openmm.PythonForce(ForceFunction(potential))
    force.setParticles(list(particles))
    return force


def check_elements(ours: Topology, theirs: Topology, particles: Sequence[int] = ()) -> None:
    """Raise a `TopologyError` unless the particles have the potential's elements, in order."""
    elements = theirs.elements
    if particles:
        outside = [i for i in particles if not 0 <= i < len(elements)]
        if outside:
            raise ConfigurationError(f"Particle {outside[0]} does not exist: the topology has {len(elements)} atoms.")
        elements = tuple(elements[i] for i in particles)
    ours.require_elements(elements, "the potential", "the OpenMM topology")
