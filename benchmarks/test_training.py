"""One step of optimization, batch 128, float32: by likelihood alone, and with force matching."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from contenders import PEERS, Peer
from measuring import Measure
from smoothflow.molecules.frames import Frames
from smoothflow.training.config import LossWeights, TrainSettings
from smoothflow.training.module import FlowTraining

BATCH = 128
N_FRAMES = 256
GROUPS = {False: f"training step, likelihood, batch {BATCH}", True: f"training step with forces, batch {BATCH}"}


@pytest.fixture(scope="module")
def frames(amber: Any, configurations: Any) -> Frames:
    """Configurations with Amber's forces."""
    positions = configurations(N_FRAMES, torch.float64)
    energies, forces = amber.energy_and_forces(positions)
    return Frames(amber.topology, 300.0, positions.numpy(), forces.numpy(), energies.numpy())


@pytest.mark.parametrize("with_forces", GROUPS)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_flow(measure: Measure, flow: Any, frames: Frames, with_forces: bool, compiled: bool) -> None:
    weights = LossWeights() if with_forces else LossWeights(force=0)
    settings = TrainSettings(weights=weights, batch_size=BATCH, compile=compiled)
    potential = deepcopy(flow(torch.float32)).requires_grad_(True)
    module = FlowTraining(potential, frames, settings)
    optimizer = module.configure_optimizers()["optimizer"]
    indices = torch.arange(BATCH)

    def step() -> None:
        optimizer.zero_grad()
        module.training_step(indices, 0).backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        module.on_train_batch_end()

    measure(step, GROUPS[with_forces], "flow, compiled" if compiled else "flow, eager")


def peer_step(peer: Peer, with_forces: bool) -> Callable[[], None]:
    """The same for another library's flow: its density on vectors, and the mean square of its gradient."""
    optimizer = torch.optim.Adam(peer.parameters(), lr=1e-4, fused=True)
    x = 0.25 + 0.5 * torch.rand(BATCH, *peer.shape)

    def step() -> None:
        optimizer.zero_grad()
        inputs = x.clone().requires_grad_(with_forces)
        energy = peer.energy(inputs)
        loss = energy.mean()
        if with_forces:
            (gradient,) = torch.autograd.grad(energy.sum(), inputs, create_graph=True)
            loss = loss + 5e-4 * gradient.square().mean()
        loss.backward()
        optimizer.step()

    return step


@pytest.mark.parametrize("with_forces", GROUPS)
@pytest.mark.parametrize("name", PEERS)
def test_peer(measure: Measure, peers: Any, name: str, with_forces: bool) -> None:
    peer = deepcopy(peers[name]).requires_grad_(True)
    measure(peer_step(peer, with_forces), GROUPS[with_forces], name, yardstick=True)
