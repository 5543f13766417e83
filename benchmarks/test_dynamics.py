"""A step of molecular dynamics in every engine: with a potential that costs nothing, and with the flow.

The start of a run is in its figure, spread over the steps.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import ase
import numpy as np
import openmm
import pytest
import torch
from ase.calculators.calculator import BaseCalculator
from ase.md.verlet import VelocityVerlet
from measuring import PRECISIONS, Measure, short
from smoothflow.core.engine import DynamicsSettings
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.core.topology import Topology
from smoothflow.molecules.elements import masses
from torch import Tensor

# TorchSim needs a newer Python
ENGINES = [name for name in registry().names("engine") if name != "torchsim" or sys.version_info >= (3, 12)]
RUNS = [*((engine, 1) for engine in ENGINES), ("native", 10)]
"""Ours computes replicas at once; elsewhere they take turns."""

REPLICAS = (1, 10)
FLOW_STEPS = 20
FAST_STEPS = 500
NULL_STEPS = {"openmm": 10_000}
"""So many that the start of a run does not count; for others `FAST_STEPS`."""

TIMESTEP = 1e-6
"""ps; so short that an untrained flow stays where it is. The cost of a step does not depend on it."""


class Null(Potential):
    """No forces at no cost: what is seen is the engine."""

    def __init__(self, topology: Topology, batch: int) -> None:
        super().__init__()
        self.topology = topology
        self.shape = (len(topology), 3)
        self.register_buffer("nothing", torch.zeros(batch, dtype=torch.float64))
        self.register_buffer("no_forces", torch.zeros(batch, *self.shape, dtype=torch.float64))

    def energy(self, positions: Tensor) -> Tensor:
        return 0 * positions.sum((1, 2))

    def energy_and_forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.nothing, self.no_forces


class NullFunction:
    """The least that a PythonForce has to do."""

    def __init__(self, n_atoms: int) -> None:
        self.forces = np.zeros((n_atoms, 3))

    def __call__(self, state: Any) -> tuple[float, np.ndarray]:
        state.getPositions(asNumpy=True)._value  # noqa: B018
        return 0.0, self.forces


class NullCalculator(BaseCalculator):
    """The least that an ASE calculator has to do."""

    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, atoms: Any, properties: Any, system_changes: Any) -> None:
        atoms.get_positions()
        self.results = {"energy": 0.0, "free_energy": 0.0, "forces": np.zeros((len(atoms), 3))}


def run(engine: str, potential: Potential, positions: Tensor, n_steps: int) -> Callable[[], object]:
    """A run of a fixed number of steps, recorded at its ends only."""
    assert potential.topology is not None
    settings = DynamicsSettings(n_steps, TIMESTEP, report_every=n_steps)
    return partial(
        registry().engine(engine)().run,
        potential,
        masses(potential.topology).to(positions),
        positions,
        torch.zeros_like(positions),
        settings,
    )


def null_group(engine: str) -> str:
    return f"{engine}, one step of a null potential"


@pytest.mark.parametrize("engine", ENGINES)
def test_null_potential(measure: Measure, flow: Any, configurations: Any, engine: str) -> None:
    potential = Null(flow(torch.float64).topology, 1)
    n_steps = NULL_STEPS.get(engine, FAST_STEPS)
    measure(
        run(engine, potential, configurations(1, torch.float64), n_steps), null_group(engine), "engine", per=n_steps
    )


def test_bare_python_force(measure: Measure, configurations: Any) -> None:
    positions = configurations(1, torch.float64)[0].numpy()
    system = openmm.System()
    for _ in positions:
        system.addParticle(12.0)
    system.addForce(openmm.PythonForce(NullFunction(len(positions))))
    integrator = openmm.VerletIntegrator(TIMESTEP)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    n_steps = NULL_STEPS["openmm"]
    measure(partial(integrator.step, n_steps), null_group("openmm"), "bare PythonForce", per=n_steps, yardstick=True)


def test_bare_ase_calculator(measure: Measure, configurations: Any) -> None:
    positions = configurations(1, torch.float64)[0].numpy()
    atoms = ase.Atoms("C" * len(positions), positions=10 * positions)
    atoms.calc = NullCalculator()
    dynamics = VelocityVerlet(atoms, TIMESTEP)
    measure(partial(dynamics.run, FAST_STEPS), null_group("ase"), "bare ASE calculator", per=FAST_STEPS, yardstick=True)


def flow_group(replicas: int) -> str:
    return f"one step with the flow, replicas: {replicas}"


@pytest.mark.parametrize(("engine", "replicas"), RUNS)
def test_eager_flow(measure: Measure, flow: Any, configurations: Any, engine: str, replicas: int) -> None:
    call = run(engine, flow(torch.float64), configurations(replicas, torch.float64), FLOW_STEPS)
    measure(call, flow_group(replicas), f"{engine}, eager, float64", per=FLOW_STEPS)


@pytest.mark.parametrize("replicas", REPLICAS)
def test_eager_potential_alone(measure: Measure, flow: Any, configurations: Any, replicas: int) -> None:
    call = partial(flow(torch.float64).energy_and_forces, configurations(replicas, torch.float64))
    measure(call, flow_group(replicas), "potential alone, eager, float64", yardstick=True)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "replicas"), RUNS)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_compiled_flow(
    measure: Measure, compiled: Any, configurations: Any, engine: str, replicas: int, dtype: torch.dtype
) -> None:
    call = run(engine, compiled(dtype), configurations(replicas, dtype), FAST_STEPS)
    measure(call, flow_group(replicas), f"{engine}, compiled, {short(dtype)}", per=FAST_STEPS)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", REPLICAS)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_compiled_potential_alone(
    measure: Measure, compiled: Any, configurations: Any, replicas: int, dtype: torch.dtype
) -> None:
    call = partial(compiled(dtype).energy_and_forces, configurations(replicas, dtype))
    measure(call, flow_group(replicas), f"potential alone, compiled, {short(dtype)}", yardstick=True)
