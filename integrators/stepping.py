"""Steps of an integrator: one after another, or recorded together with the potential and replayed."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from ..core.capture import CapturedFunction
from ..core.engine import require_finite
from ..core.errors import SimulationError, SmoothflowError
from ..core.integrator import Integrator, State
from ..core.potential import Potential

STRETCH = 100
"""Most captured steps between two questions to the device, whether all is finite and whether to stop."""


class Stepper:
    """Advances states by an integrator.

    If the potential is one that replays recorded work, and the integrator allows it, a whole step is recorded: forces
    and integrator. Such steps are checked at the end of a stretch; if something is not finite there, the stretch is
    gone through again step by step, so that the error names the first step that failed.

    Args:
        potential: Gives the forces.
        integrator: Makes the steps.
    """

    def __init__(self, potential: Potential, integrator: Integrator) -> None:
        self.potential = potential
        self.integrator = integrator
        self._itself = potential.recorded or potential
        self._captured: CapturedFunction | None = None
        if potential.recorded is not None and integrator.can_be_captured:
            self._captured = CapturedFunction(self._step, [*self._itself.parameters(), *self._itself.buffers()])

    @property
    def stretch(self) -> int:
        """Steps that may be asked for at once, where somebody waits to be heard in between."""
        return 1 if self._captured is None else STRETCH

    def __call__(self, state: State, n_steps: int) -> State:
        """The state a number of steps later; raises as `advance` does."""
        if self._captured is None:
            return advance(self.potential, self.integrator, state, n_steps)
        before = self.integrator.state_dict()
        later = state
        # not a number, as soon as anything was not finite
        watched = state.positions.new_zeros(())
        for _ in range(n_steps):
            tensors = watched, later.positions, later.velocities, later.forces, later.masses
            watched, positions, velocities, forces, energy = self._captured(*tensors, *self.integrator.draw(later))
            later = replace(
                later,
                positions=positions,
                velocities=velocities,
                forces=forces,
                potential_energy=energy,
                time=later.time + self.integrator.timestep,
            )
        if bool(watched.isfinite()):
            return later
        self.integrator.load_state_dict(before)
        # by the potential itself: what it had no time to ask on the way it can ask now
        return advance(self._itself, self.integrator, state, n_steps)

    def _step(
        self,
        watched: Float[Tensor, ""],
        positions: Float[Tensor, "batch atoms 3"],
        velocities: Float[Tensor, "batch atoms 3"],
        forces: Float[Tensor, "batch atoms 3"],
        masses: Float[Tensor, "atoms"],
        *noise: Tensor,
    ) -> tuple[Tensor, ...]:
        """What is recorded."""
        state = State(positions, velocities, forces, forces.new_zeros(len(forces)), masses, 0.0)
        later = self.integrator.propagate(self._itself, state, *noise)
        watched = watched + 0 * (later.total_energy.sum() + later.forces.sum())
        return watched, later.positions, later.velocities, later.forces, later.potential_energy


def advance(potential: Potential, integrator: Integrator, state: State, n_steps: int) -> State:
    """The state a number of steps later.

    Raises:
        SimulationError: If an energy or a force is not finite, or the potential refuses a configuration; the message
            names replica, atom and time.
    """
    for _ in range(n_steps):
        try:
            state = integrator.step(potential, state)
        except SmoothflowError as error:
            moment = state.time + integrator.timestep
            raise SimulationError(f"At {moment:.6g} ps the potential cannot be computed. {error}") from error
        require_finite(state, potential.topology)
    return state
