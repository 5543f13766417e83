"""Reporters: opened in order, closed whatever happens, and cut back to what is kept."""

from __future__ import annotations

import pytest
import torch
from smoothflow.core.integrator import State
from smoothflow.core.reporter import EnergyRecord, Reporter, reporting
from torch import Tensor


class Diary(Reporter):
    """Writes down what is asked of it."""

    def __init__(self, name: str, pages: list[str], fails: bool = False) -> None:
        self.name, self.pages, self.fails = name, pages, fails

    def open(self, n_kept: int | None, state: State) -> None:
        if self.fails:
            raise OSError("no ink")
        self.pages.append(f"{self.name} opens at {state.time:g} with {n_kept}")

    def report(self, step: int, state: State) -> None:
        self.pages.append(f"{self.name} reports {step}")

    def close(self) -> None:
        self.pages.append(f"{self.name} closes")


def state(time: float) -> State:
    """Two replicas of one atom of 2 amu; replica r moves with 1 + r nm/ps and has the potential energy time + r."""
    energies = torch.tensor([time, time + 1.0])
    velocities = torch.tensor([1.0, 2.0])[:, None, None] * torch.tensor([1.0, 0.0, 0.0])
    zeros = torch.zeros(2, 1, 3)
    return State(zeros, velocities, zeros, energies.requires_grad_(True), torch.tensor([2.0]), time)


def test_reporters_open_in_order_and_close_in_reverse() -> None:
    pages: list[str] = []
    reporters = [Diary("a", pages), Diary("b", pages)]
    with reporting(reporters, 3, state(0.5)):
        for reporter in reporters:
            reporter.report(7, state(0.5))
            reporter.sync()
    opened = ["a opens at 0.5 with 3", "b opens at 0.5 with 3"]
    assert pages == [*opened, "a reports 7", "b reports 7", "b closes", "a closes"]


def test_what_was_opened_is_closed_whatever_happens() -> None:
    pages: list[str] = []
    with pytest.raises(ZeroDivisionError), reporting([Diary("a", pages)], None, state(0)):
        raise ZeroDivisionError
    assert pages == ["a opens at 0 with None", "a closes"]
    pages.clear()
    with pytest.raises(OSError, match="no ink"), reporting([Diary("a", pages), Diary("b", pages, True)], 1, state(0)):
        pytest.fail("the run must not begin")
    assert pages == ["a opens at 0 with 1", "a closes"]


def energies(record: EnergyRecord) -> list[Tensor]:
    return [record.potential_energy, record.kinetic_energy, record.total_energy]


def test_energies_are_kept_and_cut_back() -> None:
    record = EnergyRecord()
    with reporting([record], None, state(0)):
        for step in range(4):
            record.report(step, state(0.1 * step))
    assert len(record) == 4
    torch.testing.assert_close(record.times, 0.1 * torch.arange(4).double(), rtol=1e-15, atol=0)
    potential, kinetic, total = energies(record)
    expected = 0.1 * torch.arange(4).double()[:, None] + torch.tensor([0, 1])
    # float32 before, float64 after
    torch.testing.assert_close(potential, expected, rtol=0, atol=1e-6)
    assert (potential.dtype, potential.requires_grad) == (torch.float64, False)
    assert kinetic.tolist() == 4 * [[1, 4]]
    torch.testing.assert_close(total, expected + kinetic, rtol=0, atol=1e-6)

    restored = EnergyRecord.restored(record.times, potential, kinetic)
    for ours, theirs in zip(energies(restored), energies(record), strict=True):
        assert torch.equal(ours, theirs)
    restored.open(3, state(0))
    assert restored.times.tolist() == record.times.tolist()[:3]
    assert torch.equal(restored.total_energy, total[:3])
    # a new run
    restored.open(None, state(0))
    assert len(restored) == 0
