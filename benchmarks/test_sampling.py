"""Sampling and densities of a flow of every registered transform, batch 100, float32, without gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from contenders import PEERS, SETTINGS, untrained_potential
from measuring import Measure
from peptides import capped_polyalanine
from smoothflow.core.architecture import transforms_for
from smoothflow.core.display import count_parameters
from smoothflow.core.plugins import registry
from smoothflow.potentials.flow_potential import FlowPotential

BATCH = 100
SAMPLING, DENSITY = f"sampling, per sample, batch {BATCH}", f"log-density, per sample, batch {BATCH}"


def flow_of(transform: str) -> FlowPotential:
    """An untrained flow named after one transform."""
    transforms = transforms_for(transform)
    options = {name: values for name, values in SETTINGS.options.items() if name in transforms.values()}
    settings = replace(SETTINGS, transforms=transforms, options=options)
    return untrained_potential(*capped_polyalanine(1), settings).float()


def yardstick(transform: str) -> bool:
    """The rational-quadratic spline is ours with a closed inverse."""
    return transform == "spline"


def measure_sampling(measure: Measure, potential: FlowPotential, name: str, is_yardstick: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        measure(
            lambda: potential.sample(BATCH, generator),
            SAMPLING,
            name,
            per=BATCH,
            yardstick=is_yardstick,
            parameters=count_parameters(potential),
        )


@pytest.mark.parametrize("transform", registry().names("transform"))
def test_sampling(measure: Measure, transform: str) -> None:
    measure_sampling(measure, flow_of(transform), f"{transform} flow", yardstick(transform))


def test_sampling_of_the_model(measure: Measure, flow: Any) -> None:
    measure_sampling(measure, flow(torch.float32), "the model", False)


@pytest.mark.parametrize("transform", registry().names("transform"))
def test_density(measure: Measure, configurations: Any, transform: str) -> None:
    potential, x = flow_of(transform), configurations(BATCH, torch.float32)
    with torch.no_grad():
        measure(lambda: potential.log_prob(x), DENSITY, f"{transform} flow", per=BATCH, yardstick=yardstick(transform))


@pytest.mark.parametrize("name", PEERS)
def test_peer(measure: Measure, peers: Any, name: str) -> None:
    peer = peers[name]
    with torch.no_grad():
        measure(
            lambda: peer.sample(BATCH),
            SAMPLING,
            name,
            per=BATCH,
            yardstick=True,
            parameters=count_parameters(peer),
        )


@pytest.mark.parametrize("name", PEERS)
def test_peer_density(measure: Measure, peers: Any, name: str) -> None:
    peer, x = peers[name], torch.rand(BATCH, *peers[name].shape)
    with torch.no_grad():
        measure(lambda: peer.log_prob(x), DENSITY, name, per=BATCH, yardstick=True)
