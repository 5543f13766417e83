"""Conditioners: features that are smooth on their manifolds, and networks that begin where they are told to."""

from __future__ import annotations

import math

import pytest
import torch
from smoothflow.core.conditioners import CircularFeatures, MLPConditioner, take_columns
from smoothflow.core.manifolds import Circle, Column, Interval, Line, Product
from torch import Tensor, nn

F64 = torch.float64
DOMAIN = Product((Column("u", Interval()), Column("a", Circle()), Column("z", Line()), Column("b", Circle())))


def points(n: int) -> Tensor:
    return torch.rand((n, 4), generator=torch.Generator().manual_seed(0), dtype=F64)


def test_features_are_their_closed_form() -> None:
    features = CircularFeatures(DOMAIN, n_harmonics=2)
    x = points(5)
    found = features(x)
    assert found.shape == (5, features.n_features) == (5, 10)
    u, a, z, b = (x[:, i] for i in range(4))
    phases = [2 * math.pi * k * angle for angle in (a, b) for k in (1, 2)]
    expected = [z, 2 * u - 1, *(phase.cos() for phase in phases), *(phase.sin() for phase in phases)]
    torch.testing.assert_close(found, torch.stack(expected, dim=-1), rtol=0, atol=1e-14)


def test_features_do_not_see_whole_turns() -> None:
    features = CircularFeatures(DOMAIN, n_harmonics=3)
    x = points(5)
    # rounding of angles of three turns
    torch.testing.assert_close(features(x + torch.tensor([0, 1, 0, -1])), features(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize(("kind", "n_features"), [(Circle(), 12), (Interval(), 2), (Line(), 2)])
def test_columns_of_one_kind(kind: Circle | Interval | Line, n_features: int) -> None:
    features = CircularFeatures(Product.of(kind, ["a", "b"]), n_harmonics=3)
    assert features.n_features == n_features
    assert features(points(5)[:, :2]).shape == (5, n_features)


def test_without_columns_the_parameters_are_constants() -> None:
    features = CircularFeatures(Product(()), n_harmonics=3)
    assert features.n_features == 1
    empty = torch.zeros((3, 0), dtype=F64)
    assert features(empty).tolist() == [[1], [1], [1]]
    conditioner = MLPConditioner(Product(()), torch.tensor([1.0, 2.0])).double()
    outputs = conditioner(empty)
    assert outputs.shape == (3, 2)
    assert torch.equal(outputs[0], outputs[2])


def test_a_network_has_the_layers_asked_for_and_begins_at_the_initial_outputs() -> None:
    initial = torch.tensor([1.0, -2.0, 5.0])
    torch.manual_seed(0)
    conditioner = MLPConditioner(DOMAIN, initial, hidden=7, n_hidden_layers=3, n_harmonics=2)
    layers = list(conditioner.network)
    assert [type(layer) for layer in layers] == [*[nn.Linear, nn.SiLU] * 3, nn.Linear]
    shapes = [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Linear)]
    assert shapes == [(7, 10), (7, 7), (7, 7), (3, 7)]
    outputs = conditioner(points(50).float())
    # a tenth of torch's initial weights: each of 7 is at most 0.1 / sqrt(7), and SiLU of such inputs is below 1
    assert (outputs - initial).abs().max() < 7 * 0.1 / math.sqrt(7)
    last = layers[-1].weight
    assert 0.02 < float(last.detach().abs().max()) <= 0.1 / math.sqrt(7)
    assert torch.equal(layers[-1].bias, initial)
    assert last.requires_grad


def test_defaults_of_a_network() -> None:
    network = MLPConditioner(Product.of(Circle(), ["a"]), torch.zeros(2)).network
    shapes = [tuple(layer.weight.shape) for layer in network if isinstance(layer, nn.Linear)]
    assert shapes == [(96, 6), (96, 96), (2, 96)]


def test_columns_are_taken_in_order() -> None:
    x = points(4)
    order = torch.tensor([2, 0, 2])
    assert torch.equal(take_columns(x, order), x[:, [2, 0, 2]])
    assert take_columns(x, torch.tensor([], dtype=torch.long)).shape == (4, 0)
