"""Collective variables of a flow as functions of positions, for programs that bias or record them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.errors import ConfigurationError, UnknownNameError
from ..core.manifolds import FULL_TURN, Circle, Manifold
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
        # where each feature is in a row of internal coordinates, latent coordinates and the log-density
        n, places = len(columns), list[tuple[str, int, Manifold | None]]()
        for name in names:
            if name == LOG_PROB:
                places.append((name, 2 * n, None))
            elif name == LATENT:
                places += [(f"{LATENT} {column.name}", n + i, column.manifold) for i, column in enumerate(base)]
            else:
                i = columns.index(name)
                places.append((name, i, columns.columns[i].manifold))
        self._places = [(i, manifold.period if isinstance(manifold, Circle) else None) for _, i, manifold in places]
        self.names = tuple(
            each
            for (name, *_), (_, period) in zip(places, self._places, strict=True)
            for each in ((name,) if period is None else (f"cos {name}", f"sin {name}"))
        )
        self._encodes = any(i >= n for i, _ in self._places)

    def forward(self, positions: Float[Tensor, "batch atoms 3"]) -> Float[Tensor, "batch features"]:
        """The features of configurations (nm)."""
        flow = self.potential.flow
        q, log_abs_det = self.potential.coordinates.encode(positions)
        row = q
        if self._encodes:
            z, log_flow = flow.encode(q)
            log_density = log_abs_det + log_flow + flow.base.log_prob(z)
            row = torch.cat([q, z, log_density[:, None]], dim=-1)
        found: list[Tensor] = []
        for i, period in self._places:
            if period is None:
                found.append(row[:, i])
            else:
                angles = row[:, i] * (FULL_TURN / period)
                found += [angles.cos(), angles.sin()]
        return torch.stack(found, dim=-1)
