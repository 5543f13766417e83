"""Whether forces derive from an energy of a free molecule, and are continuous."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ...core.differences import (
    CONTINUOUS,
    asymmetry,
    net_force_and_torque,
    numerical_forces,
    numerical_hessian,
    worst_break,
)
from ...core.potential import Potential
from ...core.topology import Topology
from ...core.units import thermal_energy
from ...runs.progress import OnProgress, Progress
from .report import Finding, single
from .scans import bond_scans, torsion_scans, without_overlaps

INCONSISTENCY = 1e-2
"""Soft limit of the literature on the relative difference of forces and finite differences of the energy."""

ASYMMETRY = 1e-3
"""Limit of the literature on the relative asymmetry of the force's Jacobian."""

NET = 1e-4
"""Net force (torque) relative to the root mean square force (times the molecule's radius): single precision."""

CLASH = 1e4
"""Energy above the start's beyond which a turned torsion is not examined, kT: there atoms of a force field coincide,
and its energy is dominated by rounding. Flows stay below, since their walls between turns are some 100 kT high."""


def examine_forces(potential: Potential, frames: Float[Tensor, "n atoms 3"], on_progress: OnProgress) -> list[Finding]:
    r"""Forces against finite differences of the energy, relative to the root mean square over the frames.

    .. math:: \max_{\mathrm{frames}} |F + \partial U / \partial x| / \sqrt{\langle |F|^2 \rangle}

    At a minimum the forces are rounding errors; those of the other frames are not.
    """
    _, forces = potential.energy_and_forces(frames)
    scale = float(forces.flatten(1).norm(dim=1).square().mean().sqrt())
    errors = []
    for i, (frame, given) in enumerate(zip(frames, forces, strict=True)):
        error = float((numerical_forces(potential, frame) - given).norm())
        # without forces, finite differences must vanish as well
        errors.append(error / scale if scale else math.inf if error else 0.0)
        on_progress(Progress("forces", i + 1, len(frames)))
    worst = max(range(len(errors)), key=lambda i: math.inf if math.isnan(errors[i]) else errors[i])
    quantity = "relative difference of forces and -dU/dx"
    note = f"frame {worst}; rms force {scale / math.sqrt(frames[0].numel()):.3g} kJ/mol/nm"
    return [Finding("forces", quantity, single(errors[worst]), high=INCONSISTENCY, note=note)]


def examine_net_force(
    potential: Potential, frames: Float[Tensor, "n atoms 3"], on_progress: OnProgress
) -> list[Finding]:
    """Net force and torque, relative to the root mean square force and the radius of gyration."""
    _, forces = potential.energy_and_forces(frames)
    # without forces there is no net force either
    scale = forces.square().mean().sqrt().clamp(min=torch.finfo(forces.dtype).tiny)
    radius = (frames - frames.mean(1, keepdim=True)).square().sum(-1).mean().sqrt()
    force, torque = (vector.norm(dim=-1).max() / scale for vector in net_force_and_torque(frames, forces))
    on_progress(Progress("net force", 1, 1))
    found = [Finding("net force", "net force / rms force", single(float(force)), high=NET)]
    if frames.shape[1] > 1:
        ratio = single(float(torque / radius))
        found.append(Finding("net force", "net torque / (rms force x radius)", ratio, high=NET))
    return found


def examine_hessian(potential: Potential, frames: Float[Tensor, "n atoms 3"], on_progress: OnProgress) -> list[Finding]:
    """Asymmetry of the force's Jacobian by finite differences of the forces."""
    values = []
    for i, frame in enumerate(frames):
        values.append(asymmetry(numerical_hessian(potential, frame)))
        on_progress(Progress("hessian", i + 1, len(frames)))
    worst = max(range(len(values)), key=values.__getitem__)
    quantity = "relative asymmetry of the Hessian"
    return [Finding("hessian", quantity, single(values[worst]), high=ASYMMETRY, note=f"frame {worst}")]


def examine_continuity(
    potential: Potential,
    frame: Float[Tensor, "atoms 3"],
    topology: Topology,
    temperature: float,
    on_progress: OnProgress,
) -> list[Finding]:
    """Jumps of the forces and of their gradient along scans of bonds, and along whole turns of all torsions."""
    ceiling = float(potential.energy_and_forces(frame[None])[0]) + CLASH * thermal_energy(temperature)
    scans = bond_scans(frame, topology)
    scans += [
        replace(part, ceiling=ceiling) for scan in torsion_scans(frame, topology) for part in without_overlaps(scan)
    ]
    findings = []
    for order, what in enumerate(("jump of forces", "jump of force gradients")):
        found = []
        for i, scan in enumerate(scans):
            found.append(worst_break(potential, scan, order))
            on_progress(Progress("continuity", order * len(scans) + i + 1, 2 * len(scans)))
        worst = max(found, key=lambda one: math.inf if math.isnan(one.share) else one.share)
        n_broken = sum(not one.continuous for one in found)
        unit = "kJ/mol/nm" + ("", " per nm or radian")[order]
        note = f"{worst.size:.3g} {unit} at {worst.at:.6g} of {worst.scan}; found in {n_broken} of {len(scans)} scans"
        quantity = f"{what}, share left of a shrunk change"
        findings.append(Finding("continuity", quantity, single(worst.share), high=CONTINUOUS[order], note=note))
    return findings
