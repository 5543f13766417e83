"""Targets with exact answers: densities on the unit square and torus whose normalizer and entropy are known.

Energies are in kJ/mol at the temperature where kT = 1 kJ/mol (120.27 K), so that U = -log p up to a constant.
Coordinates are those of unit manifolds: an angle is :math:`2 \\pi` times its column.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError
from ..core.manifolds import FULL_TURN, Circle, Interval, Manifold, Product
from ..core.potential import Potential, takes_positions
from ..core.randomness import generator_of
from ..core.units import BOLTZMANN

N_PANELS = 40
"""Panels along each axis of the square over which a Gauss-Legendre rule is repeated."""

N_NODES = 20
"""Nodes of the rule in each panel; doubling the panels changes no normalizer or entropy below by 1e-12."""


class Toy(Potential):
    r"""A density on a product of unit intervals and circles with a known normalizer.

    .. math:: p(x) = e^{-U(x)} / Z, \qquad Z = \int e^{-U(x)} dx, \qquad S = -\int p \log p \, dx

    Args:
        manifold: Where every coordinate lives.
        dim: The number of coordinates.
        energy_floor: A lower bound of the energy, kJ/mol; sampling is the faster the nearer it is to the minimum.
    """

    temperature = 1 / BOLTZMANN
    """The temperature at which kT is 1 kJ/mol, K."""

    def __init__(self, manifold: Manifold, energy_floor: float, dim: int = 2) -> None:
        super().__init__()
        self.domain = Product.of(manifold, [f"x{i}" for i in range(dim)])
        self.shape = (dim,)
        self.dtype = torch.float64
        self.energy_floor = energy_floor

    @abstractmethod
    def energy(self, positions: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        """Energies in kJ/mol, or kT, of points in units of the period or of the interval."""

    @property
    def log_normalizer(self) -> float:
        """log Z over the unit square, by quadrature to 1e-12 unless the target has a closed form."""
        return self._quadrature[0]

    @property
    def entropy(self) -> float:
        """The differential entropy S: the least negative log-likelihood that a model can have."""
        return self._quadrature[1]

    @takes_positions
    def log_prob(self, positions: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        """The normalized log-density."""
        return -self.energy(positions) - self.log_normalizer

    def sample(
        self, n_samples: int, generator: torch.Generator | None = None, *, seed: int | None = None
    ) -> tuple[Float[Tensor, "n_samples dim"], Float[Tensor, "n_samples"]]:
        """Exact independent samples, by rejection from the uniform distribution, and their log-densities (float64).

        The arguments are those of `Flow.sample`, and so are the errors.
        """
        generator = generator_of(n_samples, generator, seed)
        accepted: list[Tensor] = []
        n_missing = n_samples
        while n_missing > 0:
            shape = (max(4096, 4 * n_missing), self.shape[0] + 1)
            uniform = torch.rand(shape, generator=generator, dtype=torch.float64, device=generator.device)
            x = uniform[:, 1:]
            with torch.no_grad():
                x = x[uniform[:, 0].log() < self.energy_floor - self.energy(x)]
            accepted.append(x[:n_missing])
            n_missing -= len(accepted[-1])
        empty = torch.empty((0, *self.shape), dtype=torch.float64, device=generator.device)
        samples = torch.cat([empty, *accepted])
        return samples, self.log_prob(samples)

    @cached_property
    def _quadrature(self) -> tuple[float, float]:
        points, weights = gauss_legendre_square(N_PANELS, N_NODES)
        with torch.no_grad():
            energy = self.energy(points.to(self.device)).to(points)
        log_normalizer = torch.logsumexp(weights.log() - energy, 0)
        mean_energy = (weights * torch.exp(-energy - log_normalizer) * energy).sum()
        return float(log_normalizer), float(log_normalizer + mean_energy)


def gauss_legendre_square(n_panels: int, n_nodes: int) -> tuple[Float[Tensor, "points 2"], Float[Tensor, "points"]]:
    """Points and weights of a composite Gauss-Legendre rule on the unit square; it needs no periodicity."""
    nodes, weights = np.polynomial.legendre.leggauss(n_nodes)
    panels = np.arange(n_panels)[:, None]
    axis = torch.as_tensor(((panels + 0.5 * (nodes + 1)) / n_panels).ravel())
    weight = torch.as_tensor(np.tile(0.5 * weights / n_panels, n_panels))
    return torch.cartesian_prod(axis, axis), torch.outer(weight, weight).ravel()


def _shells(r: Float[Tensor, "batch"], radii: Sequence[float], width: float) -> Float[Tensor, "batch"]:
    """The energy of a mixture of unnormalized Gaussians in ``r`` with weights 1, 0.8, 0.6 and 0.4."""
    components = [
        math.log(weight) - 0.5 * ((r - radius) / width) ** 2
        for weight, radius in zip((1.0, 0.8, 0.6, 0.4), radii, strict=True)
    ]
    return -torch.logsumexp(torch.stack(components), 0)


PAPER_RADII = (1.0, 2.0, 1.5, 2.5)


class Rings(Toy):
    r"""Four concentric rings on the square.

    .. math:: p(x, y) \propto \sum_i w_i e^{-(r - r_i)^2 / 2 \sigma^2}, \qquad r = \sqrt{x^2 + y^2}, \quad
        x, y \in [-\pi, \pi]

    with :math:`\sigma = 0.06` and r = 1, 2, 1.5, 2.5 of weights 1, 0.8, 0.6, 0.4.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, section 5.1, arXiv 2110.00351.
    """

    def __init__(self) -> None:
        # the shells are eight widths apart: at any radius the others add less than 1e-3
        super().__init__(Interval(), energy_floor=-math.log1p(1e-3))

    def energy(self, positions: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
        x, y = (FULL_TURN * (positions - 0.5)).unbind(-1)
        return _shells(torch.hypot(x, y), PAPER_RADII, 0.06)


class KinkedRings(Toy):
    r"""The periodic rings of the paper; the density has a kink where x or y passes :math:`\pi`.

    .. math:: r = \sqrt{\cos(x^2 / 2) + \cos(y^2 / 2) + 2}, \qquad x, y \in [-\pi, \pi]

    in the mixture of `Rings` with :math:`\sigma = 0.05`. It is continuous and no more, so it cannot tell smooth
    transforms from others: `PeriodicRings` can.

    Reference: Köhler, Krämer, Noé, Smooth Normalizing Flows, NeurIPS 2021, section 5.1, arXiv 2110.00351.
    """

    def __init__(self) -> None:
        super().__init__(Circle(), energy_floor=-math.log1p(1e-3))

    def energy(self, positions: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
        x, y = (FULL_TURN * (Circle().wrap(positions) - 0.5)).unbind(-1)
        square = torch.cos(0.5 * x * x) + torch.cos(0.5 * y * y) + 2
        return _shells(square.sqrt(), PAPER_RADII, 0.05)


class PeriodicRings(Toy):
    r"""Smooth rings on the torus.

    .. math:: p(x, y) \propto \sum_i w_i e^{-(s - s_i)^2 / 2 \sigma^2}, \qquad s = \cos x + \cos y

    with :math:`\sigma = 0.1` and s = 1.2, 0.4, -0.4, -1.2 of weights 1, 0.8, 0.6, 0.4. All derivatives exist
    everywhere, across the seam as well.
    """

    def __init__(self) -> None:
        super().__init__(Circle(), energy_floor=-math.log1p(1e-3))

    def energy(self, positions: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
        return _shells(torch.cos(FULL_TURN * positions).sum(-1), (1.2, 0.4, -0.4, -1.2), 0.1)


class VonMises(Toy):
    r"""A product of von Mises distributions.

    .. math:: p(x) \propto \prod_i e^{\kappa_i \cos(2 \pi x_i - \mu_i)}, \quad
        Z = \prod_i I_0(\kappa_i), \quad S = \log Z - \sum_i \kappa_i I_1(\kappa_i) / I_0(\kappa_i)

    Args:
        locations: The means, radians.
        concentrations: The :math:`\kappa`, one for each mean.
    """

    def __init__(self, locations: Sequence[float], concentrations: Sequence[float]) -> None:
        if len(locations) != len(concentrations) or not all(kappa >= 0 for kappa in concentrations):
            raise ConfigurationError(
                "A product of von Mises distributions needs one concentration for each location, none negative."
            )
        super().__init__(Circle(), energy_floor=-sum(concentrations), dim=len(locations))
        self.register_buffer("location", torch.tensor(locations, dtype=torch.float64), persistent=False)
        self.register_buffer("concentration", torch.tensor(concentrations, dtype=torch.float64), persistent=False)
        self.location: Tensor
        self.concentration: Tensor

    def energy(self, positions: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch"]:
        angles = FULL_TURN * positions - self.location.to(positions.dtype)
        return -(self.concentration.to(positions.dtype) * torch.cos(angles)).sum(-1)

    @property
    def log_normalizer(self) -> float:
        kappa = self.concentration.double()
        return float((torch.special.i0e(kappa).log() + kappa).sum())

    @property
    def entropy(self) -> float:
        kappa = self.concentration.double()
        mean_energy = -(kappa * torch.special.i1e(kappa) / torch.special.i0e(kappa)).sum()
        return self.log_normalizer + float(mean_energy)


class CorrelatedTorus(Toy):
    r"""The correlated target on the torus.

    .. math:: p(a, b) \propto e^{\cos(a + b - 1.94)}, \qquad Z = I_0(1), \qquad S = \log Z - I_1(1) / I_0(1)

    Reference: Rezende et al., Normalizing Flows on Tori and Spheres, ICML 2020, table 2, arXiv 2002.02428.
    """

    def __init__(self) -> None:
        super().__init__(Circle(), energy_floor=-1.0)

    def energy(self, positions: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
        return -torch.cos(FULL_TURN * positions.sum(-1) - 1.94)

    @property
    def log_normalizer(self) -> float:
        return VonMises([1.94], [1.0]).log_normalizer

    @property
    def entropy(self) -> float:
        # a + b is distributed like one von Mises angle, and a is uniform
        return VonMises([1.94], [1.0]).entropy


@dataclass(frozen=True)
class SineComponent:
    r"""One bivariate von Mises distribution, and its weight in a mixture.

    .. math:: \log p = \kappa_1 \cos(a - \mu) + \kappa_2 \cos(b - \nu) + \lambda \sin(a - \mu) \sin(b - \nu) - \log C

    Attributes:
        weight: In the mixture.
        locations: The means, radians.
        concentrations: The two :math:`\kappa`.
        coupling: :math:`\lambda`, less in square than the product of the concentrations: then there is one maximum.
    """

    weight: float
    locations: tuple[float, float]
    concentrations: tuple[float, float]
    coupling: float = 0.0

    @property
    def log_normalizer(self) -> float:
        """log C over the unit torus: one angle by its Bessel function, the other by the trapezoidal rule."""
        kappa, other = self.concentrations
        angle = FULL_TURN / 1024 * torch.arange(1024, dtype=torch.float64)
        argument = torch.hypot(torch.tensor(other, dtype=torch.float64), self.coupling * torch.sin(angle))
        integrand = kappa * torch.cos(angle) + argument + torch.special.i0e(argument).log()
        return float(torch.logsumexp(integrand, 0) - math.log(1024))


class VonMisesMixture(Toy):
    r"""A mixture of normalized bivariate von Mises distributions on the torus; Z = 1.

    Args:
        components: With weights that sum to one.

    Reference: Singh, Hnizdo, Demchuk, Biometrika 89, 719 (2002).
    """

    def __init__(self, components: Sequence[SineComponent]) -> None:
        for component in components:
            kappa, other = component.concentrations
            if not component.coupling**2 < kappa * other:
                raise ConfigurationError(
                    f"The coupling {component.coupling} of a bivariate von Mises distribution must be less in square "
                    f"than the product of its concentrations {kappa} and {other}."
                )
        if not math.isclose(sum(component.weight for component in components), 1.0, abs_tol=1e-12):
            raise ConfigurationError("The weights of a mixture must sum to one.")
        log_weights = [math.log(component.weight) - component.log_normalizer for component in components]
        peaks = [
            math.exp(log_weight + sum(component.concentrations))
            for log_weight, component in zip(log_weights, components, strict=True)
        ]
        super().__init__(Circle(), energy_floor=-math.log(sum(peaks)))
        for name, values in {
            "log_weight": log_weights,
            "location": [component.locations for component in components],
            "concentration": [component.concentrations for component in components],
            "coupling": [component.coupling for component in components],
        }.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
        self.log_weight: Tensor
        self.location: Tensor
        self.concentration: Tensor
        self.coupling: Tensor

    def energy(self, positions: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
        dtype = positions.dtype
        angles = FULL_TURN * positions[:, None, :] - self.location.to(dtype)
        aligned = (self.concentration.to(dtype) * torch.cos(angles)).sum(-1)
        coupled = self.coupling.to(dtype) * torch.sin(angles).prod(-1)
        return -torch.logsumexp(self.log_weight.to(dtype) + aligned + coupled, -1)

    @property
    def log_normalizer(self) -> float:
        return 0.0


def torus_unimodal() -> Toy:
    """The unimodal torus target of Rezende et al. 2020: a product of two von Mises distributions."""
    return VonMises([4.18, 5.96], [1.0, 1.0])


def torus_multimodal() -> Toy:
    """The multimodal torus target of Rezende et al. 2020: the mean of three unimodal ones, each normalized."""
    centres = [(0.21, 2.85), (1.89, 6.18), (3.77, 1.56)]
    return VonMisesMixture([SineComponent(1 / 3, centre, (1.0, 1.0)) for centre in centres])


def von_mises() -> Toy:
    """Three independent angles, from broad to as narrow as a methyl group's well."""
    return VonMises([1.0, 3.0, 5.0], [0.5, 4.0, 20.0])


def ramachandran() -> Toy:
    """Basins like those of a capped alanine's phi and psi: beta, polyproline, and both helices."""

    def degrees(phi: float, psi: float) -> tuple[float, float]:
        return math.radians(phi), math.radians(psi)

    return VonMisesMixture(
        [
            SineComponent(0.33, degrees(-140, 155), (7.0, 8.0), 2.0),
            SineComponent(0.37, degrees(-68, 148), (16.0, 10.0), -2.0),
            SineComponent(0.27, degrees(-75, -25), (12.0, 9.0), -6.0),
            SineComponent(0.03, degrees(57, 35), (25.0, 14.0), -8.0),
        ]
    )


TOYS: dict[str, Callable[[], Toy]] = {
    "rings": Rings,
    "rings-kinked": KinkedRings,
    "rings-periodic": PeriodicRings,
    "torus-unimodal": torus_unimodal,
    "torus-multimodal": torus_multimodal,
    "torus-correlated": CorrelatedTorus,
    "von-mises": von_mises,
    "ramachandran": ramachandran,
}
"""The targets by name."""
