"""The engine of our own integrators: what it records, and when it stops."""

from __future__ import annotations

import pytest
import torch
from closed_forms import Springs, atoms_of
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.errors import ConfigurationError, GeometryError, SimulationError
from smoothflow.core.integrator import State
from smoothflow.core.plugins import registry
from smoothflow.core.topology import Topology
from smoothflow.integrators.simulation import Simulation
from smoothflow.integrators.velocity_verlet import VelocityVerlet
from torch import Tensor

F64 = torch.float64
MASSES = torch.tensor([12.0, 16.0], dtype=F64)


class Bond(Springs):
    """A harmonic bond of two atoms."""

    def __init__(self) -> None:
        super().__init__([(0, 1)], 0.12, 1e5, Topology(atoms_of("CO"), ((0, 1),)))


class Breaking(Bond):
    """A bond that gives NaN beyond 0.2 nm."""

    def energy(self, positions: Tensor) -> Tensor:
        return super().energy(positions) + 0 * (0.2 - self.distances(positions)[:, 0]).sqrt()


class Refusing(Bond):
    """A bond that refuses lengths beyond 0.2 nm."""

    def energy(self, positions: Tensor) -> Tensor:
        if bool((self.distances(positions) > 0.2).any()):
            raise GeometryError("The bond is too long.")
        return super().energy(positions)


def start(n_replicas: int = 3) -> tuple[Tensor, Tensor]:
    positions = torch.tensor([[0.0, 0.0, 0.0], [0.13, 0.0, 0.0]], dtype=F64).repeat(n_replicas, 1, 1)
    velocities = torch.randn(n_replicas, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    return positions, velocities


def flying_apart() -> tuple[Tensor, Tensor]:
    positions, velocities = start()
    velocities[1, 1, 0] = 100.0  # replica 1 passes 0.2 nm in the first fs
    return positions, velocities


def test_frames_are_what_the_integrator_visits() -> None:
    potential, (x, v) = Bond(), start()
    seen: dict[int, State] = {}
    settings = DynamicsSettings(n_steps=25, timestep=0.0005, report_every=10)
    trajectory = registry().engine("native")().run(potential, MASSES, x, v, settings, seen.__setitem__)
    reports = list(seen)
    assert reports == [0, 10, 20, 25]
    for state, positions in zip(seen.values(), trajectory.positions, strict=True):
        assert torch.equal(state.positions, positions)
    torch.testing.assert_close(trajectory.times, torch.tensor([0.0, 0.005, 0.01, 0.0125], dtype=F64))
    state = State.start(potential, x, v, MASSES)
    for step in range(26):
        if step in reports:
            frame = reports.index(step)
            assert torch.equal(trajectory.positions[frame], state.positions)
            assert torch.equal(trajectory.velocities[frame], state.velocities)
            # energies belong to these positions and velocities, computed here anew
            torch.testing.assert_close(trajectory.potential_energy[frame], potential.energy(state.positions))
            kinetic = 0.5 * (MASSES[:, None] * state.velocities**2).sum((-2, -1))
            torch.testing.assert_close(trajectory.kinetic_energy[frame], kinetic)
        state = VelocityVerlet(0.0005).step(potential, state)


def test_an_observer_stops_a_run() -> None:
    def stop(done: int, state: State) -> None:
        if done == 20:
            raise SimulationError(f"enough at {state.time:.3f} ps")

    x, v = start()
    with pytest.raises(SimulationError, match=r"enough at 0\.020 ps"):
        registry().engine("native")().run(Bond(), MASSES, x, v, DynamicsSettings(1000), stop)


def test_replicas_do_not_feel_each_other() -> None:
    potential, (x, v) = Bond(), start()
    settings = DynamicsSettings(n_steps=50)
    together = registry().engine("native")().run(potential, MASSES, x, v, settings)
    alone = registry().engine("native")().run(potential, MASSES, x[1:2], v[1:2], settings)
    torch.testing.assert_close(together.positions[:, 1:2], alone.positions, rtol=0, atol=1e-15)


def test_two_runs_with_one_seed_are_the_same_and_another_seed_is_not() -> None:
    potential, (x, v) = Bond(), start()
    runs = [
        registry().engine("native")().run(potential, MASSES, x, v, DynamicsSettings(20, ensemble="nvt", seed=seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0].positions, runs[1].positions)
    assert not torch.equal(runs[0].positions, runs[2].positions)


def test_a_run_stays_in_the_precision_of_its_positions() -> None:
    x, v = start()
    trajectory = registry().engine("native")().run(Bond(), MASSES, x.float(), v, DynamicsSettings(5, ensemble="nvt"))
    assert trajectory.positions.dtype == trajectory.velocities.dtype == torch.float32


def test_a_force_that_is_not_finite_stops_the_run_and_is_named() -> None:
    x, v = flying_apart()
    with pytest.raises(SimulationError, match=r"At 0\.001 ps the force on atom 0 \(MOL1-C0\) in replica 1 "):
        registry().engine("native")().run(Breaking(), MASSES, x, v, DynamicsSettings(100))


def test_a_refused_configuration_stops_the_run_at_a_named_time() -> None:
    x, v = flying_apart()
    with pytest.raises(SimulationError, match=r"At 0\.001 ps .*The bond is too long\."):
        Simulation(Refusing(), VelocityVerlet(0.001), State.start(Bond(), x, v, MASSES), DynamicsSettings(100)).run()


def test_a_start_that_is_not_finite_is_refused() -> None:
    x, v = start()
    x[2, 1, 0] = torch.nan
    with pytest.raises(ConfigurationError, match="position of atom 1 in replica 2"):
        registry().engine("native")().run(Bond(), MASSES, x, v, DynamicsSettings(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": torch.zeros(1, 3, 3)}, r"shape \(1, 3, 3\); the potential needs \(replicas, 2, 3\)"),
        ({"velocities": torch.zeros(1, 2, 3)}, "velocities of the same shape"),
        ({"masses": torch.tensor([12.0, 0.0])}, r"Atom 1 has mass 0\.0"),
    ],
)
def test_a_start_of_the_wrong_kind_is_refused(change: dict[str, Tensor], message: str) -> None:
    x, v = start()
    with pytest.raises(ConfigurationError, match=message):
        registry().engine("native")().run(
            Bond(), **({"masses": MASSES, "positions": x, "velocities": v} | change), settings=DynamicsSettings(1)
        )


@pytest.mark.parametrize(
    "settings",
    [
        {"n_steps": -1},
        {"n_steps": 1, "timestep": 0.0},
        {"n_steps": 1, "timestep": float("nan")},
        {"n_steps": 1, "ensemble": "npt"},
        {"n_steps": 1, "temperature": -1.0},
        {"n_steps": 1, "friction": -1.0},
        {"n_steps": 1, "report_every": 0},
        {"n_steps": 1, "seed": -1},
    ],
)
def test_settings_that_cannot_be_run_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="Dynamics cannot be run: "):
        DynamicsSettings(**settings)  # type: ignore[arg-type]
