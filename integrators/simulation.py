"""Molecular dynamics with our own integrators: all replicas at once, on any device."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.engine import (
    Advance,
    DynamicsSettings,
    Engine,
    check_configurations,
    check_start,
    kinetic_limit,
    require_finite,
    require_kinetic,
)
from ..core.errors import ConfigurationError
from ..core.integrator import Integrator, State
from ..core.plugins import hookimpl
from ..core.potential import Potential
from ..core.reporter import EnergyRecord, Reporter, reporting
from ..core.units import BOLTZMANN
from .checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from .making import ENSEMBLE_INTEGRATORS, make_integrator
from .stepping import Stepper

CHECKPOINT_SECONDS = 10.0
"""Wall-clock time between checkpoints."""


class Simulation:
    """Molecular dynamics that can be stopped anywhere and gone on with, bit for bit.

    Args:
        potential: Gives energies and forces of all replicas at once.
        integrator: Makes the steps; or the name of a registered one, made with ``settings``.
        start: Where to begin.
        settings: Number of steps, and how often to report.
        reporters: Keep what is reported: the start, every ``report_every``-th step and the last one.
        provenance: What the run is of, in JSON types; kept in checkpoints.

    Raises:
        ConfigurationError: If a run cannot start from these, or the integrator has another time step than the settings.
        GeometryError: If the positions are not a configuration of the molecule: in another order, or mirrored.
        UnknownNameError: If there is no integrator of that name.
    """

    def __init__(
        self,
        potential: Potential,
        integrator: Integrator | str,
        start: State,
        settings: DynamicsSettings,
        reporters: Sequence[Reporter] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self._set_up(potential, integrator, start, settings, reporters, provenance)
        check_configurations(potential, start.positions)

    def _set_up(
        self,
        potential: Potential,
        integrator: Integrator | str,
        start: State,
        settings: DynamicsSettings,
        reporters: Sequence[Reporter],
        provenance: Mapping[str, Any] | None,
    ) -> None:
        check_start(potential, start.masses, start.positions, start.velocities)
        require_finite(start, potential.topology)
        if isinstance(integrator, str):
            integrator = make_integrator(integrator, settings, start.positions.device)
        if integrator.timestep != settings.timestep:
            raise ConfigurationError(
                f"The integrator has a time step of {integrator.timestep} ps and the settings say "
                f"{settings.timestep} ps. Give both the same."
            )
        self.potential = potential
        self.integrator = integrator
        self.state = start
        self.step = 0
        self.settings = settings
        self.reporters = tuple(reporters)
        self.provenance = dict(provenance or {})
        self.energies = EnergyRecord()
        self._begun = False
        self._advance = Stepper(potential, integrator)

    @classmethod
    def load(
        cls,
        path: str | Path,
        potential: Potential,
        reporters: Sequence[Reporter] = (),
        integrator: Integrator | None = None,
        n_steps: int | None = None,
        device: str | torch.device = "cpu",
    ) -> Simulation:
        """The simulation of a checkpoint; it goes on as if it had never stopped.

        Args:
            path: A checkpoint.
            potential: The same as before.
            reporters: The same as before; what they kept after the checkpoint is forgotten, and comes again.
            integrator: Made like the one before, if that was no registered one.
            n_steps: Number of steps of the whole run, if it is to be longer than planned.
            device: Where to compute; the one before, for the same bits.

        Raises:
            FileFormatError: If there is no such checkpoint, it is damaged, or of another integrator.
        """
        found = read_checkpoint(path, device)
        settings = found.settings if n_steps is None else replace(found.settings, n_steps=n_steps)
        # not checked as a start is: wherever the run has come to, it goes on
        simulation = cls.__new__(cls)
        simulation._set_up(
            potential, integrator or found.integrator, found.state, settings, reporters, found.provenance
        )
        simulation.integrator.load_state_dict(found.integrator_state)
        simulation.step, simulation.energies, simulation._begun = found.step, found.energies, True
        return simulation

    def save(self, path: str | Path) -> None:
        """Write a checkpoint; raises a `FileFormatError` if it cannot be written."""
        write_checkpoint(
            path,
            Checkpoint(
                self.settings,
                self.integrator.name,
                self.step,
                self.state,
                self.integrator.state_dict(),
                self.energies,
                self.provenance,
            ),
        )

    def run(
        self,
        checkpoint: str | Path | None = None,
        stopped: Callable[[], bool] = lambda: False,
        seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """Run to the last step, or until told to stop.

        Args:
            checkpoint: File to go on from; written at the start, now and then, and at the end.
            stopped: Asked after every step whether to end there; with a captured potential, after every stretch.
            seconds: Wall-clock time between checkpoints.

        Raises:
            SimulationError: If an energy or a force is not finite, the potential refuses a configuration, or the
                kinetic energy is one that no temperature of the run explains; the message names replica, atom and time.
            FileFormatError: If a reporter's file or the checkpoint cannot be written.
        """
        n_steps, every = self.settings.n_steps, self.settings.report_every
        if self._begun and self.step >= n_steps:
            return
        # the last step of a shorter plan was reported though it would not be of the longer one
        n_kept = min(len(self.energies), 1 + self.step // every) if self._begun else None
        if checkpoint is not None and not self._begun:
            if Path(checkpoint).exists():
                raise ConfigurationError(f'"{checkpoint}" exists. Load it to go on with its run, or remove it.')
            # before the reporters' files, so that they never lack one
            self.save(checkpoint)
        with reporting((self.energies, *self.reporters), n_kept, self.state):
            self._begun = True
            if not len(self.energies):
                self._report()
            began = float(self.energies.kinetic_energy[0].max())
            n_atoms = len(self.state.masses)
            hottest = max(self.settings.temperature, 2 * began / (3 * n_atoms * BOLTZMANN))
            limit = kinetic_limit(n_atoms, hottest)
            saved = time.monotonic()
            while self.step < n_steps and not stopped():
                n = min(self._advance.stretch, every - self.step % every, n_steps - self.step)
                self.state = self._advance(self.state, n)
                self.step += n
                if self.step % every == 0 or self.step == n_steps:
                    self._report()
                    require_kinetic(self.state, limit)
                if checkpoint is not None and time.monotonic() - saved > seconds:
                    self._save_with_reports(checkpoint)
                    saved = time.monotonic()
            if checkpoint is not None:
                self._save_with_reports(checkpoint)

    def _save_with_reports(self, path: str | Path) -> None:
        for reporter in self.reporters:
            reporter.sync()
        self.save(path)

    def _report(self) -> None:
        for reporter in (self.energies, *self.reporters):
            reporter.report(self.step, self.state)


class NativeEngine(Engine):
    """Our own velocity Verlet (``nve``) and BAOAB Langevin (``nvt``), in the precision of the positions."""

    name = "native"
    thermostat = "Langevin, BAOAB"

    def begin(
        self,
        potential: Potential,
        masses: Float[Tensor, "atoms"],
        positions: Float[Tensor, "replicas atoms 3"],
        velocities: Float[Tensor, "replicas atoms 3"],
        settings: DynamicsSettings,
    ) -> Advance:
        integrator = make_integrator(ENSEMBLE_INTEGRATORS[settings.ensemble], settings, positions.device)
        # masses in float64 would turn a float32 run into float64 from the second step on
        state = State.start(potential, positions, velocities.to(positions), masses.to(positions))

        stepper = Stepper(potential, integrator)

        def later(n_steps: int) -> State:
            nonlocal state
            state = stepper(state, n_steps)
            return state

        return later


@hookimpl
def smoothflow_engines() -> Mapping[str, type[Engine]]:
    return {NativeEngine.name: NativeEngine}
