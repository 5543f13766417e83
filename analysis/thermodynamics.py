r"""State functions of a molecule as an ideal gas: from a configurational integral, and from harmonic vibrations.

Nuclei are classical, but in `quantum_harmonic`. With the partition function q of one molecule of n atoms,

.. math::
    q = \frac{8 \pi^2 V}{\sigma} Z \prod_{i=1}^n \Lambda_i^{-3}, \qquad \Lambda_i = \frac{h}{\sqrt{2 \pi m_i kT}},
    \qquad Z = \int e^{-U(x)/kT} dx

over positions modulo rigid motion: the translations leave the volume V, the rotations :math:`8 \pi^2`, the momenta
the thermal wavelengths, and :math:`\sigma` counts how often one arrangement of indistinguishable atoms is counted.
Among N molecules of an ideal gas

.. math:: A = -kT \left[ \log (q / N) + 1 \right], \qquad G = A + kT, \qquad S = (U - A) / T

per molecule; V/N is that of the standard state. Electrons and nuclear spins are left out.

Reference: McQuarrie, Statistical Mechanics, University Science Books 2000, chapters 5 to 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError, GeometryError
from ..core.units import BAR, BOLTZMANN, MOLAR, PLANCK, WAVENUMBER, thermal_energy
from .estimates import Estimate
from .reweighting import entropy, log_z, weighted_mean, weighted_variance

Unit = Literal["bar", "mol/l"]

BENT = 1e-4
"""The smallest moment of inertia, as a share of the largest one, of a molecule that is not on a line."""


@dataclass(frozen=True)
class StandardState:
    """How much room a molecule of the ideal gas has.

    Attributes:
        value: Pressure or concentration.
        unit: ``bar``, or ``mol/l``.

    Raises:
        ConfigurationError: If the value is not positive and finite, or the unit is another one.
    """

    value: float = 1.0
    unit: Unit = "bar"

    def __post_init__(self) -> None:
        if self.unit not in get_args(Unit):
            raise ConfigurationError(f'A standard state is given in bar or in mol/l, not in "{self.unit}".')
        if not 0 < self.value < math.inf:
            raise ConfigurationError(f"A standard state is a positive number of {self.unit}; it is {self.value:g}.")

    def __str__(self) -> str:
        return f"ideal gas at {self.value:g} {self.unit}"

    def volume(self, temperature: float) -> float:
        """V/N at a temperature (K), nm^3."""
        if self.unit == "bar":
            return thermal_energy(temperature) / (self.value * BAR)
        return 1 / (self.value * MOLAR)


@dataclass(frozen=True)
class StateFunctions:
    """State functions of one mole, relative to the zero of the potential energy; without an error where they are exact.

    Attributes:
        helmholtz_energy: A, kJ/mol.
        gibbs_energy: G, kJ/mol.
        internal_energy: U, kJ/mol.
        entropy: S, J/mol/K.
        heat_capacity: At constant volume, J/mol/K.
    """

    helmholtz_energy: Estimate
    gibbs_energy: Estimate
    internal_energy: Estimate
    entropy: Estimate
    heat_capacity: Estimate

    @classmethod
    def reduced(cls, temperature: float, a: Estimate, u: Estimate, s: Estimate, c: Estimate) -> StateFunctions:
        """From A/kT, U/kT, S/k and C/k."""
        kT, k = thermal_energy(temperature), 1000 * BOLTZMANN
        return cls(a.scaled(kT), _plus(a, 1).scaled(kT), u.scaled(kT), s.scaled(k), c.scaled(k))

    def because(self, reason: str) -> StateFunctions:
        """The same without errors, for a reason; itself if there is none."""
        return StateFunctions(*(getattr(self, name).because(reason) for name in self.__dataclass_fields__))


def exact(value: float) -> Estimate:
    """A number that no draw was needed for."""
    return Estimate(value, 0.0, 0)


def anharmonic(
    energy: Float[Tensor, "n"],
    log_weights: Float[Tensor, "n"],
    masses: Float[Tensor, "atoms"],
    temperature: float,
    standard: StandardState,
    symmetry_number: int = 1,
) -> StateFunctions:
    r"""Classical state functions, from draws of a normalized density over positions modulo rigid motion.

    .. math:: U = \langle U \rangle + \tfrac{3n}{2} kT, \qquad
              C = \frac{\mathrm{var}\,U}{kT^2} + \tfrac{3n}{2} k

    and A from :math:`\log Z` by their weights, with the errors of the delta method.

    Args:
        energy: U at the draws, kT.
        log_weights: :math:`-U/kT - \log q`; minus infinity where a draw does not count.
        masses: amu.
        temperature: K.
        standard: Room of each molecule.
        symmetry_number: :math:`\sigma`: permutations of equal atoms between which the draws pass, by rotation of the
            molecule or of a part of it.
    """
    ideal = _log_ideal(masses, temperature, standard) - math.log(symmetry_number)
    kinetic = 1.5 * len(masses)
    partition = log_z(log_weights)
    return StateFunctions.reduced(
        temperature,
        replace(partition, value=-partition.value - ideal - 1),
        _plus(weighted_mean(energy, log_weights), kinetic),
        _plus(entropy(energy, log_weights), ideal + kinetic + 1),
        _plus(weighted_variance(energy, log_weights), kinetic),
    )


@dataclass(frozen=True)
class Vibrations:
    """A molecule near a minimum of its energy: a rigid rotor with harmonic vibrations.

    Attributes:
        energy: At the minimum, kJ/mol.
        frequencies: Angular, rad/ps, the lowest first; 3n - 6.
        moments: Principal moments of inertia, amu nm^2.
        masses: amu.
    """

    energy: float
    frequencies: Float[Tensor, "modes"]
    moments: Float[Tensor, "3"]
    masses: Float[Tensor, "atoms"]

    @property
    def wavenumbers(self) -> Float[Tensor, "modes"]:
        """1/cm."""
        return self.frequencies / WAVENUMBER

    @property
    def zero_point_energy(self) -> float:
        r"""kJ/mol, :math:`\sum_k \hbar \omega_k / 2`."""
        return float(self._quanta.sum()) / 2

    @property
    def _quanta(self) -> Float[Tensor, "modes"]:
        return PLANCK / (2 * math.pi) * self.frequencies

    def classical(self, temperature: float, standard: StandardState, symmetry_number: int = 1) -> StateFunctions:
        r"""What `anharmonic` gives where the energy is harmonic and the molecule is stiff.

        .. math:: \log \frac qN = -\frac{U_0}{kT} + \log \frac{q_\mathrm{trans} q_\mathrm{rot}}N
                  + \sum_k \log \frac{kT}{\hbar \omega_k}
        """
        x = self._quanta / thermal_energy(temperature)
        n = len(self.masses)
        rigid = self._log_rigid(temperature, standard, symmetry_number)
        u = self.energy / thermal_energy(temperature) + 3 * n - 3
        log_q = rigid - float(x.log().sum())
        return self._functions(temperature, log_q, u, 3 * n - 3)

    def quantum(self, temperature: float, standard: StandardState, symmetry_number: int = 1) -> StateFunctions:
        r"""With quantized vibrations, zero-point energy included; translation and rotation stay classical.

        .. math:: \log \frac qN = -\frac{U_0}{kT} + \log \frac{q_\mathrm{trans} q_\mathrm{rot}}N
                  - \sum_k \left[ \frac{\hbar \omega_k}{2 kT} + \log (1 - e^{-\hbar \omega_k / kT}) \right]
        """
        x = self._quanta / thermal_energy(temperature)
        rigid = self._log_rigid(temperature, standard, symmetry_number)
        log_q = rigid - float((x / 2 + torch.log(-torch.expm1(-x))).sum())
        u = self.energy / thermal_energy(temperature) + 3 + float((x / 2 + x / torch.expm1(x)).sum())
        # x^2 e^x / (e^x - 1)^2, which does not overflow so
        c = 3 + float((x / (2 * torch.sinh(x / 2))).square().sum())
        return self._functions(temperature, log_q, u, c)

    def _log_rigid(self, temperature: float, standard: StandardState, symmetry_number: int) -> float:
        r"""The logarithm of :math:`q_\mathrm{trans} q_\mathrm{rot} / N`."""
        kT = thermal_energy(temperature)
        whole = self.masses.sum()[None]
        rotation = 1.5 * math.log(2 * math.pi * kT / PLANCK**2) + 0.5 * float(self.moments.log().sum())
        return _log_ideal(whole, temperature, standard) + rotation - math.log(symmetry_number)

    def _functions(self, temperature: float, log_q: float, u: float, c: float) -> StateFunctions:
        a = self.energy / thermal_energy(temperature) - log_q - 1
        return StateFunctions.reduced(temperature, exact(a), exact(u), exact(u - a), exact(c))


def vibrations(
    positions: Float[Tensor, "atoms 3"],
    masses: Float[Tensor, "atoms"],
    hessian: Float[Tensor, "dim dim"],
    energy: float,
) -> Vibrations:
    r"""Normal modes at a minimum, without the six rigid motions, which are projected out.

    .. math:: M^{-1/2} H M^{-1/2} v_k = \omega_k^2 v_k

    Args:
        positions: Positions of the minimum, nm.
        masses: amu.
        hessian: Second derivatives of the energy there, kJ/mol/nm^2.
        energy: At the minimum, kJ/mol.

    Raises:
        GeometryError: If it is not a minimum, or the atoms lie on a line.
    """
    masses = masses.double().cpu()
    x = positions.double().cpu()
    x = x - (masses[:, None] * x).sum(0) / masses.sum()
    spheres = x.square().sum(-1)[:, None, None] * torch.eye(3, dtype=x.dtype)
    moments = torch.linalg.eigvalsh((masses[:, None, None] * (spheres - x[:, :, None] * x[:, None])).sum(0))
    if float(moments[0]) < BENT * float(moments[2]):
        raise GeometryError("The atoms lie on a line, and such a molecule has no internal coordinates here.")
    roots = masses.sqrt().repeat_interleave(3)
    inner = internal_directions(x, masses)
    matrix = hessian.double().cpu() / (roots[:, None] * roots)
    squares = torch.linalg.eigvalsh(inner.T @ (0.5 * (matrix + matrix.T)) @ inner)
    if not float(squares[0]) > 0:
        imaginary = math.sqrt(-float(squares[0])) / WAVENUMBER
        raise GeometryError(
            f"The structure does not lead to a minimum of the energy, but to a saddle point ({imaginary:.0f}i 1/cm). "
            "Give a structure beside it."
        )
    return Vibrations(energy, squares.sqrt(), moments, masses)


def internal_directions(
    positions: Float[Tensor, "atoms 3"], masses: Float[Tensor, "atoms"]
) -> Float[Tensor, "dim modes"]:
    """An orthonormal basis of mass-weighted displacements without translations and rotations; positions in nm."""
    roots = masses.sqrt()[:, None]
    x = positions - (masses[:, None] * positions).sum(0) / masses.sum()
    axes = torch.eye(3, dtype=x.dtype)
    moved = [(roots * axis).flatten() for axis in axes]
    turned = [(roots * torch.linalg.cross(axis.expand_as(x), x)).flatten() for axis in axes]
    rigid = torch.stack([*moved, *turned], 1)
    basis: Tensor = torch.linalg.qr(rigid, mode="complete").Q[:, 6:]
    return basis


def _log_ideal(masses: Float[Tensor, "n"], temperature: float, standard: StandardState) -> float:
    r"""The logarithm of :math:`8 \pi^2 (V/N) \prod_i \Lambda_i^{-3}`, with the masses in amu."""
    kT = thermal_energy(temperature)
    momenta = 1.5 * float((2 * math.pi * kT / PLANCK**2 * masses.double()).log().sum())
    return math.log(8 * math.pi**2 * standard.volume(temperature)) + momenta


def _plus(estimate: Estimate, constant: float) -> Estimate:
    return replace(estimate, value=estimate.value + constant)
