"""Collective variables of a flow as functions of positions, for programs that bias or record them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.errors import ConfigurationError, UnknownNameError
from ..core.manifolds import FULL_TURN, Circle
from .flow_potential import FlowPotential

LOG_PROB, LATENT = "log_prob", "latent"


class Features(nn.Module):
    r"""Torsions, the log-density and latent coordinates of a flow, each C-infinity in the positions where the flow is.

    What lives on a circle has two features, its cosine and its sine: a torsion itself jumps by a whole turn.

    Args:
        potential: A flow on a molecule.
        names: Internal coordinates by name, such as ``phi``; ``log_prob``, :math:`\log p(x)` over positions modulo
            rigid motion (nm); ``latent``, all latent coordinates.

    Attributes:
        names: Names of the features, in order, such as ``cos phi`` and ``sin latent psi``.

    Raises:
        UnknownNameError: If the molecule has no internal coordinate of that name.
        ConfigurationError: If there is no name, or one is given twice.
    """

    def __init__(self, potential: FlowPotential, names: Sequence[str]) -> None:
        super().__init__()
        self.potential = potential
        columns = potential.coordinates.codomain
        base = potential.flow.base.domain
        for name in names:
            if name not in (LOG_PROB, LATENT, *columns.names):
                raise UnknownNameError("feature", name, (LOG_PROB, LATENT, *columns.names))
        if not names or len(set(names)) < len(names):
            raise ConfigurationError("Name at least one feature, and each of them once.")
        self._chosen = tuple(names)
        self.names: tuple[str, ...] = ()
        for name in names:
            if name == LOG_PROB:
                self.names += (name,)
            elif name == LATENT:
                for column in base:
                    self.names += _names(f"{LATENT} {column.name}", isinstance(column.manifold, Circle))
            else:
                self.names += _names(name, isinstance(columns.columns[columns.index(name)].manifold, Circle))

    def forward(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch features"]:
        """The features of configurations (nm)."""
        potential = self.potential
        q, log_abs_det = potential.coordinates.encode(positions)
        columns = potential.coordinates.codomain
        latents = LOG_PROB in self._chosen or LATENT in self._chosen
        z, log_density = q, log_abs_det
        if latents:
            z, log_flow = potential.flow.encode(q)
            log_density = log_abs_det + log_flow + potential.flow.base.log_prob(z)
        found: list[Tensor] = []
        for name in self._chosen:
            if name == LOG_PROB:
                found.append(log_density)
            elif name == LATENT:
                for i, column in enumerate(potential.flow.base.domain):
                    period = column.manifold.period if isinstance(column.manifold, Circle) else None
                    found += _smooth(z[:, i], period)
            else:
                i = columns.index(name)
                manifold = columns.columns[i].manifold
                found += _smooth(q[:, i], manifold.period if isinstance(manifold, Circle) else None)
        return torch.stack(found, dim=-1)


def _names(name: str, on_circle: bool) -> tuple[str, ...]:
    return (f"cos {name}", f"sin {name}") if on_circle else (name,)


def _smooth(values: Float[Tensor, "batch"], period: float | None) -> list[Float[Tensor, "batch"]]:
    if period is None:
        return [values]
    angles = values * (FULL_TURN / period)
    return [angles.cos(), angles.sin()]
