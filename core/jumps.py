"""Metropolis jumps between conformations: a model proposes, the reference decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import ConfigurationError
from .units import thermal_energy


class Proposer(Protocol):
    """What jumps ask of a model: draws, and the energy whose Boltzmann distribution they have."""

    temperature: float

    def sample(self, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Positions (nm) and their log-densities."""

    def energy(self, positions: Tensor) -> Tensor:
        """Energies in kJ/mol of positions in nm."""


@dataclass(frozen=True)
class Jump:
    """Where some jumps, one after the other, have led.

    Attributes:
        positions: nm; those of before, bit for bit, if no jump was accepted.
        energy: kJ/mol; of the reference.
        accepted: Number of jumps that were made.
    """

    positions: Float[Tensor, "atoms 3"]
    energy: float
    accepted: int


class Jumps:
    r"""Jumps to configurations that a model draws, accepted so that the reference's distribution stays as it is.

    .. math:: P(x \to x') = \min\left(1, \frac{w(x')}{w(x)}\right), \qquad
              w(x) = \frac{e^{-U(x) / kT}}{q(x)}

    with the reference's energy U and the model's density q. The model proposes what the molecule looks like; its
    orientation is drawn evenly, and its centre stays where it is, so that also a reference that depends on them keeps
    its distribution. Velocities are independent of positions at equilibrium: they stay, too. Whatever the model's
    quality, the result is exact; a poor model is accepted rarely.

    Args:
        model: Proposes configurations of the molecule.
        temperature: K; of the reference's distribution, which need not be the model's.

    Reference: Tierney, Markov Chains for Exploring Posterior Distributions, Annals of Statistics 22, 1701 (1994),
    independence chains; Gabrié, Rotskoff, Vanden-Eijnden, PNAS 119, e2109420119 (2022), within dynamics.
    """

    def __init__(self, model: Any, temperature: float) -> None:
        if not (callable(getattr(model, "sample", None)) and getattr(model, "temperature", 0) > 0):
            raise ConfigurationError(
                f"{type(model).__name__} draws no samples, and cannot propose jumps. Give a flow: smoothflow.load(...)."
            )
        if not 0 < temperature < math.inf:
            raise ConfigurationError(f"The temperature of jumps must be positive and finite; it is {temperature} K.")
        self.model: Proposer = model
        self.temperature = temperature

    def attempt(
        self,
        positions: Float[Tensor, "atoms 3"],
        energy: float,
        energies: Callable[[Float[Tensor, "batch atoms 3"]], Float[Tensor, "batch"]],
        generator: torch.Generator,
        n: int = 1,
    ) -> Jump:
        """Attempt jumps, one after the other.

        Args:
            positions: Where the molecule is, nm.
            energy: The reference's energy there, kJ/mol.
            energies: The reference's energies (kJ/mol) of a batch of positions (nm); asked once.
            generator: Generator of the random numbers, on the CPU.
            n: Number of jumps.
        """
        with torch.no_grad():
            shapes, _ = self.model.sample(n, generator)
            shapes = shapes.detach().to("cpu", torch.float64)
            here = positions.detach().to("cpu", torch.float64)
            proposed = _turned(shapes, generator) + here.mean(0)
            proposed_energy = energies(proposed).detach().to("cpu", torch.float64)
            model_energy = self.model.energy(torch.cat([here[None], proposed])).to("cpu", torch.float64)
        log_q = -model_energy / thermal_energy(self.model.temperature)
        log_w = -torch.cat([proposed_energy.new_tensor([energy]), proposed_energy]) / thermal_energy(self.temperature)
        # where the reference has no energy the molecule cannot be, and where the model has no density it is not left
        log_w = torch.where(log_w.isfinite(), log_w, -math.inf) - log_q
        uniform = torch.rand(n, generator=generator, dtype=torch.float64).log()
        now, accepted = 0, 0
        for i in range(1, n + 1):
            if bool(uniform[i - 1] < log_w[i] - log_w[now]):
                now, accepted = i, accepted + 1
        if now == 0:
            return Jump(positions, energy, 0)
        return Jump(proposed[now - 1].to(positions), float(proposed_energy[now - 1]), accepted)


def _turned(shapes: Float[Tensor, "batch atoms 3"], generator: torch.Generator) -> Float[Tensor, "batch atoms 3"]:
    """Each configuration about its centre at the origin, in an orientation drawn evenly.

    Reference: Shoemake, Uniform random rotations, Graphics Gems III (1992): a normal quaternion, normalized.
    """
    quaternion = torch.randn(len(shapes), 4, generator=generator, dtype=shapes.dtype)
    w, *vector = torch.nn.functional.normalize(quaternion, dim=1).unbind(1)
    u, w = torch.stack(vector, 1)[:, None], w[:, None, None]
    x = shapes - shapes.mean(1, keepdim=True)
    t = 2 * torch.linalg.cross(u.expand_as(x), x)
    turned: Tensor = x + w * t + torch.linalg.cross(u.expand_as(x), t)
    return turned
