"""The terms of a molecular-mechanics energy, batched and differentiable to any order.

Inside, the batch is the last axis: an atom's coordinates in all configurations lie together, so that gathering atoms
copies whole rows and scattering their gradients adds whole rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

COULOMB = 138.93545764438198
"""Coulomb's constant in kJ/mol nm/e^2, from the CODATA values of 2018, which OpenMM uses."""

OBC_OFFSET = 0.009
"""What the generalized Born model takes off an atom's radius, nm."""

OBC_TANH = (1.0, 0.8, 4.85)
"""The coefficients alpha, beta and gamma of the model called OBC II."""

PROBE_RADIUS = 0.14
"""Radius of a water molecule in the surface-area term, nm."""


def norms(vectors: Float[Tensor, "count 3 batch"]) -> Float[Tensor, "count batch"]:
    """The length of each vector; written out because a reduction over three elements is slow."""
    x, y, z = vectors.unbind(1)
    return torch.sqrt(x * x + y * y + z * z)


class Term(nn.Module):
    """What the terms share: constants that move with the module and are part of no checkpoint."""

    def _indices(self, name: str, values: Sequence[int] | Tensor) -> None:
        self.register_buffer(name, torch.as_tensor(values, dtype=torch.long), persistent=False)

    def _column(self, name: str, values: Sequence[float] | Tensor) -> None:
        column = torch.as_tensor(values, dtype=torch.float64)[:, None]
        self.register_buffer(name, column, persistent=False)


class HarmonicBonds(Term):
    r"""Harmonic bonds.

    .. math:: U = \tfrac12 \sum_b k_b (r_b - r_b^0)^2

    Args:
        atoms: The two atoms of each bond.
        lengths: Rest lengths, nm.
        stiffnesses: kJ/mol/nm^2.
    """

    length: Tensor
    stiffness: Tensor

    def __init__(
        self, atoms: Sequence[tuple[int, int]], lengths: Sequence[float], stiffnesses: Sequence[float]
    ) -> None:
        super().__init__()
        for i, members in enumerate(zip(*atoms, strict=True)):
            self._indices(f"atom{i}", members)
        self._column("length", lengths)
        self._column("stiffness", stiffnesses)

    def forward(self, positions: Float[Tensor, "atoms 3 batch"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol."""
        first, second = (positions.index_select(0, self.get_buffer(f"atom{i}")) for i in range(2))
        return 0.5 * (self.stiffness * (norms(first - second) - self.length) ** 2).sum(0)


class HarmonicAngles(Term):
    r"""Harmonic angles.

    .. math:: U = \tfrac12 \sum_a k_a (\theta_a - \theta_a^0)^2

    Args:
        atoms: The three atoms of each angle, its apex in the middle.
        angles: Rest angles, radians.
        stiffnesses: kJ/mol.
    """

    angle: Tensor
    stiffness: Tensor

    def __init__(
        self, atoms: Sequence[tuple[int, int, int]], angles: Sequence[float], stiffnesses: Sequence[float]
    ) -> None:
        super().__init__()
        for i, members in enumerate(zip(*atoms, strict=True)):
            self._indices(f"atom{i}", members)
        self._column("angle", angles)
        self._column("stiffness", stiffnesses)

    def forward(self, positions: Float[Tensor, "atoms 3 batch"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol."""
        first, apex, last = (positions.index_select(0, self.get_buffer(f"atom{i}")) for i in range(3))
        a, b = first - apex, last - apex
        # unlike arccos of the cosine, accurate near 0 and pi as well
        angle = torch.atan2(torch.linalg.vector_norm(torch.linalg.cross(a, b, dim=1), dim=1), (a * b).sum(1))
        return 0.5 * (self.stiffness * (angle - self.angle) ** 2).sum(0)


class Torsions(Term):
    r"""Fourier series of torsions.

    .. math:: U = \sum_t \left[ c_t + k_t \cos(n_t \varphi_t - \delta_t) \right]

    Periodic torsions and Ryckaert-Bellemans torsions are both of this form. Terms on the same four atoms share the
    torsion's evaluation.

    Args:
        atoms: The four atoms of each term.
        harmonics: The integers n.
        phases: The phases, radians.
        amplitudes: The factors k, kJ/mol.
        constant: The sum of all c, kJ/mol.
    """

    torsion: Tensor
    harmonic: Tensor
    phase: Tensor
    amplitude: Tensor

    def __init__(
        self,
        atoms: Sequence[tuple[int, int, int, int]],
        harmonics: Sequence[int],
        phases: Sequence[float],
        amplitudes: Sequence[float],
        constant: float,
    ) -> None:
        super().__init__()
        distinct = sorted(set(atoms))
        for i, members in enumerate(zip(*distinct, strict=True)):
            self._indices(f"atom{i}", members)
        rank = {quadruple: i for i, quadruple in enumerate(distinct)}
        self._indices("torsion", [rank[quadruple] for quadruple in atoms])
        self._column("harmonic", harmonics)
        self._column("phase", phases)
        self._column("amplitude", amplitudes)
        self.constant = constant

    def forward(self, positions: Float[Tensor, "atoms 3 batch"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol."""
        a, b, c, d = (positions.index_select(0, self.get_buffer(f"atom{i}")) for i in range(4))
        first, axis, last = b - a, c - b, d - c
        before = torch.linalg.cross(first, axis, dim=1)
        after = torch.linalg.cross(axis, last, dim=1)
        sine = norms(axis) * (first * after).sum(1)
        angle = torch.atan2(sine, (before * after).sum(1))
        series = torch.cos(self.harmonic * angle.index_select(0, self.torsion) - self.phase)
        return (self.amplitude * series).sum(0) + self.constant


class Nonbonded(Term):
    r"""Lennard-Jones and Coulomb interactions of all pairs of atoms, without cutoff.

    .. math:: U = \sum_{i<j} 4 \epsilon_{ij} \left[ (\sigma_{ij} / r_{ij})^{12} - (\sigma_{ij} / r_{ij})^6 \right]
        + \frac{1}{4 \pi \epsilon_0} \frac{(q q)_{ij}}{r_{ij}}

    Args:
        charge_products: In e^2, for each pair.
        sigmas: nm.
        epsilons: kJ/mol.
    """

    charge: Tensor
    repulsion: Tensor
    attraction: Tensor

    def __init__(
        self,
        charge_products: Float[Tensor, "pairs"],
        sigmas: Float[Tensor, "pairs"],
        epsilons: Float[Tensor, "pairs"],
    ) -> None:
        super().__init__()
        self._column("charge", COULOMB * charge_products)
        self._column("repulsion", 4 * epsilons * sigmas**12)
        self._column("attraction", 4 * epsilons * sigmas**6)

    def forward(self, distances: Float[Tensor, "pairs batch"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol."""
        inverse = distances.reciprocal()
        square = inverse * inverse
        sixth = square * square * square
        return (sixth * (self.repulsion * sixth - self.attraction) + self.charge * inverse).sum(0)


class BornIntegral(torch.autograd.Function):
    r"""How much of an atom's surroundings another atom fills: twice the integral of :math:`|x|^{-4} / 4 \pi`.

    .. math::
        H(r) = \frac1L - \frac1U + \frac14 \left(\frac{s^2}{r} - r\right) \left(\frac1{L^2} - \frac1{U^2}\right)
            + \frac1{2r} \log\frac LU + 2 \left(\frac1\rho - \frac1{\max(\rho, s - r)}\right)

    with :math:`L = \max(\rho, |r - s|)` and :math:`U = \max(\rho, r + s)`, of a ball of radius s at the distance r
    from the centre of a ball of radius :math:`\rho`, which is left out. H is stationary in its limits L and U, so its
    slope is that at fixed limits; written out it takes a third of the time of differentiating H. The slope is
    differentiated by autograd in turn.

    Reference: Hawkins, Cramer, Truhlar, Chem. Phys. Lett. 246, 122 (1995).
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        r: Float[Tensor, "pairs batch"], own: Float[Tensor, "pairs 1"], other: Float[Tensor, "pairs 1"]
    ) -> Float[Tensor, "pairs batch"]:
        inside = torch.maximum(other - r, own)
        lower, upper, logarithm = _limits(r, own, other, inside)
        difference = lower - upper
        inverse = r.reciprocal()
        integral = difference * (1 + (lower + upper) * (0.25 * other * other * inverse - 0.25 * r))
        return integral + 0.5 * (logarithm * inverse) + 2 * (1 / own - 1 / inside)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient * _born_slope(*ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _own: None, _other: None) -> Tensor:
        return tangent * _born_slope(*ctx.saved_tensors)


def _limits(
    r: Float[Tensor, "pairs batch"],
    own: Float[Tensor, "pairs 1"],
    other: Float[Tensor, "pairs 1"],
    inside: Float[Tensor, "pairs batch"],
) -> tuple[Float[Tensor, "pairs batch"], Float[Tensor, "pairs batch"], Float[Tensor, "pairs batch"]]:
    """1 / L, 1 / U and log(L / U)."""
    lower = torch.maximum(r - other, inside)
    upper = torch.maximum(r + other, own).reciprocal()
    return lower.reciprocal(), upper, torch.log(lower * upper)


def _born_slope(
    r: Float[Tensor, "pairs batch"], own: Float[Tensor, "pairs 1"], other: Float[Tensor, "pairs 1"]
) -> Float[Tensor, "pairs batch"]:
    """dH/dr at fixed limits."""
    lower, upper, logarithm = _limits(r, own, other, torch.maximum(other - r, own))
    inverse = r.reciprocal()
    ratio = other * inverse
    return (upper - lower) * (upper + lower) * (0.25 + 0.25 * ratio * ratio) - 0.5 * (logarithm * inverse * inverse)


class GeneralizedBorn(Term):
    r"""Implicit solvent: generalized Born energy with the Born radii of OBC II, and a surface-area term.

    .. math::
        U &= -\frac{1}{8 \pi \epsilon_0} \left(\frac{1}{\epsilon_{in}} - \frac{1}{\epsilon_{out}}\right)
            \sum_{ij} \frac{q_i q_j}{\sqrt{r_{ij}^2 + B_i B_j e^{-r_{ij}^2 / 4 B_i B_j}}}
            + 4 \pi \gamma_s \sum_i (R_i + R_w)^2 (R_i / B_i)^6 \\
        B_i^{-1} &= (R_i - o)^{-1} - R_i^{-1} \tanh(\alpha \psi_i - \beta \psi_i^2 + \gamma \psi_i^3)

    with :math:`\psi_i` half of :math:`R_i - o` times the sum of `BornIntegral` over the other atoms.

    Args:
        charges: In e.
        radii: The atoms' radii R, nm.
        scales: What multiplies the radii of the other atoms in the integral.
        solute_dielectric: The relative permittivity inside.
        solvent_dielectric: The relative permittivity outside.
        surface_tension: kJ/mol/nm^2.

    Reference: Onufriev, Bashford, Case, Proteins 55, 383 (2004); Schaefer, Bartels, Karplus, J. Mol. Biol. 284, 835
    (1998) for the surface-area term.
    """

    first: Tensor
    second: Tensor
    pair_of: Tensor
    own: Tensor
    other: Tensor
    radius: Tensor
    offset_radius: Tensor
    pair_charge: Tensor
    self_charge: Tensor
    surface: Tensor

    def __init__(
        self,
        charges: Float[Tensor, "atoms"],
        radii: Float[Tensor, "atoms"],
        scales: Float[Tensor, "atoms"],
        solute_dielectric: float,
        solvent_dielectric: float,
        surface_tension: float,
    ) -> None:
        super().__init__()
        n_atoms = len(charges)
        self.n_atoms = n_atoms
        first, second = torch.triu_indices(n_atoms, n_atoms, 1)
        self._indices("first", first)
        self._indices("second", second)
        # the integral is not symmetric: it takes every ordered pair, by its first atom
        rank = torch.zeros(n_atoms, n_atoms, dtype=torch.long)
        rank[first, second] = rank[second, first] = torch.arange(len(first))
        i, j = (~torch.eye(n_atoms, dtype=torch.bool)).nonzero().T
        self._indices("pair_of", rank[i, j])
        offset_radii = radii - OBC_OFFSET
        scaled_radii = offset_radii * scales
        self._column("own", offset_radii[i])
        self._column("other", scaled_radii[j])
        self._column("radius", radii)
        self._column("offset_radius", offset_radii)
        prefactor = -COULOMB * (1 / solute_dielectric - 1 / solvent_dielectric)
        self._column("pair_charge", prefactor * charges[first] * charges[second])
        self._column("self_charge", 0.5 * prefactor * charges**2)
        self._column("surface", 4 * math.pi * surface_tension * (radii + PROBE_RADIUS) ** 2 * radii**6)

    def born_radii(self, distances: Float[Tensor, "pairs batch"]) -> Float[Tensor, "atoms batch"]:
        """The Born radius of each atom, nm."""
        r = distances.index_select(0, self.pair_of)
        integral = BornIntegral.apply(r, self.own, self.other)  # type: ignore[no-untyped-call]
        total = integral.view(self.n_atoms, self.n_atoms - 1, -1).sum(1)
        psi = 0.5 * self.offset_radius * total
        alpha, beta, gamma = OBC_TANH
        return 1 / (1 / self.offset_radius - torch.tanh(psi * (alpha - psi * (beta - gamma * psi))) / self.radius)

    def forward(self, distances: Float[Tensor, "pairs batch"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol."""
        born = self.born_radii(distances)
        square = distances * distances
        product = born.index_select(0, self.first) * born.index_select(0, self.second)
        pairs = self.pair_charge * torch.rsqrt(square + product * torch.exp(-0.25 * square / product))
        inverse = 1 / born
        return pairs.sum(0) + (self.self_charge * inverse + self.surface * inverse**6).sum(0)
