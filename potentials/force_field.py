"""A molecular-mechanics force field as a batched, differentiable potential: the provider ``torch``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.capture import CapturedFunction
from ..core.errors import CompilationError, ConfigurationError, TopologyError
from ..core.external import attach_forces
from ..core.plugins import registry
from ..core.potential import Potential, hessian_vector_product, unchecked
from ..core.topology import Topology
from ..core.torch_internals import derivatives_are_watched
from .force_terms import GeneralizedBorn, HarmonicAngles, HarmonicBonds, Nonbonded, Torsions, norms
from .kept_code import KeptFunction, in_pieces

CHUNK_ELEMENTS = {"cpu": 2**15, "cuda": 2**23}
"""Pair distances that are worked on at once: on a CPU what its cache holds, elsewhere what memory holds."""

CODE_SIZE = 128
"""Configurations that machine code computes at once, if not one: 64 take as long, each."""

RECORDED_SIZES = tuple(2**i for i in range(14))
"""Batch sizes that are recorded on a GPU: few, since recording takes as long as ten calls."""

COMPILED = "compiled"
"""What follows the files in the name of a force field that is to be compiled."""


class HasSystem(Protocol):
    """A potential that OpenMM evaluates: it keeps its ``openmm.System``."""

    system: Any

    @property
    def topology(self) -> Topology | None:
        """The molecule."""


class ForceField(Potential):
    r"""A molecular-mechanics force field: the energy of an OpenMM System, in torch.

    .. math:: U = U_{\mathrm{bonds}} + U_{\mathrm{angles}} + U_{\mathrm{torsions}} + U_{\mathrm{nonbonded}}
        + U_{\mathrm{solvent}}

    Energies and forces are those of OpenMM's Reference platform; besides, a batch is evaluated at once, on any device,
    and derivatives of any order come from autograd. It computes in the precision it is moved to (`to`; float64 at
    first).

    Args:
        bonded: Terms that take positions, atoms first and batch last.
        pairwise: Terms that take the distances of all pairs i < j.
        topology: The molecule.
    """

    pairs: Tensor

    def __init__(self, bonded: list[nn.Module], pairwise: list[nn.Module], topology: Topology) -> None:
        super().__init__()
        self.bonded = nn.ModuleList(bonded)
        self.pairwise = nn.ModuleList(pairwise)
        self.topology = topology
        self.shape = (len(topology), 3)
        self.dtype = torch.float64
        self.register_buffer("pairs", torch.triu_indices(len(topology), len(topology), 1), persistent=False)

    @classmethod
    def from_system(cls, system: Any, topology: Topology) -> ForceField:
        """The force field of an ``openmm.System`` made of the standard forces.

        Args:
            system: With HarmonicBondForce, HarmonicAngleForce, PeriodicTorsionForce, RBTorsionForce, NonbondedForce and
                GBSAOBCForce, without cutoff, periodicity or constraints. A CMMotionRemover is not part of the energy.
            topology: The same atoms in the same order.

        Raises:
            ConfigurationError: If the System has a force or a feature that this class does not know.
            TopologyError: If the number of atoms differs.
        """
        n_atoms = system.getNumParticles()
        if n_atoms != len(topology):
            raise TopologyError(
                f"The OpenMM System has {n_atoms} particles and the topology {len(topology)} atoms. Create the System "
                "from this topology."
            )
        _require_plain(system)
        terms: list[nn.Module] = []
        for force in system.getForces():
            kind = type(force).__name__
            if kind == "CMMotionRemover":
                continue
            if kind not in READERS:
                raise ConfigurationError(
                    f"The torch force field does not know {kind}; it knows {', '.join(READERS)}. Remove that force, or "
                    "evaluate the System with OpenMM itself."
                )
            _require_unbounded(force)
            terms += READERS[kind](force)
        pairwise = [term for term in terms if isinstance(term, Nonbonded | GeneralizedBorn)]
        return cls([term for term in terms if term not in pairwise], list(pairwise), topology)

    @classmethod
    def from_potential(cls, potential: HasSystem) -> ForceField:
        """The force field of a potential that OpenMM evaluates; raises as `from_system` does."""
        if potential.topology is None:
            raise TopologyError("This potential has no topology; use ForceField.from_system with one.")
        return cls.from_system(potential.system, potential.topology)

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        return torch.cat([self._energy(chunk) for chunk in self._chunks(positions)])

    def energy_and_forces(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]:
        # one chunk's graph at a time
        parts = [super(ForceField, self).energy_and_forces(chunk) for chunk in self._chunks(positions)]
        energies, forces = zip(*parts, strict=True)
        return torch.cat(energies), torch.cat(forces)

    def _chunks(self, positions: Float[Tensor, "batch atoms 3"]) -> tuple[Float[Tensor, "chunk atoms 3"], ...]:
        if isinstance(positions.shape[0], torch.SymInt):
            # traced for any number of configurations: a graph with a number of pieces would hold for few of them
            return (positions,)
        elements = CHUNK_ELEMENTS.get(positions.device.type, CHUNK_ELEMENTS["cuda"])
        return torch.split(positions, max(1, elements // max(1, self.pairs.shape[1])))

    def _energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        columns = positions.permute(1, 2, 0).contiguous()
        energy = columns.new_zeros(positions.shape[0])
        for term in self.bonded:
            energy = energy + term(columns)
        if self.pairwise:
            first, second = (columns.index_select(0, self.pairs[side]) for side in (0, 1))
            distances = norms(first - second)
            for term in self.pairwise:
                energy = energy + term(distances)
        return energy


class CompiledForceField(Potential):
    """A force field as machine code on the CPU, and on a GPU as recorded work: the same numbers up to rounding, faster.

    On the CPU energies alone, forces of many configurations and forces of one are functions of their own, each compiled
    at its first use (seconds; see `KeptFunction`, which also compares it with the force field) and kept in the user's
    cache. On a GPU batches are cut into pieces of `RECORDED_SIZES`, each recorded once and replayed (see
    `CapturedFunction`, which compares as well). Where neither can be had, a warning says why, and it is the force field
    itself. Energies can be differentiated twice; those of the force field itself at will.

    Args:
        force_field: What is compiled.
    """

    def __init__(self, force_field: ForceField) -> None:
        super().__init__()
        self.force_field = force_field
        self.shape = force_field.shape
        self.topology = force_field.topology
        self.dtype, self.device = force_field.dtype, force_field.device
        self._functions: dict[Any, KeptFunction | CapturedFunction] = {}
        self._uncompiled = False

    @property
    def recorded(self) -> Potential | None:
        """The force field, on a GPU."""
        return None if self.device.type == "cpu" or self._uncompiled else self.force_field

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        if derivatives_are_watched() or len(positions) == 0:
            return unchecked(self.force_field, "energy")(positions)  # type: ignore[no-any-return]
        if torch.is_grad_enabled() and positions.requires_grad:
            energy, forces = self._compute("energy_and_forces", positions)
            return attach_forces(positions, energy, forces, partial(hessian_vector_product, self.force_field))
        return self._compute("energy", positions)[0]

    def energy_and_forces(
        self, positions: Float[Tensor, "batch atoms 3"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]:
        if len(positions) == 0:
            return positions.new_zeros(0), torch.zeros_like(positions)
        energy, forces = self._compute("energy_and_forces", positions)
        return energy, forces

    def _compute(self, name: str, positions: Tensor) -> tuple[Tensor, ...]:
        """What a method of the force field gives, by compiled or recorded work if there can be any."""
        if not self._uncompiled:
            try:
                by = self._by_code if positions.device.type == "cpu" else self._by_records
                return by(name, positions.detach())
            except CompilationError as error:
                self._uncompiled = True
                warnings.warn(f"The force field runs uncompiled. {error}", stacklevel=2)
        return self._method(name, positions.detach())

    def _method(self, name: str, positions: Tensor) -> tuple[Tensor, ...]:
        found = unchecked(self.force_field, name)(positions)
        return found if isinstance(found, tuple) else (found,)

    def _by_code(self, name: str, positions: Tensor) -> tuple[Tensor, ...]:
        size = 1 if name == "energy_and_forces" and len(positions) == 1 else CODE_SIZE
        key = (name, size, positions.dtype)
        if key not in self._functions:
            self._functions[key] = KeptFunction(partial(self._method, name), size)
        return self._functions[key](positions)

    def _by_records(self, name: str, positions: Tensor) -> tuple[Tensor, ...]:
        if name not in self._functions:
            reads = list(self.force_field.buffers())
            self._functions[name] = CapturedFunction(partial(self._method, name), reads, limit=len(RECORDED_SIZES))
        whole = len(positions) // RECORDED_SIZES[-1] * RECORDED_SIZES[-1]
        parts = [] if whole == 0 else [in_pieces(self._functions[name], positions[:whole], RECORDED_SIZES[-1])]
        if whole < len(positions):
            size = next(size for size in RECORDED_SIZES if size >= len(positions) - whole)
            parts.append(in_pieces(self._functions[name], positions[whole:], size))
        return tuple(torch.cat(each) for each in zip(*parts, strict=True))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        super()._apply(fn, recurse)
        # what was recorded is of buffers elsewhere
        self._functions = {}
        return self

    def __getstate__(self) -> dict[str, Any]:
        # a copy finds the code in the cache
        return {**self.__dict__, "_functions": {}}


def torch_provider(argument: str, structure: Path) -> ForceField | CompiledForceField:
    """The force field of a molecule in free space, read with OpenMM and evaluated in torch, in float64.

    Args:
        argument: Force-field files, or a serialized System, as the provider ``openmm`` takes them; behind a comma
            ``compiled`` may follow, for machine code on the CPU.
        structure: PDB, mmCIF, SDF or SMILES file with all hydrogens.

    Raises:
        ConfigurationError: If the force field has a force or a feature that `ForceField` does not know.
        SmoothflowError: Whatever the provider ``openmm`` raises.
    """
    files, _, last = argument.rpartition(",")
    compiled = last.strip() == COMPILED
    system = cast("HasSystem", registry().provider("openmm")(files if compiled else argument, structure))
    force_field = ForceField.from_potential(system)
    return CompiledForceField(force_field) if compiled else force_field


def _require_plain(system: Any) -> None:
    n_constraints = system.getNumConstraints()
    if n_constraints:
        raise ConfigurationError(
            f"The System constrains {n_constraints} distances, so it has no energy for all positions. Create it with "
            "constraints=None and rigidWater=False."
        )
    for i in range(system.getNumParticles()):
        if system.isVirtualSite(i):
            raise ConfigurationError(
                f"Particle {i} of the System is a virtual site; the torch force field knows atoms only. Choose a "
                "force field without virtual sites."
            )


def _require_unbounded(force: Any) -> None:
    kind = type(force).__name__
    if force.usesPeriodicBoundaryConditions():
        raise ConfigurationError(
            f"The System's {kind} is periodic; the torch force field is for one molecule in vacuum or implicit "
            "solvent. Create the System with nonbondedMethod=NoCutoff."
        )
    if hasattr(force, "getNonbondedMethod") and force.getNonbondedMethod() != force.NoCutoff:
        raise ConfigurationError(
            f"The System's {kind} has a cutoff; the torch force field sums over all pairs. Create the System with "
            "nonbondedMethod=NoCutoff."
        )


def _plain(values: list[Any]) -> list[Any]:
    """Numbers in nm, kJ/mol, e and radians from OpenMM's quantities."""
    from openmm import unit

    system = unit.md_unit_system
    return [value.value_in_unit_system(system) if unit.is_quantity(value) else value for value in values]


def _rows(number: int, get: Callable[[int], list[Any]]) -> Iterator[list[Any]]:
    return (_plain(get(i)) for i in range(number))


def _read_bonds(force: Any) -> list[nn.Module]:
    rows = list(_rows(force.getNumBonds(), force.getBondParameters))
    if not rows:
        return []
    return [HarmonicBonds([(i, j) for i, j, *_ in rows], [row[2] for row in rows], [row[3] for row in rows])]


def _read_angles(force: Any) -> list[nn.Module]:
    rows = list(_rows(force.getNumAngles(), force.getAngleParameters))
    if not rows:
        return []
    return [HarmonicAngles([(i, j, k) for i, j, k, *_ in rows], [row[3] for row in rows], [row[4] for row in rows])]


def _read_periodic_torsions(force: Any) -> list[nn.Module]:
    rows = [row for row in _rows(force.getNumTorsions(), force.getTorsionParameters) if row[6] != 0]
    if not rows:
        return []
    atoms = [(i, j, k, m) for i, j, k, m, *_ in rows]
    amplitudes = [row[6] for row in rows]
    return [Torsions(atoms, [row[4] for row in rows], [row[5] for row in rows], amplitudes, math.fsum(amplitudes))]


def _read_rb_torsions(force: Any) -> list[nn.Module]:
    rows = list(_rows(force.getNumTorsions(), force.getTorsionParameters))
    if not rows:
        return []
    series = [_cosine_series(row[4:]) for row in rows]
    atoms = [(i, j, k, m) for i, j, k, m, *_ in rows for _ in range(5)]
    harmonics = [n for _ in rows for n in range(1, 6)]
    # a Ryckaert-Bellemans torsion is measured from cis: the angle less pi
    phases = [n * math.pi for n in harmonics]
    amplitudes = [amplitude for one in series for amplitude in one[1:]]
    return [Torsions(atoms, harmonics, phases, amplitudes, math.fsum(one[0] for one in series))]


def _cosine_series(c: list[float]) -> list[float]:
    r"""The coefficients of :math:`\cos n\psi`, n = 0 to 5, in :math:`\sum_n c_n \cos^n \psi`."""
    return [
        c[0] + c[2] / 2 + 3 * c[4] / 8,
        c[1] + 3 * c[3] / 4 + 5 * c[5] / 8,
        c[2] / 2 + c[4] / 2,
        c[3] / 4 + 5 * c[5] / 16,
        c[4] / 8,
        c[5] / 16,
    ]


def _read_nonbonded(force: Any) -> list[nn.Module]:
    if force.getNumParticleParameterOffsets() or force.getNumExceptionParameterOffsets():
        raise ConfigurationError(
            "The System's NonbondedForce has parameter offsets, which depend on a Context; the torch force field needs "
            "fixed parameters. Write them into the particles first."
        )
    n_atoms = force.getNumParticles()
    particles = torch.tensor(list(_rows(n_atoms, force.getParticleParameters)), dtype=torch.float64).reshape(-1, 3)
    charges, sigmas, epsilons = particles.T
    charge_table = charges[:, None] * charges
    sigma_table = 0.5 * (sigmas[:, None] + sigmas)
    epsilon_table = (epsilons[:, None] * epsilons).sqrt()
    for i, j, charge, sigma, epsilon in _rows(force.getNumExceptions(), force.getExceptionParameters):
        i, j = min(i, j), max(i, j)
        charge_table[i, j], sigma_table[i, j], epsilon_table[i, j] = charge, sigma, epsilon
    first, second = torch.triu_indices(n_atoms, n_atoms, 1)
    return [Nonbonded(charge_table[first, second], sigma_table[first, second], epsilon_table[first, second])]


def _read_generalized_born(force: Any) -> list[nn.Module]:
    rows = list(_rows(force.getNumParticles(), force.getParticleParameters))
    charges, radii, scales = torch.tensor(rows, dtype=torch.float64).reshape(-1, 3).T
    (tension,) = _plain([force.getSurfaceAreaEnergy()])
    dielectrics = force.getSoluteDielectric(), force.getSolventDielectric()
    return [GeneralizedBorn(charges, radii, scales, *dielectrics, tension)]


READERS: dict[str, Callable[[Any], list[nn.Module]]] = {
    "HarmonicBondForce": _read_bonds,
    "HarmonicAngleForce": _read_angles,
    "PeriodicTorsionForce": _read_periodic_torsions,
    "RBTorsionForce": _read_rb_torsions,
    "NonbondedForce": _read_nonbonded,
    "GBSAOBCForce": _read_generalized_born,
}
"""The forces that are known, and how they are read."""
