"""How usual a configuration is to a flow, in terms of what it has learned."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import ConfigurationError
from ..core.potential import require_positions, unchecked
from ..runs.randomness import generator
from .flow_potential import FlowPotential

CHUNK = 500
"""Samples that are drawn together."""

FEWEST = 1000
"""Samples of which the tail below tells anything."""

TAIL = 0.01
"""The share of the samples from which the tail beyond them is continued."""


class Familiarity:
    r"""Percentiles of energies among those of a flow's own samples.

    .. math:: P(x) = 100\,\Pr_{y \sim q} [u(y) < u(x)], \qquad u = -\log q

    A flow that is right has percentiles that are uniform between 0 and 100 on frames that it has not seen: the 99th is
    passed by one frame in a hundred. Configurations outside the data have higher energies, and lie in the tail. Above
    the energy :math:`u_{99}` that 1 % of the samples exceed, by s on average, the distribution goes on as

    .. math:: 100 - P = e^{-(u - u_{99}) / s},

    which is on the safe side: the energies of many degrees of freedom fall off faster. So a percentile of 99.9999 has a
    meaning without millions of samples; digits beyond are an order of magnitude at best. A low percentile says that
    the energy is low, as at a minimum, not that something is wrong.

    Args:
        flow: Whose samples are drawn, once.
        n_samples: How many; at least 1000.
        seed: Seed of the samples: the same numbers every time.

    Raises:
        ConfigurationError: If there are too few samples, or a seed is negative.
    """

    def __init__(self, flow: FlowPotential, n_samples: int = 10_000, seed: int = 0) -> None:
        if n_samples < FEWEST:
            raise ConfigurationError(f"Percentiles need at least {FEWEST} samples; {n_samples} were asked for.")
        if seed < 0:
            raise ConfigurationError(f"The seed must not be negative; it is {seed}.")
        self.flow = flow
        found = []
        for index, first in enumerate(range(0, n_samples, CHUNK)):
            with torch.no_grad():
                _, log_prob = flow.sample(CHUNK, generator(seed, index, device=flow.device))
            found.append(-flow.kT * log_prob[: n_samples - first].double().cpu())
        self.energies = torch.cat(found).sort().values
        """Of the samples, kJ/mol, the lowest first."""
        n_beyond = round(TAIL * n_samples)
        self._edge = float(self.energies[-n_beyond - 1])
        self._scale = float(self.energies[-n_beyond:].mean()) - self._edge

    def __call__(self, energies: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Percentiles of the flow's energies (kJ/mol); 100 for NaN and infinity."""
        energies = energies.detach().double().cpu()
        below = torch.searchsorted(self.energies, energies.contiguous(), right=False)
        among = below.double() / len(self.energies)
        beyond = 1 - TAIL * torch.exp((self._edge - energies) / self._scale)
        found = 100 * torch.where(energies > self._edge, beyond, among)
        return torch.where(energies.isnan(), 100.0, found)

    def percentile(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch"]:
        """Percentiles of configurations (nm); takes positions and raises as `FlowPotential.energy` does."""
        question = require_positions(self.flow, positions)
        with torch.no_grad():
            found = self(unchecked(self.flow, "energy")(question.positions))
        return found[0] if question.single else found
