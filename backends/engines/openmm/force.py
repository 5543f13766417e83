"""Any potential as an OpenMM force."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....core.errors import ConfigurationError
from ....core.optional import import_optional
from ....core.potential import Potential, unchecked
from ....core.topology import Topology
from ....molecules.conversions import topology_from_openmm
from ..bridge import Evaluator, require_molecular


class ForceFunction:
    """What OpenMM calls at every step; a class of a module, so that it can be pickled with the potential inside.

    The first configuration of each Context, and any that jumps, is checked: a wrong unit or order, and another isomer.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._evaluator = Evaluator(potential, "OpenMM")

    def __call__(self, state: Any) -> tuple[float, Float[np.ndarray, "atoms 3"]]:
        # what getPositions(asNumpy=True) does, without the units that cost more than the rest of the call
        positions = np.empty((state._getNumParticles(), 3))
        state._getVectorAsNumpy(state.Positions, positions)
        return self._evaluator(positions)

    def __reduce__(self) -> tuple[type[ForceFunction], tuple[Potential]]:
        # a copy checks again: it may run elsewhere
        return ForceFunction, (self.potential,)


class TensorForceFunction:
    """What a PythonTorchForce calls: `ForceFunction` with tensors, which need not leave the GPU.

    The first configuration of each Context is checked.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential
        self._evaluator = Evaluator(potential, "OpenMM")
        self._compute = unchecked(potential, "energy_and_forces")
        self._begun = False

    def __call__(
        self, state: Any, positions: Float[Tensor, "atoms 3"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "atoms 3"]]:
        x = positions.detach().to(self.potential.device, self.potential.dtype)
        if self._begun:
            energy, forces = self._compute(x.unsqueeze(0))
            if bool(torch.isfinite(energy.sum() + forces.sum())):
                return energy[0], forces[0].to(positions)
        # a beginning, or an end: checked, and errors say what is wrong
        value, array = self._evaluator(x.double().cpu().numpy())
        self._begun = True
        return torch.tensor(value, dtype=torch.float64), torch.from_numpy(array).to(positions)

    def __reduce__(self) -> tuple[type[TensorForceFunction], tuple[Potential]]:
        # a copy checks anew: it may run elsewhere
        return TensorForceFunction, (self.potential,)


def to_openmm_force(potential: Potential, topology: Any = None, particles: Sequence[int] = ()) -> Any:
    """The potential as an OpenMM force, to be added to a System.

    It is a PythonForce, or, if the potential is on a GPU and the package openmmtorch is installed, its
    PythonTorchForce, which takes and gives tensors. Of a part of a System it is a CustomCVForce with such a force and
    the molecule's bonds, of no strength, inside: by these OpenMM keeps the molecule in one piece where it wraps or
    scales positions in a periodic box, in reporters and barostats above all.

    The force can be serialized to XML, with the potential inside. Reading such a file back unpickles the potential:
    like any program, it may do anything. Open only files that you trust.

    Args:
        potential: Any molecular potential.
        topology: OpenMM's topology (or ours) of the whole System; if given, elements, names and bonds are compared in
            order.
        particles: Which particles of the System the potential acts on, in its order; all if empty.

    Raises:
        ConfigurationError: If the potential is not a molecule's, the particles do not fit it or have no known bonds, a
            periodic box is around the whole molecule, or OpenMM is too old. While running, another number of particles
            stops OpenMM, and so do first positions that are not a configuration of the molecule.
        TopologyError: If number, elements, names, bonds or order of the atoms are not the potential's.
        MissingDependencyError: If OpenMM is not installed.
    """
    openmm = import_optional("openmm", "The force for OpenMM", "openmm")
    if not hasattr(getattr(openmm, "PythonForce", None), "setParticles"):
        raise ConfigurationError(
            f"OpenMM {openmm.__version__} has no PythonForce of chosen particles. Install a newer one: "
            "pip install 'smoothflow[openmm]'."
        )
    require_molecular(potential, "OpenMM")
    particles = [int(i) for i in particles]
    if particles and (len(particles) != potential.shape[0] or len(set(particles)) != len(particles)):
        raise ConfigurationError(
            f"The potential has {potential.shape[0]} atoms and {len(set(particles))} different particles are named. "
            "Name one for each."
        )
    if topology is not None:
        _check(potential.topology, topology, particles)
    tensors = _tensor_force() if potential.device.type == "cuda" else None
    force = openmm.PythonForce(ForceFunction(potential)) if tensors is None else tensors(TensorForceFunction(potential))
    force.setParticles(particles)
    if particles:
        force = _bonded(openmm, force, particles, _bonds(potential.topology, topology, particles))
    force.setName("smoothflow")
    return force


def _tensor_force() -> Any:
    """The class PythonTorchForce, where there is one; openmmtorch has it since June 2026."""
    try:
        import openmmtorch
    except ImportError:
        return None
    return getattr(openmmtorch, "PythonTorchForce", None)


def _bonded(openmm: Any, force: Any, particles: Sequence[int], bonds: Sequence[tuple[int, int]]) -> Any:
    """The force, with bonds of no strength: of a PythonForce OpenMM does not know what it holds together."""
    together = openmm.HarmonicBondForce()
    for i, j in bonds:
        together.addBond(particles[i], particles[j], 0.0, 0.0)
    both = openmm.CustomCVForce("potential")
    both.addCollectiveVariable("potential", force)
    both.addCollectiveVariable("bonds", together)
    return both


def _bonds(ours: Topology | None, topology: Any, particles: Sequence[int]) -> Sequence[tuple[int, int]]:
    """The bonds of the molecule, by the potential's or else by OpenMM's topology; in the potential's order."""
    known = [] if ours is None else list(ours.bonds)
    if not known and topology is not None:
        known = list(topology_from_openmm(topology, particles).bonds)
    if not known and len(particles) > 1:
        raise ConfigurationError(
            "Neither the potential nor the topology given knows bonds, without which OpenMM's barostats and reporters "
            "take the molecule apart. Give an OpenMM topology with bonds (topology.createStandardBonds() makes them)."
        )
    return known


def _check(ours: Topology | None, topology: Any, particles: Sequence[int]) -> None:
    """Raise unless the particles of a topology are a potential's molecule."""
    theirs = topology_from_openmm(topology, particles)
    periodic = getattr(topology, "getPeriodicBoxVectors", lambda: None)() is not None
    if periodic and not particles:
        raise ConfigurationError(
            "The OpenMM topology has a periodic box, but the potential is that of a molecule in free space. Remove the "
            "box with topology.setPeriodicBoxVectors(None), or name the particles of the molecule in it."
        )
    if ours is not None:
        ours.require_same(theirs, "the potential", "the OpenMM topology")
