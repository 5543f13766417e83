"""States, thermal velocities, and what an integrator keeps for a restart."""

from __future__ import annotations

import pytest
import torch
from closed_forms import HarmonicWell
from smoothflow.core.errors import FileFormatError
from smoothflow.core.integrator import Integrator, State, maxwell_boltzmann
from smoothflow.core.potential import Potential
from smoothflow.core.units import BOLTZMANN

F64 = torch.float64
MASSES = torch.tensor([2.0, 8.0], dtype=F64)


class Kicking(Integrator):
    """Two sources of random numbers, and an attribute that is none."""

    name = "kicking"

    def __init__(self, seed: int) -> None:
        self.timestep = 0.001
        self.first = torch.Generator().manual_seed(seed)
        self.second = torch.Generator().manual_seed(seed + 1)

    def step(self, potential: Potential, state: State) -> State:
        raise AssertionError

    def draw(self) -> list[float]:
        return [torch.rand((), generator=generator).item() for generator in (self.first, self.second)]


def test_a_state_knows_its_energies_and_its_temperature() -> None:
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    v = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    state = State.start(HarmonicWell(2, 10.0), x, v, MASSES)
    assert state.time == 0
    torch.testing.assert_close(state.forces, -10 * x, rtol=1e-14, atol=0)
    torch.testing.assert_close(state.potential_energy, 5 * (x**2).sum((1, 2)), rtol=1e-14, atol=0)
    kinetic = (v[:, 0] ** 2).sum(-1) + 4 * (v[:, 1] ** 2).sum(-1)
    torch.testing.assert_close(state.kinetic_energy, kinetic, rtol=1e-14, atol=0)
    torch.testing.assert_close(state.total_energy, kinetic + state.potential_energy, rtol=1e-14, atol=0)
    # half a kT for each of six degrees of freedom
    torch.testing.assert_close(state.temperature, kinetic / (0.5 * 6 * BOLTZMANN), rtol=1e-14, atol=0)


def test_thermal_velocities_have_the_variance_of_their_temperature() -> None:
    n = 40_000
    v = maxwell_boltzmann(MASSES, n, 300.0, torch.Generator().manual_seed(0))
    assert (v.shape, v.dtype) == ((n, 2, 3), F64)
    variance = v.var(dim=(0, 2))
    # the standard error of a variance over 3 n normal numbers, five times
    torch.testing.assert_close(variance, BOLTZMANN * 300 / MASSES, rtol=5 * (2 / (3 * n)) ** 0.5, atol=0)
    assert float(v.mean(dim=0).abs().max()) < 5 * (float(variance.max()) / n) ** 0.5
    again = maxwell_boltzmann(MASSES, n, 300.0, torch.Generator().manual_seed(0))
    assert torch.equal(v, again)
    assert maxwell_boltzmann(MASSES, 2, 0.0, torch.Generator()).abs().max() == 0


def test_random_numbers_go_on_where_they_were_saved() -> None:
    integrator = Kicking(0)
    integrator.draw()
    saved = integrator.state_dict()
    assert set(saved) == {"first", "second"}
    following = [integrator.draw() for _ in range(3)]
    other = Kicking(5)
    other.load_state_dict(saved)
    assert [other.draw() for _ in range(3)] == following


def test_the_state_of_another_integrator_is_refused() -> None:
    saved = Kicking(0).state_dict()
    del saved["second"]
    with pytest.raises(FileFormatError, match=r"holds \['first'\]; Kicking needs \['first', 'second'\]"):
        Kicking(0).load_state_dict(saved)
