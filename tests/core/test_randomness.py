"""Samples say where their random numbers come from."""

from __future__ import annotations

import pytest
import torch
from smoothflow.core.architecture import FlowSettings, build_flow
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.flow import Flow
from smoothflow.core.manifolds import Interval, Product
from smoothflow.core.randomness import generator_of
from smoothflow.potentials.toys import TOYS


@pytest.fixture
def flow() -> Flow:
    chart = Chart(Product.of(Interval(0.0, 1.0), ["a", "b"]), [ColumnChart("standard", 0.5, 0.05, 0.005)] * 2)
    return build_flow(FlowSettings(interval_pairs=1, hidden=4), chart)


def test_the_same_seed_gives_the_samples_of_its_generator(flow: Flow) -> None:
    with_seed, with_generator = flow.sample(5, seed=3), flow.sample(5, torch.Generator().manual_seed(3))
    assert all(torch.equal(a, b) for a, b in zip(with_seed, with_generator, strict=True))
    toy = TOYS["rings"]()
    assert torch.equal(toy.sample(5, seed=3)[0], toy.sample(5, torch.Generator().manual_seed(3))[0])


def test_without_a_generator_every_call_draws_others(flow: Flow) -> None:
    torch.manual_seed(0)
    first = flow.sample(5)[0]
    torch.manual_seed(0)
    assert not torch.equal(first, flow.sample(5)[0])


def test_sampling_leaves_the_global_random_numbers_alone(flow: Flow) -> None:
    state = torch.get_rng_state()
    flow.sample(5)
    flow.sample(5, seed=1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("n_samples", "generator", "seed", "said"),
    [
        (1, torch.Generator(), 0, "a generator or a seed, not both"),
        (1, 7, None, "as seed="),
        (-1, None, None, "negative"),
        (1.5, None, None, "whole number"),
        (1, None, 2**64, "64 bits"),
        (1, None, "1", "64 bits"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(n_samples: int, generator: object, seed: object, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        generator_of(n_samples, generator, seed)
