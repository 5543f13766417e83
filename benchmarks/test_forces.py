"""Energies and forces of a batch: the flow, other libraries' flows, and Amber in OpenMM."""

from __future__ import annotations

from functools import partial
from typing import Any

import openmm
import pytest
import torch
from contenders import PEERS
from measuring import PRECISIONS, Measure, short
from smoothflow.core.display import count_parameters

BATCHES = (1, 10, 100, 1000)
AMBER_STEPS = 100


def group(batch: int) -> str:
    return f"energy and forces, batch {batch}"


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_eager(measure: Measure, flow: Any, configurations: Any, batch: int, dtype: torch.dtype) -> None:
    potential = flow(dtype)
    call = partial(potential.energy_and_forces, configurations(batch, dtype))
    measure(call, group(batch), f"flow, eager, {short(dtype)}", parameters=count_parameters(potential))


@pytest.mark.slow
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_compiled(measure: Measure, compiled: Any, configurations: Any, batch: int, dtype: torch.dtype) -> None:
    call = partial(compiled(dtype).energy_and_forces, configurations(batch, dtype))
    measure(call, group(batch), f"flow, compiled, {short(dtype)}")


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", PEERS)
def test_peer(measure: Measure, peers: Any, batch: int, name: str) -> None:
    peer = peers[name]
    call = partial(peer.energy_and_forces, torch.rand(batch, *peer.shape))
    measure(call, group(batch), f"{name}, float32", yardstick=True, parameters=count_parameters(peer))


@pytest.mark.parametrize("batch", BATCHES)
def test_amber(measure: Measure, amber: Any, configurations: Any, batch: int) -> None:
    call = partial(amber.energy_and_forces, configurations(batch, torch.float64))
    measure(call, group(batch), "Amber, OpenMM Reference", yardstick=True)


def test_amber_step(measure: Measure, amber: Any, configurations: Any) -> None:
    integrator = openmm.VerletIntegrator(0.0005)
    context = openmm.Context(amber.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(configurations(1, torch.float64)[0].numpy())
    measure(partial(integrator.step, AMBER_STEPS), group(1), "one step of Amber", per=AMBER_STEPS, yardstick=True)
