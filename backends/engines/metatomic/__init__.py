"""metatomic: any potential written as a metatomic model, and metatomic models as a provider of potentials.

>>> to_metatomic(potential, "molecule.pt", positions)

Engines that run metatomic models, like LAMMPS, i-PI, ASE, GROMACS and TorchSim, then run it without smoothflow.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jaxtyping import Float
from torch import Tensor, nn

from ....core.errors import ConfigurationError, FileFormatError
from ....core.optional import import_optional
from ....core.plugins import PotentialProvider, hookimpl
from ....core.potential import Potential
from ..ase.potential import ASEPotential

__all__ = ["metatomic_provider", "to_metatomic"]


def to_metatomic(
    potential: Potential,
    path: str | Path,
    positions: Float[Tensor, "batch atoms 3"],
    features: nn.Module | None = None,
) -> None:
    """Write a potential as a metatomic model: one file of TorchScript, with the output ``energy``.

    With features, such as the `Features` of a flow, it has the output ``feature`` as well, (systems, features), which
    PLUMED takes as collective variables. That of a `CommitteePotential` has ``energy_ensemble``, the energy of each
    member, and ``energy_uncertainty``, their standard deviation.

    The energy is traced at the first configuration. What a trace cannot hold, like steps whose number depends on the
    positions or checks that raise, is found by comparing energies and forces at all configurations before the file is
    written: give at least two that differ as much as those in its later use.

    Args:
        potential: A molecular potential with a topology, computed by torch. It is exported in its own precision for
            the CPU.
        path: The file's final name, with suffix ``.pt``.
        positions: nm.
        features: From positions (batch, atoms, 3) to features (batch, features), differentiable and of torch.

    Raises:
        ConfigurationError: If the potential or its features cannot be exported, or what is traced gives other energies,
            forces or features.
        MissingDependencyError: If metatomic-torch is not installed.
    """
    path = Path(path)
    if path.suffix != ".pt":
        raise ConfigurationError(f'metatomic models have the suffix .pt; "{path}" has not.')
    if potential.topology is None:
        raise ConfigurationError("The potential has no topology, and a metatomic model must know its elements.")
    if len(positions) < 2:
        raise ConfigurationError("Give two configurations or more: one is traced, the others show that it is right.")
    with without_deprecations():
        import_optional("metatomic.torch", "The export to metatomic", "metatomic")
        from .model import export

        export(potential, path, positions, features)


def metatomic_provider(argument: str, structure: Path) -> ASEPotential:
    """The potential in a metatomic model, through metatomic's calculator for ASE.

    Args:
        argument: Path of the model; running it runs its TorchScript, which cannot do more than compute.
        structure: Any file with one molecule that ASE reads, like PDB or XYZ.

    Raises:
        FileFormatError: If a file is missing or is not what it should be.
        MissingDependencyError: If metatomic-torch or ASE is not installed.
    """
    io = import_optional("ase.io", "The metatomic provider", "metatomic")
    for path, what in ((Path(argument), "model"), (structure, "structure")):
        if not path.is_file():
            raise FileFormatError(f'There is no file "{path}". Give the path of the {what}.')
    with without_deprecations():
        calculators = import_optional("metatomic_ase", "The metatomic provider", "metatomic")
    try:
        with without_deprecations():
            calculator = calculators.MetatomicCalculator(argument)
        atoms = io.read(str(structure))
    # torch's and ASE's readers raise whatever a wrong byte gives
    except Exception as error:
        raise FileFormatError(
            f'"{argument}" or "{structure}" cannot be read: {type(error).__name__}: {error}.'
        ) from error
    atoms.pbc = False  # a PDB file's unit cell says nothing about the molecule
    potential = ASEPotential(calculator, atoms)
    potential.energy_name = "energy"  # the calculator lists the free energy too, but has none
    return potential


@contextmanager
def without_deprecations() -> Iterator[None]:
    """Without torch's warnings that TorchScript is deprecated: metatomic is TorchScript."""
    with warnings.catch_warnings():
        # a DeprecationWarning, and from torch 2.14 on a FutureWarning
        warnings.filterwarnings("ignore", "`torch.jit")
        yield


@hookimpl
def smoothflow_providers() -> Mapping[str, PotentialProvider]:
    return {"metatomic": metatomic_provider}
