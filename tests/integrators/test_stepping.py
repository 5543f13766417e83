"""Steps that are recorded with the potential: those of the integrator, with no question in between."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from smoothflow import CapturedPotential, Simulation
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import PluginError, SimulationError
from smoothflow.core.integrator import Integrator, State
from smoothflow.core.potential import Potential
from smoothflow.integrators.langevin import Langevin
from smoothflow.integrators.simulation import NativeEngine
from smoothflow.integrators.stepping import STRETCH, Stepper, advance
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from torch import Tensor

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
MASSES = [12.0, 16.0, 1.0]


class Triangle(Potential):
    """Three anharmonic springs; beyond a length, nothing that is a number."""

    shape = (3, 3)

    def __init__(self, longest: float = 1e9) -> None:
        super().__init__()
        self.longest = longest

    def energy(self, positions: Tensor) -> Tensor:
        length = (positions - positions.roll(1, dims=1)).norm(dim=-1)
        stretch = length / 0.12 - 1
        energy = (500 * stretch**2 - 300 * stretch**3 + 400 * stretch**4).sum(1)
        # the forces stay finite, and so do later energies
        return energy + torch.where(length.amax(1) > self.longest, torch.nan, 0.0)


def start(device: str = "cpu", n_replicas: int = 4) -> State:
    generator = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0.0, 0.0], [0.12, 0.0, 0.0], [0.06, 0.1, 0.0]], dtype=torch.float64)
    positions = corners + 0.01 * torch.randn(n_replicas, 3, 3, generator=generator, dtype=torch.float64)
    velocities = torch.randn(n_replicas, 3, 3, generator=generator, dtype=torch.float64)
    masses = torch.tensor(MASSES, dtype=torch.float64)
    return State.start(on(device), *(x.to(device) for x in (positions, velocities, masses)))


def on(device: str, longest: float = 1e9) -> Potential:
    return Triangle(longest).to(device)


def integrator(name: str, device: str = "cpu") -> Integrator:
    if name == "velocity_verlet":
        return VelocityVerlet(0.0005)
    return Langevin(0.0005, 300.0, 10.0, torch.Generator(device).manual_seed(1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["velocity_verlet", "langevin"])
def test_a_recorded_step_is_the_integrator_s(name: str, device: str) -> None:
    potential = on(device)
    captured, plain = Stepper(CapturedPotential(potential), integrator(name, device)), integrator(name, device)
    assert (captured.stretch, Stepper(potential, plain).stretch) == (STRETCH, 1)
    found = expected = start(device)
    for n_steps in (1, 7, 30):
        found = captured(found, n_steps)
        expected = advance(potential, plain, expected, n_steps)
        # the same noise and the same operations
        for field in ("positions", "velocities", "forces", "potential_energy", "masses"):
            torch.testing.assert_close(getattr(found, field), getattr(expected, field), rtol=1e-9, atol=1e-9)
        assert found.time == expected.time


def test_a_step_is_recorded_once_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    potential = Triangle()
    energy = Triangle.energy.__wrapped__  # type: ignore[attr-defined]

    def counted(self: Triangle, positions: Tensor) -> Tensor:
        asked.append(len(positions))
        result: Tensor = energy(self, positions)
        return result

    monkeypatch.setattr(Triangle, "energy", counted)
    stepper = Stepper(CapturedPotential(potential), integrator("langevin"))
    state = stepper(start(), 1)
    before = len(asked)
    stepper(state, 50)
    assert len(asked) == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["velocity_verlet", "langevin"])
def test_the_error_of_a_recorded_stretch_names_the_first_step_that_failed(name: str, device: str) -> None:
    potential = on(device, longest=0.15)
    with pytest.raises(SimulationError) as eager:
        advance(potential, integrator(name, device), start(device), 2000)
    with pytest.raises(SimulationError) as captured:
        Stepper(CapturedPotential(potential), integrator(name, device))(start(device), 2000)
    assert str(captured.value) == str(eager.value)


@pytest.mark.parametrize("name", ["velocity_verlet", "langevin"])
def test_a_simulation_of_recorded_steps_reports_and_goes_on_as_any(tmp_path: Path, name: str) -> None:
    ensemble = "nve" if name == "velocity_verlet" else "nvt"
    settings = DynamicsSettings(n_steps=150, timestep=0.0005, ensemble=ensemble, report_every=40, seed=3)  # type: ignore[arg-type]
    plain = Simulation(Triangle(), name, start(), settings)
    plain.run()
    captured = CapturedPotential(Triangle())
    whole = Simulation(captured, name, start(), settings)
    whole.run()
    assert whole.step == 150
    torch.testing.assert_close(whole.energies.times, plain.energies.times, rtol=0, atol=0)
    torch.testing.assert_close(whole.energies.total_energy, plain.energies.total_energy, rtol=1e-9, atol=1e-9)
    # stopped between two reports, and gone on with
    part = Simulation(captured, name, start(), replace(settings, n_steps=60))
    part.run(tmp_path / "checkpoint")
    later = Simulation.load(tmp_path / "checkpoint", captured, n_steps=150)
    later.run()
    assert torch.equal(later.state.positions, whole.state.positions)
    assert torch.equal(later.energies.total_energy, whole.energies.total_energy)


def test_the_native_engine_takes_recorded_steps() -> None:
    settings = DynamicsSettings(n_steps=20, timestep=0.0005, ensemble="nvt", report_every=5, seed=3)
    state = start()
    args = state.masses, state.positions, state.velocities, settings
    found = NativeEngine().run(CapturedPotential(Triangle()), *args)
    expected = NativeEngine().run(Triangle(), *args)
    torch.testing.assert_close(found.positions, expected.positions, rtol=1e-10, atol=1e-10)


class Euler(Integrator):
    """One that knows no recorded steps."""

    name = "euler"
    timestep = 0.0005

    def step(self, potential: Potential, state: State) -> State:
        energy, forces = potential.energy_and_forces(state.positions)
        velocities = state.velocities + self.timestep * forces / state.masses[:, None]
        positions = state.positions + self.timestep * velocities
        return replace(state, positions=positions, velocities=velocities, forces=forces, potential_energy=energy)


class Nothing(Integrator):
    name = "nothing"
    timestep = 0.0005


def test_an_integrator_with_steps_of_its_own_takes_them_one_by_one() -> None:
    stepper = Stepper(CapturedPotential(Triangle()), Euler())
    assert stepper.stretch == 1
    found, expected = stepper(start(), 3), advance(Triangle(), Euler(), start(), 3)
    torch.testing.assert_close(found.positions, expected.positions, rtol=1e-12, atol=1e-12)
    with pytest.raises(PluginError, match="Nothing has neither step nor propagate"):
        Nothing().step(Triangle(), start())
