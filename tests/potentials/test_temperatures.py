"""Potentials of a range of temperatures: one flow, and an energy at each temperature."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from smoothflow import FlowPotential, TemperatureRange, build_flow, load, save_model
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.core.units import thermal_energy
from smoothflow.potentials.captured import CapturedFlow
from smoothflow.potentials.compilation import compile_potential
from smoothflow.potentials.compiled import read_compiled
from smoothflow.potentials.model_file import read_header
from smoothflow.potentials.package import fingerprint
from smoothflow.potentials.shipped import load_flow

MakePotential = Callable[[str], FlowPotential]
RANGE = TemperatureRange(300.0, 600.0)


@pytest.fixture(scope="module")
def ranged(make_potential: MakePotential) -> FlowPotential:
    """A flow on capped alanine of 300 to 600 K, untrained but not trivial."""
    one = make_potential("smooth")
    assert one.flow.settings is not None
    assert one.chart is not None
    flow = build_flow(replace(one.flow.settings, context=1), one.chart)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return FlowPotential(flow, one.coordinates, 300.0, RANGE).double().requires_grad_(False)


@pytest.fixture(scope="module")
def positions(ranged: FlowPotential) -> torch.Tensor:
    return ranged.sample(5, seed=0)[0]


def test_the_context_is_linear_in_the_inverse_temperature_between_the_ends() -> None:
    assert (RANGE.context(300.0), RANGE.context(600.0), RANGE.context(400.0)) == (
        1.0,
        -1.0,
        pytest.approx(0.0, abs=1e-15),
    )
    # rounding of a temperature is no other temperature
    assert RANGE.context(600.0 * (1 + 1e-9)) == -1.0
    for wrong in (299.0, 601.0, math.nan, math.inf, -300.0):
        with pytest.raises(ConfigurationError, match=r"from 300 to 600 K, and .* K is asked for"):
            RANGE.context(wrong)
    for ends in ((300.0, 300.0), (400.0, 300.0), (0.0, 300.0), (300.0, math.inf)):
        with pytest.raises(ConfigurationError, match="A range of temperatures"):
            TemperatureRange(*ends)


@pytest.mark.parametrize("temperature", [300.0, 437.0, 600.0])
def test_energy_at_a_temperature_is_minus_its_kT_log_p(
    ranged: FlowPotential, positions: torch.Tensor, temperature: float
) -> None:
    potential = ranged.at_temperature(temperature)
    assert (potential.temperature, potential.kT) == (temperature, thermal_energy(temperature))
    context = torch.full((5, 1), RANGE.context(temperature), dtype=torch.float64)
    log_prob = ranged.log_prob(positions, context)
    assert torch.equal(potential.log_prob(positions), log_prob)
    torch.testing.assert_close(potential.energy(positions), -thermal_energy(temperature) * log_prob, rtol=1e-14, atol=0)
    drawn, stated = potential.sample(5, seed=1)
    # rounding of 60 columns' root finding, seen through slopes of up to 1e3 per nm
    torch.testing.assert_close(potential.log_prob(drawn), stated, rtol=0, atol=1e-8)


def test_forces_at_a_temperature_are_the_negative_gradient_of_its_energy(
    ranged: FlowPotential, positions: torch.Tensor
) -> None:
    potential = ranged.at_temperature(450.0)
    _, forces = potential.energy_and_forces(positions)
    direction = torch.randn(positions.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-6
    difference = (potential.energy(positions + step * direction) - potential.energy(positions - step * direction)) / (
        2 * step
    )
    # the error of central differences, h^2 U'''/6, with third derivatives of up to 1e11 kJ/mol/nm^3 along the way
    torch.testing.assert_close(-(forces * direction).sum((1, 2)), difference, rtol=1e-4, atol=1e-3)


def test_going_to_a_temperature_and_back_is_exact(ranged: FlowPotential, positions: torch.Tensor) -> None:
    there = ranged.at_temperature(500.0)
    assert not torch.allclose(there.log_prob(positions), ranged.log_prob(positions))
    assert torch.equal(there.at_temperature(300.0).energy(positions), ranged.energy(positions))
    assert ranged.at_temperature(300.0) is ranged
    assert "500 K of 300 to 600 K" in repr(there)


def test_weights_are_shared_until_one_is_moved(ranged: FlowPotential, positions: torch.Tensor) -> None:
    one = copy.deepcopy(ranged)
    other = one.at_temperature(500.0)
    expected = other.energy(positions)
    assert next(one.parameters()) is next(other.parameters())
    one.to(torch.float32)
    assert (one.dtype, other.dtype) == (torch.float32, torch.float64)
    assert torch.equal(other.energy(positions), expected)
    # float32 of an energy of some hundred kJ/mol, and of stiff bonds
    torch.testing.assert_close(
        one.at_temperature(500.0).energy(positions.float()).double(), expected, rtol=1e-4, atol=0.1
    )


def test_gradients_at_a_temperature_reach_the_weights_of_all(ranged: FlowPotential, positions: torch.Tensor) -> None:
    one = copy.deepcopy(ranged).requires_grad_(True)
    one.at_temperature(450.0).log_prob(positions).sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in one.parameters())


def test_a_temperature_of_a_model_of_one_is_refused_unless_it_is_the_same(make_potential: MakePotential) -> None:
    potential = make_potential("affine")
    assert potential.at_temperature(300.0) is potential
    with pytest.raises(ConfigurationError, match=r"of 300 K alone, and 310 K is asked for\. Leave the temperature out"):
        potential.at_temperature(310.0)
    with pytest.raises(ConfigurationError, match="of 300 K alone"):
        load("ala2-smooth", temperature=310.0)
    assert isinstance(load("ala2-smooth", temperature=300.0), FlowPotential)


def test_a_flow_of_an_unbound_context_is_not_a_potential(ranged: FlowPotential) -> None:
    assert ranged.chart is not None
    assert ranged.flow.settings is not None
    flow = build_flow(ranged.flow.settings, ranged.chart)
    with pytest.raises(ConfigurationError, match=r"Bind it to one, flow\.at\(context\)"):
        FlowPotential(flow, ranged.coordinates, 300.0)
    with pytest.raises(ConfigurationError, match="from 300 to 600 K, and 200 K"):
        FlowPotential(flow, ranged.coordinates, 200.0, RANGE)
    # of whatever it is that the context stands for
    bound = FlowPotential(flow.at([0.5]), ranged.coordinates, 300.0)
    with pytest.raises(FileFormatError, match="a flow of another context has no file"):
        save_model(bound, "never-written.safetensors")


def test_a_model_of_a_range_is_the_same_after_a_round_trip(
    ranged: FlowPotential, positions: torch.Tensor, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(ranged, path)
    assert read_header(path)["temperature_range"] == [300.0, 600.0]
    for temperature in (300.0, 437.0):
        found = load(path, temperature=temperature)
        assert torch.equal(found.energy(positions), ranged.at_temperature(temperature).energy(positions))
        single = load_flow(path, torch.float32, temperature=temperature)
        assert single.temperature == temperature
        torch.testing.assert_close(
            single.energy(positions.float()).double(), found.energy(positions), rtol=1e-4, atol=0.1
        )
    # the file names the temperature that the potential has
    save_model(ranged.at_temperature(437.0), path)
    assert load_flow(path).temperature == 437.0


def test_a_model_of_one_temperature_is_written_as_before(make_potential: MakePotential, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_model(make_potential("affine"), path)
    header = read_header(path)
    assert header["schema"] == 2
    assert "context" not in header["settings"]
    assert "temperature_range" not in header


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature_range": [600.0, 300.0]}, "A range of temperatures"),
        ({"temperature_range": [400.0, 600.0]}, "300 K is asked for"),
        ({"temperature_range": "300 to 600"}, "damaged"),
        ({"temperature_range": [300.0]}, "damaged"),
        ({"temperature_range": None}, "depends on a context|damaged"),
    ],
)
def test_a_damaged_range_is_refused(
    ranged: FlowPotential, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "model.safetensors"
    save_model(ranged, path)
    with safe_open(path, framework="pt") as file:
        header = {**json.loads(file.metadata()["smoothflow"]), **change}
    save_file(load_file(path), path, metadata={"smoothflow": json.dumps(header)})
    with pytest.raises(FileFormatError, match=message):
        load(path)


def test_captured_work_is_that_of_its_temperature(ranged: FlowPotential, positions: torch.Tensor) -> None:
    captured = CapturedFlow(ranged)
    hot = captured.at_temperature(500.0)
    assert isinstance(hot, CapturedFlow)
    for found, expected in ((hot, ranged.at_temperature(500.0)), (captured, ranged)):
        torch.testing.assert_close(found.energy(positions), expected.energy(positions), rtol=1e-12, atol=0)
        torch.testing.assert_close(found.sample(3, seed=2)[0], expected.sample(3, seed=2)[0], rtol=0, atol=1e-12)
    assert captured.at_temperature(300.0) is captured


def test_compiled_code_of_another_temperature_is_other_code(ranged: FlowPotential) -> None:
    assert fingerprint(ranged) != fingerprint(ranged.at_temperature(301.0))
    assert fingerprint(ranged.at_temperature(301.0)) == fingerprint(ranged.at_temperature(301.0))


@pytest.mark.slow
def test_a_package_is_of_the_temperature_at_which_it_was_compiled(
    ranged: FlowPotential, positions: torch.Tensor, tmp_path: Path
) -> None:
    hot = ranged.at_temperature(500.0)
    compile_potential(hot, positions, tmp_path / "hot.pt2", [torch.float64])
    found = read_compiled(tmp_path / "hot.pt2")
    # the tolerance at which compiled code is accepted
    torch.testing.assert_close(found.energy(positions), hot.energy(positions), rtol=1e-9, atol=0)
