r"""Losses on the flow's own samples, which need a force field and no frames. Energies and densities are in kT.

With the flow's density q, the reference :math:`p \propto e^{-u_{\mathrm{ref}}}` and the log-weight
:math:`l(x) = -u_{\mathrm{ref}}(x) - \log q(x)`,

.. math:: D_{\mathrm{KL}}(q \| p) = \log Z - \langle l \rangle_q, \qquad
    D_2(p \| q) = \log \int \frac{p^2}{q} dx = -\log \mathrm{ESS}
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.potential import Potential
from .config import AnnealingSettings
from .losses import Density


class TrainedDensity(Density, Protocol):
    """What these losses need of a flow: its parameters as well."""

    def parameters(self) -> Iterator[nn.Parameter]: ...


class Target:
    """The reference as samples in training see it: regularized, and every evaluation counted.

    Attributes:
        potential: The force field; it sees positions in float64.
        kT: Thermal energy, kJ/mol.
        threshold: Energies above it count logarithmically, kT.
        n_evaluations: Configurations whose energy and forces have been asked for.
    """

    def __init__(self, potential: Potential, kT: float, threshold: float) -> None:
        self.potential = potential
        self.kT = kT
        self.threshold = threshold
        self.n_evaluations = 0

    def energy(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        """Regularized energies in kT of positions in nm, differentiable with respect to these."""
        self.n_evaluations += len(positions)
        energy = self.potential.energy(positions.to(self.potential.device, torch.float64)).to(positions.device)
        return regularized(energy / self.kT, self.threshold)


def regularized(energy: Float[Tensor, "batch"], threshold: float) -> Float[Tensor, "batch"]:
    r"""Energies that grow logarithmically above a threshold; for training only, never for reported numbers.

    .. math:: u \mapsto t + \log(1 + u - t) \quad \text{for } u > t

    Continuous with continuous first derivative, so that samples with overlapping atoms pull apart without a gradient
    that drowns all others.

    Args:
        energy: u, kT.
        threshold: t, kT.
    """
    excess = torch.clamp(energy - threshold, min=0.0)
    return torch.where(energy > threshold, threshold + torch.log1p(excess), energy)


def reverse_kl(
    density: TrainedDensity, target: Target, n_samples: int, generator: torch.Generator, path_gradient: bool = False
) -> Float[Tensor, "n_samples"]:
    r"""Each sample's term :math:`u_{\mathrm{ref}}(x) + \log q(x)`, x drawn from the flow; its mean is the reverse KL
    divergence up to a constant.

    With :math:`x = f_\theta(z)`, the gradient of the mean is that of :math:`u_{\mathrm{ref}}(x)` and
    :math:`\log q_\theta(x)` through the sample, and of the density at fixed x. The last part,
    :math:`\langle \partial_\theta \log q_\theta(x) \rangle_q`, is zero on average but not for a batch. The path
    gradient leaves it out: it has the same mean, and no variance at all where the flow equals the target.

    Args:
        density: The flow; gradients reach its parameters through the samples.
        target: The reference.
        n_samples: How many to draw.
        generator: Source of randomness.
        path_gradient: Whether to leave out the gradient through the density.

    Returns:
        kT.

    Reference: path gradients: Roeder, Wu, Duvenaud, Sticking the Landing, NeurIPS 2017, section 3.
    """
    positions, log_prob = density.sample(n_samples, generator)
    if path_gradient:
        with _frozen(density):
            log_prob = density.log_prob(positions)
    return target.energy(positions).to(log_prob) + log_prob


def alpha_two(
    density: TrainedDensity,
    target: Target,
    masses: Float[Tensor, "atoms"],
    n_samples: int,
    generator: torch.Generator,
    annealing: AnnealingSettings,
) -> Float[Tensor, "n_samples"]:
    r"""Terms whose mean is an estimate of :math:`D_2(p \| q)`, with the gradient of it that flow annealed importance
    sampling uses.

    .. math:: \partial_\theta D_2 = -\left\langle \partial_\theta \log q_\theta \right\rangle_{p^2 / q}
        \approx -\sum_i \bar w_i\, \partial_\theta \log q_\theta(x_i)

    Samples are moved towards :math:`p^2 / q`, where the largest weights are, by annealed importance sampling through
    :math:`q\, e^{2 t l}` at t = k / (n + 1), k = 1 ... n, with one transition of Hamiltonian Monte Carlo at each. No
    gradient goes through them. With few of them the estimate is too small: the largest weights are missed.

    Args:
        density: The flow.
        target: The reference.
        masses: amu; of the transitions' kinetic energy.
        n_samples: How many to draw from the flow.
        generator: Source of randomness.
        annealing: How they are moved before they are weighted.

    Returns:
        Each term, without a unit.

    Reference: Midgley, Stimper, Simm, Schölkopf, Hernández-Lobato, Flow Annealed Importance Sampling Bootstrap, ICLR
    2023, eqs. 4 and 5, arXiv 2208.01893; Neal, Stat. Comput. 11, 125 (2001); Duane et al., Phys. Lett. B 195, 216
    (1987).
    """
    with torch.no_grad():
        positions, log_prob = density.sample(n_samples, generator)
        weight = -target.energy(positions) - log_prob.double()
        log_z = torch.logsumexp(weight, 0) - math.log(n_samples)
        log_weights = 2 * weight / (annealing.n_intermediate + 1)
    for k in range(1, annealing.n_intermediate + 1):
        t = k / (annealing.n_intermediate + 1)
        positions, weight = _transition(density, target, masses, positions, t, annealing, generator)
        log_weights = log_weights + 2 * weight / (annealing.n_intermediate + 1)
    divergence = torch.logsumexp(log_weights, 0) - math.log(n_samples) - 2 * log_z
    log_prob = density.log_prob(positions)
    terms = -n_samples * torch.softmax(log_weights, 0).to(log_prob) * log_prob
    return terms - terms.detach() + divergence.to(log_prob)


def _transition(
    density: TrainedDensity,
    target: Target,
    masses: Float[Tensor, "atoms"],
    positions: Float[Tensor, "batch atoms 3"],
    t: float,
    annealing: AnnealingSettings,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, "batch"]]:
    r"""One transition of Hamiltonian Monte Carlo that leaves :math:`q e^{2 t l}` unchanged; positions and their l."""

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logarithm of the distribution, its gradient, and l."""
        with torch.enable_grad(), _frozen(density):
            x = x.detach().requires_grad_(True)
            log_q = density.log_prob(x).double()
            weight = -target.energy(x) - log_q
            log_f = log_q + 2 * t * weight
            (gradient,) = torch.autograd.grad(log_f.sum(), x)
        return log_f.detach(), gradient, weight.detach()

    # in units of kT, amu and nm, so that times are in nm (amu / kT)^(1/2)
    step = annealing.timestep * math.sqrt(target.kT)
    mass = masses.to(positions)[:, None]
    noise = torch.randn(positions.shape, generator=generator, dtype=positions.dtype, device=generator.device)
    velocities = noise.to(positions) / mass.sqrt()
    log_f, gradient, weight = evaluate(positions)
    start = log_f - 0.5 * (mass * velocities**2).sum((1, 2))
    x, v, slope = positions, velocities, gradient
    for _ in range(annealing.n_leapfrog):
        v = v + 0.5 * step * slope / mass
        x = x + step * v
        moved_log_f, slope, moved_weight = evaluate(x)
        v = v + 0.5 * step * slope / mass
    end = moved_log_f - 0.5 * (mass * v**2).sum((1, 2))
    chance = torch.rand(len(positions), generator=generator, dtype=torch.float64, device=generator.device)
    # a step into overlapping atoms may end where nothing is finite: such a comparison is false
    accepted = chance.log().to(start) < end - start
    return torch.where(accepted[:, None, None], x, positions), torch.where(accepted, moved_weight, weight)


@contextmanager
def _frozen(density: TrainedDensity) -> Iterator[None]:
    """Within the block, the parameters are constants."""
    trained = [parameter for parameter in density.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
