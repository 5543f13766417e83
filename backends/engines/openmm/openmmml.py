"""Models and potentials by name in OpenMM-ML.

>>> system = openmmml.MLPotential("smoothflow", model="model.safetensors").createSystem(topology)

OpenMM-ML makes a `SmoothflowFactory` of every installed package while it is itself being imported, and what goes wrong
then goes wrong for all its users: so nothing is imported here before a potential is asked for, and the classes of
OpenMM-ML are followed, not inherited from.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ....core.potential import Potential


class SmoothflowFactory:
    """What OpenMM-ML calls an ``MLPotentialImplFactory``."""

    def createImpl(self, name: str, model: Any = None, **unknown: Any) -> SmoothflowImplementation:
        """Read the model.

        Args:
            name: ``smoothflow``.
            model: A model file, the name of a model that ships with the package, or any `Potential`.
            unknown: Other arguments, which are an error.

        Raises:
            ConfigurationError: If there is no model, or an argument that does not exist.
            FileFormatError: If the file is missing or not a model.
        """
        from ....core.errors import ConfigurationError
        from ....core.plugins import registry
        from ....core.potential import Potential

        if model is None or unknown:
            given = f"the unknown argument {sorted(unknown)[0]}" if unknown else "no model"
            raise ConfigurationError(
                f'MLPotential("{name}", ...) got {given}. Give it one argument, model: a file, a name or a potential.'
            )
        return SmoothflowImplementation(model if isinstance(model, Potential) else registry().load(model))


class SmoothflowImplementation:
    """What OpenMM-ML calls an ``MLPotentialImpl``.

    Args:
        potential: Any molecular potential with a topology.
    """

    def __init__(self, potential: Potential) -> None:
        self.potential = potential

    def getSupportedEmbeddings(self) -> list[str]:
        """None of its own; OpenMM-ML's mechanical embedding works."""
        return []

    def getMLLongRange(self) -> bool:
        """A molecule in free space does not see its periodic images."""
        return False

    def addForces(
        self, topology: Any, system: Any, atoms: Iterable[int] | None, forceGroup: int, **unknown: Any
    ) -> None:
        """Add the potential to a System.

        Args:
            topology: The ``openmm.app.Topology`` of the System.
            system: The System.
            atoms: Indices of the atoms of the potential; all if None.
            forceGroup: The force group.
            unknown: Other arguments, which are an error.

        Raises:
            ConfigurationError: If an argument does not exist, a periodic box is around the whole molecule, or the
                subset is the whole System.
            TopologyError: If number, elements, bonds or order of the atoms are not the potential's: a subset must be a
                whole molecule, as the potential has no atoms for cut bonds.
        """
        from ....core.errors import ConfigurationError
        from .force import to_openmm_force

        if unknown:
            raise ConfigurationError(
                f"The smoothflow potential has no argument {sorted(unknown)[0]}; give the model to MLPotential."
            )
        particles = [] if atoms is None else list(atoms)
        if len(particles) == topology.getNumAtoms():
            raise ConfigurationError(
                "The subset is the whole System. Use createSystem: createMixedSystem leaves forces in, like implicit "
                "solvent, that the potential contains already."
            )
        force = to_openmm_force(self.potential, topology, particles)
        force.setForceGroup(forceGroup)
        system.addForce(force)
