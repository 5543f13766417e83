"""The contract of a reporter: something that keeps what a run records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from .integrator import State


class Reporter(ABC):
    """Keeps what a run records; a run opens it, reports to it, and closes it, whatever ends the run."""

    # most reporters have something to do at some of these moments only
    def open(self, n_kept: int | None, state: State) -> None:  # noqa: B027
        """Begin.

        Args:
            n_kept: None for a new run. A run that goes on says how many reports, from the first, are to be kept: later
                ones were made after its checkpoint, and come again.
            state: Where the run begins: tells the number of replicas and atoms.
        """

    @abstractmethod
    def report(self, step: int, state: State) -> None:
        """Keep the state after so many steps; what is raised ends the run."""

    def sync(self) -> None:  # noqa: B027
        """Sync everything reported so far to disk: a checkpoint is about to be written."""

    def close(self) -> None:  # noqa: B027
        """End, with everything reported on disk."""


@contextmanager
def reporting(reporters: Sequence[Reporter], n_kept: int | None, state: State) -> Iterator[None]:
    """All reporters open for the length of a ``with`` block; `Reporter.open` says what the arguments mean."""
    with ExitStack() as opened:
        for reporter in reporters:
            reporter.open(n_kept, state)
            opened.callback(reporter.close)
        yield


class EnergyRecord(Reporter):
    """Times and energies of every report, in memory: 8 bytes for each number."""

    def __init__(self) -> None:
        self._times = array("d")
        self._potential = array("d")
        self._kinetic = array("d")

    @classmethod
    def restored(
        cls,
        times: Float[Tensor, "reports"],
        potential_energy: Float[Tensor, "reports replicas"],
        kinetic_energy: Float[Tensor, "reports replicas"],
    ) -> EnergyRecord:
        """A record that begins with these."""
        record = cls()
        for column, values in zip(record._columns, (times, potential_energy, kinetic_energy), strict=True):
            column.extend(values.flatten().tolist())
        return record

    def __len__(self) -> int:
        return len(self._times)

    @property
    def times(self) -> Float[Tensor, "reports"]:
        """ps."""
        return torch.tensor(self._times, dtype=torch.float64)

    @property
    def potential_energy(self) -> Float[Tensor, "reports replicas"]:
        """kJ/mol."""
        return torch.tensor(self._potential, dtype=torch.float64).reshape(len(self), -1)

    @property
    def kinetic_energy(self) -> Float[Tensor, "reports replicas"]:
        """kJ/mol."""
        return torch.tensor(self._kinetic, dtype=torch.float64).reshape(len(self), -1)

    @property
    def total_energy(self) -> Float[Tensor, "reports replicas"]:
        """Potential plus kinetic energy, kJ/mol."""
        return self.potential_energy + self.kinetic_energy

    @property
    def _columns(self) -> tuple[array[float], array[float], array[float]]:
        return self._times, self._potential, self._kinetic

    def open(self, n_kept: int | None, state: State) -> None:
        for column, width in zip(self._columns, (1, len(state.positions), len(state.positions)), strict=True):
            del column[(n_kept or 0) * width :]

    def report(self, step: int, state: State) -> None:
        self._times.append(state.time)
        self._potential.extend(state.potential_energy.detach().double().cpu().tolist())
        self._kinetic.extend(state.kinetic_energy.detach().double().cpu().tolist())
