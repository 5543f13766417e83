r"""What a flow is trained on. Energies and densities are in kT, forces in kT/nm.

With the flow's energy :math:`u(x) = -\log p(x)` over positions modulo rigid motion, and a reference force field
:math:`u_{\mathrm{ref}} = U / kT`, the loss is

.. math:: w_{\mathrm{nll}} \langle u \rangle_{\mathrm{frames}}
    + w_{\mathrm{force}} \left\langle s \log\left(1 + L / s\right) \right\rangle_{\mathrm{frames}}
    + w_{\mathrm{samples}} D

with D a divergence that is estimated on the flow's own samples, see `smoothflow.training.sample_losses`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


class Density(Protocol):
    """What the losses need of a molecular flow; a `FlowPotential` has it."""

    def log_prob(
        self, positions: Float[Tensor, "batch atoms 3"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> Float[Tensor, "batch"]: ...

    def sample(
        self, n_samples: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "n_samples atoms 3"], Float[Tensor, "n_samples"]]: ...


def negative_log_likelihood(
    density: Density,
    positions: Float[Tensor, "batch atoms 3"],
    context: Float[Tensor, "batch n_context"] | None = None,
) -> Float[Tensor, "batch"]:
    r"""Each frame's negative log-likelihood :math:`u(x) = -\log p(x)`, in kT; its mean is the forward KL divergence
    plus a constant.

    Args:
        density: The flow.
        positions: nm.
        context: That of each of them, for a flow that depends on one.
    """
    return -(density.log_prob(positions) if context is None else density.log_prob(positions, context))


def likelihood_and_forces(
    density: Density,
    positions: Float[Tensor, "batch atoms 3"],
    create_graph: bool = True,
    context: Float[Tensor, "batch n_context"] | None = None,
) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch atoms 3"]]:
    r"""Each frame's negative log-likelihood and the flow's forces :math:`-\partial u / \partial x`, evaluated at once.

    Args:
        density: The flow.
        positions: nm.
        create_graph: Whether the forces are to be differentiated with respect to the flow's parameters.
        context: That of each frame, for a flow that depends on one.

    Returns:
        The negative log-likelihood in kT, and forces in kT/nm.
    """
    with torch.enable_grad():
        positions = positions.detach().requires_grad_(True)
        nll = negative_log_likelihood(density, positions, context)
        (gradient,) = torch.autograd.grad(nll.sum(), positions, create_graph=create_graph)
    return nll, -gradient


def force_error(
    forces: Float[Tensor, "batch atoms 3"], reference: Float[Tensor, "batch atoms 3"]
) -> Float[Tensor, "batch"]:
    r"""Each frame's mean squared error per force component.

    .. math:: L = \frac{1}{3 n} \sum_{i=1}^{n} | F_i - F_i^{\mathrm{ref}} |^2

    Args:
        forces: kT/nm.
        reference: kT/nm.

    Returns:
        :math:`(kT/\mathrm{nm})^2`; its mean over frames is the force MSE that is reported everywhere.
    """
    return (forces - reference).square().mean(dim=(-2, -1))


def damped(error: Float[Tensor, "batch"], scale: float | Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
    r"""An error whose outliers count less, :math:`s \log(1 + L / s)`: equal to L where :math:`L \ll s`.

    Args:
        error: L, not negative.
        scale: s, in the unit of the error.
    """
    return scale * torch.log1p(error / scale)


def weighted_likelihood(
    nll: Float[Tensor, "batch"],
    weights: Float[Tensor, "batch"],
    log_density: Float[Tensor, "batch"],
    sampled: Float[Tensor, "batch"],
) -> Float[Tensor, "batch"]:
    r"""Each configuration's term of the likelihood, for samples with a gradient that is zero where the flow is right.

    .. math:: w(x) u(x) + s \left( r(x) - 1 \right), \qquad r(x) = e^{-u(x)} / q(x), \qquad x \sim q

    The mean of :math:`r - 1` over samples is zero whatever the flow, and so is that of its gradient; but with it the
    gradient of a sample, :math:`(w - r)\, \partial_\theta u`, vanishes where the flow's density is the target's, not
    only on average. Sample by sample this is the Kullback-Leibler divergence of measures that need not be normalized,
    and convex in u. Beyond :math:`r = e^3` it continues linearly in :math:`\log r`.

    Args:
        nll: u, kT.
        weights: w, of mean 1.
        log_density: Logarithm of the density q that a sample was drawn from; anything near -u for other configurations.
        sampled: s, 1 for samples and 0 for everything else.
    """
    log_ratio = -nll - log_density
    bounded = log_ratio.clamp(max=LARGEST_LOG_RATIO)
    ratio = bounded.exp() * (1 + log_ratio - bounded)
    return weights * nll + sampled * (ratio - 1)


LARGEST_LOG_RATIO = 3.0
"""Log ratio of the flow's density at a sample to the density that it was drawn from, above which its term is linear."""
