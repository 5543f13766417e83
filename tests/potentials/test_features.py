"""Features of a flow: torsions against MDTraj, the log-density against the potential, latents against the flow."""

from __future__ import annotations

import math

import mdtraj
import pytest
import torch
from smoothflow import FlowPotential, load
from smoothflow.core.errors import ConfigurationError, UnknownNameError
from smoothflow.molecules.conversions import topology_to_mdtraj
from smoothflow.potentials.features import Features
from torch import Tensor


@pytest.fixture(scope="module")
def model() -> FlowPotential:
    return load("ala2-smooth")


@pytest.fixture(scope="module")
def positions(model: FlowPotential) -> Tensor:
    return model.sample(5, seed=1)[0]


def test_torsions_are_those_of_mdtraj(model: FlowPotential, positions: Tensor) -> None:
    features = Features(model, ["phi", "psi"])
    assert features.names == ("cos phi", "sin phi", "cos psi", "sin psi")
    trajectory = mdtraj.Trajectory(positions.numpy(), topology_to_mdtraj(model.topology))
    turns = [torch.from_numpy(compute(trajectory)[1][:, 0]) for compute in (mdtraj.compute_phi, mdtraj.compute_psi)]
    expected = torch.stack([function(angle) for angle in turns for function in (torch.cos, torch.sin)], dim=-1)
    # MDTraj computes in float32
    torch.testing.assert_close(features(positions), expected.double(), rtol=0, atol=1e-5)


def test_the_log_density_is_that_of_the_potential(model: FlowPotential, positions: Tensor) -> None:
    found = Features(model, ["log_prob"])(positions)
    torch.testing.assert_close(found[:, 0], model.log_prob(positions), rtol=0, atol=1e-10)


def test_latents_are_those_from_which_a_sample_was_made(model: FlowPotential) -> None:
    z = model.flow.latent(4, seed=2)
    positions = model.coordinates.decode(model.flow.generate(z)[0])[0]
    features = Features(model, ["latent"])
    found = dict(zip(features.names, features(positions).unbind(-1), strict=True))
    for i, column in enumerate(model.flow.base.domain):
        name = f"latent {column.name}"
        # encode undoes decode to rounding, which a narrow bump may multiply by a hundred
        if name in found:
            torch.testing.assert_close(found[name], z[:, i], rtol=0, atol=1e-9)
        else:
            torch.testing.assert_close(found[f"cos {name}"], (2 * math.pi * z[:, i]).cos(), rtol=0, atol=1e-9)
            torch.testing.assert_close(found[f"sin {name}"], (2 * math.pi * z[:, i]).sin(), rtol=0, atol=1e-9)


def test_features_are_smooth_where_a_torsion_turns_over(model: FlowPotential, positions: Tensor) -> None:
    q = model.coordinates.encode(positions[:1])[0]
    phi = model.coordinates.codomain.index("phi")
    around = q.repeat(2, 1)
    around[:, phi] = torch.tensor([math.pi - 1e-7, -math.pi + 1e-7])
    x = model.coordinates.decode(around)[0]
    found = Features(model, ["phi", "latent", "log_prob"])(x)
    # 2e-7 radians apart
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-4)


def test_unknown_and_repeated_features_are_refused(model: FlowPotential) -> None:
    with pytest.raises(UnknownNameError, match="chi1"):
        Features(model, ["phi", "chi1"])
    for names in ([], ["phi", "phi"]):
        with pytest.raises(ConfigurationError, match="at least one feature"):
            Features(model, names)
