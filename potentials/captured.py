"""Potentials whose work is recorded once for each batch size, and replayed: on a GPU, as CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.capture import N_RECORDS, CapturedFunction
from ..core.external import attach_forces
from ..core.identity import Geometry
from ..core.inversion import completed
from ..core.potential import (
    Potential,
    hessian_vector_product,
    require_positions,
    require_vectors,
    takes_positions,
    unchecked,
)
from .compiled import CompiledPotential
from .flow_potential import FlowPotential


class CapturedPotential(Potential):
    r"""A potential whose energies, forces and Hessian-vector products are recorded and replayed.

    Each batch size of each of them is recorded when it is asked for first, which takes some evaluations, and compared
    with the potential before it is used. The ``limit`` sizes that were used last are kept. On the CPU the records are
    traced graphs: the same numbers, no faster. It has no derivatives with respect to the potential's parameters; these
    may be changed in place, and moved.

    Args:
        potential: Any potential that is torch throughout, or machine code for a GPU.
        limit: Batch sizes that are kept, of each function.

    Raises:
        CompilationError: When first asked for a batch size, if the work cannot be recorded.
    """

    def __init__(self, potential: Potential, limit: int = N_RECORDS) -> None:
        super().__init__()
        self._capture(potential, limit)

    def _capture(self, potential: Potential, limit: int) -> None:
        self.potential = potential
        self.limit = limit
        self.topology, self.shape = potential.topology, tuple(potential.shape)
        self.dtype, self.device = potential.dtype, potential.device
        self._captured: dict[str, CapturedFunction] = {}

    @property
    def recorded(self) -> Potential:
        """The potential that was given."""
        return self.potential

    @property
    def geometry(self) -> Geometry | None:
        """That of the potential."""
        return self.potential.geometry

    def explain(self, positions: Float[Tensor, "1 *shape"]) -> str:
        """What the potential says."""
        return self.potential.explain(positions)

    def energy_and_forces(
        self, positions: Float[Tensor, "batch *shape"]
    ) -> tuple[Float[Tensor, "batch"], Float[Tensor, "batch *shape"]]:
        if len(positions) == 0:
            return positions.new_zeros(0), torch.zeros_like(positions)
        energy, forces = self._function("energy_and_forces", self._energy_and_forces)(positions)
        return energy, forces

    def energy(self, positions: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        if not (torch.is_grad_enabled() and positions.requires_grad):
            if len(positions) == 0:
                return positions.new_zeros(0)
            return self._function("energy", self._energy)(positions)[0]
        energy, forces = unchecked(self, "energy_and_forces")(positions)
        return attach_forces(positions, energy, forces, self.hessian_vector_product)

    def hessian_vector_product(
        self, positions: Float[Tensor, "batch *shape"], vectors: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        r"""The energy's second derivatives at the positions (nm) times vectors, kJ/mol/nm^2 times their unit.

        .. math:: H v = \frac{\partial}{\partial x} \left( v \cdot \frac{\partial U}{\partial x} \right)

        Raises:
            ConfigurationError: If the vectors are not like the positions.
        """
        question = require_positions(self, positions)
        vectors = require_vectors(question, positions, vectors).detach()
        at = question.positions.detach()
        if len(at) == 0:
            return torch.zeros_like(positions)
        return question.answer(self._function("curvature", self._curvature)(at, vectors)[0])

    def _energy(self, positions: Tensor) -> tuple[Tensor, ...]:
        return (unchecked(self.potential, "energy")(positions),)

    def _energy_and_forces(self, positions: Tensor) -> tuple[Tensor, ...]:
        found: tuple[Tensor, ...] = unchecked(self.potential, "energy_and_forces")(positions)
        return found

    def _curvature(self, positions: Tensor, vectors: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.potential, CompiledPotential):
            return (self.potential.hessian_vector_product(positions, vectors),)
        return (hessian_vector_product(self.potential, positions, vectors),)

    def _function(self, name: str, function: Callable[..., tuple[Tensor, ...]]) -> CapturedFunction:
        if name not in self._captured:
            reads = [*self.potential.parameters(), *self.potential.buffers()]
            self._captured[name] = CapturedFunction(function, reads, limit=self.limit)
        return self._captured[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Potential:
        super()._apply(fn, recurse)
        # buffers are other tensors then
        self._captured = {}
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # a copy records anew: it may run elsewhere
        return type(self), (self.potential, self.limit)


class CapturedFlow(CapturedPotential, FlowPotential):
    """A flow whose work is recorded and replayed: also its likelihoods and its samples.

    Args:
        potential: The flow.
        limit: Batch sizes that are kept, of each function.
    """

    def __init__(self, potential: FlowPotential, limit: int = N_RECORDS) -> None:
        FlowPotential.__init__(
            self, potential.flow, potential.coordinates, potential.temperature, potential.temperature_range
        )
        # the very same, also where it is bound to a temperature
        self.flow = potential.flow
        self._capture(potential, limit)

    def at_temperature(self, temperature: float) -> FlowPotential:
        """As `FlowPotential.at_temperature`; it records anew."""
        flow = cast("FlowPotential", self.potential)
        other = flow.at_temperature(temperature)
        return self if other is flow else CapturedFlow(other, self.limit)

    def _keep_weights_apart(self) -> None:
        flow = cast("FlowPotential", self.potential)
        flow._keep_weights_apart()
        self.flow, self.coordinates = flow.flow, flow.coordinates

    @takes_positions
    def log_prob(
        self, positions: Float[Tensor, "batch atoms 3"], context: Float[Tensor, "batch n_context"] | None = None
    ) -> Float[Tensor, "batch"]:
        """Log-density over positions (nm) modulo rigid motion; in another context than its own nothing is recorded."""
        if context is not None:
            return cast("FlowPotential", self.potential).log_prob(positions, context)
        energy: Tensor = unchecked(self, "energy")(positions)
        return energy / -self.kT

    def generate(self, z: Float[Tensor, "batch dim"]) -> tuple[Float[Tensor, "batch atoms 3"], Float[Tensor, "batch"]]:
        """Positions (nm) and their log-densities, of latent vectors of the flow."""
        flow = cast("FlowPotential", self.potential)
        if len(z) == 0 or torch.is_grad_enabled():
            return flow.generate(z)
        positions, log_prob = self._function("generate", flow.generate)(z)
        return completed(flow.generate, z, positions, log_prob)
