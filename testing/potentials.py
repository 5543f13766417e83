"""The contract of a potential, in executable form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.differences import asymmetry, net_force_and_torque, numerical_hessian, straight_scan, worst_break
from ..core.errors import ConfigurationError, SmoothflowError
from ..core.potential import Potential
from .report import Clause, Numbers, Report, check_clauses, raising, require_within, violated

STEP = 1e-4
"""Step of finite differences, nm: between the rounding of energies and the third derivatives of stiff bonds."""

PATH_LENGTH = 0.02
"""Length of the paths on which continuity is checked, nm: several widths of a bond's distribution."""


@dataclass(frozen=True)
class PotentialCase:
    """A potential, and configurations at which to check it.

    Attributes:
        potential: What is checked.
        positions: nm.
        tolerance: Relative to the root mean square force, and to the energies' magnitude.
        smooth: Whether it claims that neither forces nor force gradients jump.
        seed: Seed of random directions.
    """

    potential: Potential
    positions: Float[Tensor, "batch *shape"]
    tolerance: float
    smooth: bool
    seed: int

    def energies(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        """Energies, kJ/mol, without a graph."""
        return self.potential.energy_and_forces(positions)[0]

    def force_scale(self) -> float:
        """Root mean square of the force components, kJ/mol/nm; not zero."""
        forces = self.potential.energy_and_forces(self.positions)[1]
        return float(forces.square().mean().sqrt()) + 1e-12

    def energy_scale(self) -> float:
        """Magnitude of the energies, kJ/mol, at least 1."""
        return 1 + float(self.energies(self.positions).abs().max())


def check_kept(case: PotentialCase) -> Numbers:
    potential = case.potential
    shape = tuple(case.positions.shape[1:])
    if tuple(potential.shape) != shape:
        violated(f"its shape is {tuple(potential.shape)}, but one configuration has the shape {shape}.")
    if potential.topology is not None and shape != (len(potential.topology), 3):
        violated(f"its topology has {len(potential.topology)} atoms, but its shape is {shape}.")
    for n in (1, len(case.positions)):
        positions = case.positions[:n]
        kept = positions.clone()
        energy, forces = potential.energy_and_forces(positions)
        if not torch.equal(kept, positions):
            violated("energy_and_forces changes its input.")
        if energy.shape != (n,) or forces.shape != positions.shape:
            violated(f"{n} configurations gave energies {tuple(energy.shape)} and forces {tuple(forces.shape)}.")
        if energy.requires_grad or forces.requires_grad:
            violated("energy_and_forces must return numbers without a graph.")
        if energy.dtype != positions.dtype or forces.dtype != positions.dtype:
            violated(f"positions of {positions.dtype} gave energies of {energy.dtype} and forces of {forces.dtype}.")
        if not bool(torch.isfinite(energy).all() & torch.isfinite(forces).all()):
            violated("energies and forces must be finite at the given configurations.")
    return {"force rms": case.force_scale()}


def check_consistency(case: PotentialCase) -> Numbers:
    energy, forces = case.potential.energy_and_forces(case.positions)
    with torch.enable_grad():
        leaf = case.positions.detach().requires_grad_(True)
        own = case.potential.energy(leaf)
        (gradient,) = torch.autograd.grad(own.sum(), leaf)
    message = "energy() and energy_and_forces() give different energies."
    require_within((own - energy).abs(), case.tolerance * case.energy_scale(), message)
    message = "the forces of energy_and_forces() are not minus the gradient of energy()."
    error = (forces + gradient).abs() / case.force_scale()
    return {"largest relative error": require_within(error, case.tolerance, message)}


def check_determinism(case: PotentialCase) -> Numbers:
    energy, forces = case.potential.energy_and_forces(case.positions)
    turned, turned_forces = case.potential.energy_and_forces(case.positions.flip(0))
    message = "the energy of a configuration depends on the others in the batch, or on the call."
    require_within((turned.flip(0) - energy).abs(), case.tolerance * case.energy_scale(), message)
    error = (turned_forces.flip(0) - forces).abs() / case.force_scale()
    message = "the forces on a configuration depend on the others in the batch, or on the call."
    return {"largest relative change": require_within(error, case.tolerance, message)}


def check_forces(case: PotentialCase) -> Numbers:
    generator = torch.Generator().manual_seed(case.seed)
    _, forces = case.potential.energy_and_forces(case.positions)
    largest = 0.0
    for _ in range(4):
        direction = torch.randn(case.positions.shape, generator=generator, dtype=torch.float64).to(case.positions)
        direction = direction / direction.flatten(1).norm(dim=1).reshape(-1, *[1] * (direction.ndim - 1))
        plus, minus = (case.energies(case.positions + sign * STEP * direction) for sign in (1, -1))
        slope = -(plus - minus) / (2 * STEP)
        expected = (forces * direction).flatten(1).sum(1)
        message = "the forces are not minus the finite differences of the energy."
        error = (slope - expected).abs() / case.force_scale()
        largest = max(largest, require_within(error, 10 * case.tolerance, message, positions=case.positions))
    return {"largest relative error": largest}


def check_curvature(case: PotentialCase) -> Numbers:
    """The Hessian of the first configurations by finite differences of the forces."""
    largest = stiffest = 0.0
    for positions in case.positions[:2]:
        hessian = numerical_hessian(case.potential, positions, STEP)
        message = "the force's Jacobian is not symmetric: it is not a gradient of an energy."
        error = torch.tensor([asymmetry(hessian)])
        # 1e-3: what is asked of machine-learned potentials
        largest = max(largest, require_within(error, max(1e-3, case.tolerance), message, positions=positions[None]))
        stiffest = max(stiffest, float(torch.linalg.matrix_norm(0.5 * (hessian + hessian.T), ord=2)))
    return {"asymmetry": largest, "largest force gradient": stiffest}


def check_invariance(case: PotentialCase) -> Numbers | None:
    if case.potential.topology is None:
        return None
    generator = torch.Generator().manual_seed(case.seed)
    rotation, _ = torch.linalg.qr(torch.randn((3, 3), generator=generator, dtype=torch.float64))
    rotation = (rotation * torch.linalg.det(rotation)).to(case.positions)
    shift = torch.tensor([0.3, -0.2, 0.1]).to(case.positions)
    energy, forces = case.potential.energy_and_forces(case.positions)
    moved, moved_forces = case.potential.energy_and_forces(case.positions @ rotation.T + shift)
    # positions are rounded when they are rotated, and stiff bonds feel it
    message = "the energy of a molecule changes when it is moved as a whole."
    rounding = 10 * torch.finfo(case.positions.dtype).eps * case.force_scale() * math.sqrt(case.positions[0].numel())
    require_within((moved - energy).abs(), case.tolerance * case.energy_scale() + rounding, message)
    message = "the forces do not turn with the molecule."
    error = (moved_forces - forces @ rotation.T).abs() / case.force_scale()
    return {"largest relative error": require_within(error, 100 * case.tolerance, message)}


def check_net_force(case: PotentialCase) -> Numbers | None:
    if case.potential.topology is None:
        return None
    _, forces = case.potential.energy_and_forces(case.positions)
    scale = case.force_scale()
    force, torque = (vector.abs() / scale for vector in net_force_and_torque(case.positions, forces))
    limit = 100 * case.tolerance
    message = "the net force on a molecule is not zero."
    largest = require_within(force.amax(1), limit, message, positions=case.positions)
    message = "the net torque on a molecule is not zero."
    return {"force": largest, "torque": require_within(torque.amax(1), limit, message, positions=case.positions)}


def check_continuity(case: PotentialCase) -> Numbers | None:
    """On straight paths through the configurations; what is left of a change over a shrinking cell."""
    if not case.smooth:
        return None
    generator = torch.Generator().manual_seed(case.seed)
    shares = [0.0, 0.0]
    for i, positions in enumerate(case.positions):
        for order, what in enumerate(("forces", "force gradients")):
            scan = straight_scan(positions, generator, PATH_LENGTH)
            found = worst_break(case.potential, scan, order)
            if not found.continuous:
                violated(
                    f"the {what} jump along a straight path; a potential that claims to be smooth has none that do.",
                    inputs=f"{found.at:.9g} nm from configuration {i}",
                    jump=found.size,
                    share_left=found.share,
                )
            shares[order] = max(shares[order], found.share)
    return {"forces": shares[0], "force gradients": shares[1]}


def check_bad_values(case: PotentialCase) -> Numbers:
    positions = case.positions[:2].clone()
    positions[0].flatten()[0] = math.nan
    try:
        energy, forces = case.potential.energy_and_forces(positions)
    except SmoothflowError:
        return {}
    if bool(torch.isfinite(energy[0])) and bool(torch.isfinite(forces[0]).all()):
        violated("NaN among the positions is hidden: energy and forces are finite numbers.")
    return {}


_CLAUSES: tuple[Clause[PotentialCase], ...] = (
    Clause(
        "kept",
        "shapes and dtype are those of the input, numbers are finite and without a graph",
        check_kept,
        "Engines and training would stop at a shape, or compute in another precision than they say. Return one energy "
        "per configuration and forces like the positions, detached.",
    ),
    Clause(
        "consistency",
        "energy and energy_and_forces agree",
        check_consistency,
        "Training differentiates energy() and engines call energy_and_forces(): they would use two potentials. "
        "Compute both from one expression.",
    ),
    Clause(
        "determinism",
        "the same configuration has the same energy, in any batch",
        check_determinism,
        "Energies would depend on how configurations are batched. Look for sums over the batch, random numbers, and "
        "state that is kept between calls.",
    ),
    Clause(
        "forces",
        "forces are minus the finite differences of the energy",
        check_forces,
        "Dynamics heats or cools, and training on these forces learns another energy than the one that is reported. "
        "Look at the sign and unit of the forces (kJ/mol/nm), and at terms that one of the two lacks.",
    ),
    Clause(
        "curvature",
        "the force's Jacobian is symmetric; its norm is reported",
        check_curvature,
        "No energy has these forces: work around a closed path is not zero, and dynamics heats. Look for terms that "
        "act on one atom of a pair, and for neighbours or charges frozen in the derivative.",
    ),
    Clause(
        "invariance",
        "a molecule moved as a whole keeps its energy",
        check_invariance,
        "A free molecule would feel where it is and how it is turned. Compute from distances, angles and torsions, "
        "and take off the centre before anything in single precision.",
    ),
    Clause(
        "net-force",
        "a molecule feels no net force and no net torque",
        check_net_force,
        "The molecule would accelerate or spin by itself. Look for external fields, for restraints, and for forces "
        "lost on some atoms.",
    ),
    Clause(
        "continuity",
        "forces and force gradients do not jump, where that is claimed",
        check_continuity,
        "Energy is not conserved where forces jump, and the order of integrators is lost where they kink. Look for "
        "cutoffs, clamps and switching functions, or claim less.",
    ),
    Clause(
        "bad-values",
        "NaN is an error, or stays NaN",
        check_bad_values,
        "A simulation that failed would go on with made-up numbers. Leave nan_to_num out, or raise a SmoothflowError.",
    ),
)

POTENTIAL_CLAUSES: tuple[str, ...] = tuple(clause.name for clause in _CLAUSES)
"""Names of the clauses of a potential's contract, in the order in which they are checked."""


def examine_potential(
    potential: Potential,
    positions: Float[Tensor, "batch *shape"],
    clauses: Sequence[str] | None = None,
    tolerance: float = 1e-6,
    smooth: bool = False,
    seed: int = 0,
) -> Report:
    """Check a potential against its contract, and report what held and what did not.

    Args:
        potential: Any potential.
        positions: At least two configurations at which energies are ordinary, nm.
        clauses: Which of `POTENTIAL_CLAUSES`; by default, all.
        tolerance: Relative rounding error of energies and forces; 1e-3 or so for an engine in single precision.
        smooth: Whether the potential, in float64, claims that neither its forces nor their gradient jump; else
            continuity is not checked.
        seed: Seed of random directions.

    Raises:
        ConfigurationError: If there is no clause of that name, or too few configurations.
    """
    if len(positions) < 2:
        raise ConfigurationError("A potential is checked on at least two configurations.")
    case = PotentialCase(potential, positions.detach(), tolerance, smooth, seed)
    return check_clauses(f"Potential {type(potential).__name__}", _CLAUSES, {"": case}, clauses)


check_potential = raising(examine_potential)
