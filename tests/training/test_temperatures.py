"""Models of a range of temperatures: one training on frames of several, against the closed form at each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import smoothflow.training.refining
import torch
from closed_forms import Peroxide, PeroxideStatistics
from smoothflow.analysis.reweighting import ess_fraction, log_z, weighted_mean
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.errors import ConfigurationError, FileFormatError, TopologyError
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.sketch import Origin, shared_frames
from smoothflow.molecules.topologies import topology_from_smiles
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.model_file import read_header, read_model
from smoothflow.potentials.temperatures import TemperatureRange
from smoothflow.runs.progress import Progress
from smoothflow.training.config import LossWeights, RefiningSettings, TrainSettings
from smoothflow.training.data import TrainingData
from smoothflow.training.module import FlowTraining
from smoothflow.training.reproduction import reproduce
from smoothflow.training.run import initial_potential, train

TEMPERATURES = (300.0, 420.0, 600.0)
RANGE = TemperatureRange(300.0, 600.0)
SETTINGS = TrainSettings(
    flow=FlowSettings(hidden=16, n_hidden_layers=1, line_pairs=1, interval_pairs=1, circle_pairs=1),
    steps=250,
    batch_size=96,
    validate_every=125,
    learning_rate=8e-3,
    averaging=0.95,
    seed=5,
)
SHORT = SETTINGS.model_copy(update={"steps": 20, "validate_every": 10})


@pytest.fixture(scope="module")
def ladder() -> list[Frames]:
    """Frames of three temperatures, which nobody need give in order."""
    return [PeroxideStatistics(temperature).frames(800, seed) for seed, temperature in enumerate((420.0, 600.0, 300.0))]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, ladder: list[Frames]) -> Path:
    return train(ladder, SETTINGS, tmp_path_factory.mktemp("ladder") / "run")


def weighted(potential: FlowPotential, n: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-weights of samples of a flow to the force field at its temperature, and their energies, kJ/mol."""
    with torch.no_grad():
        positions, log_q = potential.sample(n, seed=11)
        energy = Peroxide().energy(positions)
    return -energy / potential.kT - log_q, energy


# between the temperatures of the frames, too
@pytest.mark.parametrize("temperature", [300.0, 350.0, 420.0, 500.0, 600.0])
def test_samples_of_each_temperature_have_the_partition_function_of_the_closed_form(
    model: Path, temperature: float
) -> None:
    exact, potential = PeroxideStatistics(temperature), read_model(model).at_temperature(temperature)
    log_weights, energy = weighted(potential)
    # untrained it is a few percent
    assert ess_fraction(log_weights).value > 0.85
    z, mean = log_z(log_weights), weighted_mean(energy, log_weights)
    assert z.value == pytest.approx(exact.log_z(), abs=5 * z.error)
    assert mean.value == pytest.approx(exact.mean_energy(), abs=5 * mean.error)
    # and without weights: a model of 300 K alone would be off by half the energy at 600 K
    assert float(energy.mean()) == pytest.approx(exact.mean_energy(), rel=0.1)


def test_the_partition_functions_of_the_range_obey_thermodynamics(model: Path) -> None:
    # d(-log Z) / d(1/kT) = <U>: the slope between two points is that of the midpoint, up to a third derivative
    potential, beta = read_model(model), 1 / thermal_energy(400.0)
    ends = [1 / (8.31446261815324e-3 * b) for b in (1.1 * beta, 0.9 * beta)]
    found = [log_z(weighted(potential.at_temperature(kelvin), 8000)[0]) for kelvin in ends]
    slope = (found[1].value - found[0].value) / (0.2 * beta)
    error = math.hypot(found[0].error, found[1].error) / (0.2 * beta)
    log_weights, energy = weighted(potential.at_temperature(400.0), 8000)
    mean = weighted_mean(energy, log_weights)
    # 0.01 kJ/mol is the third derivative of 3 log(beta) here
    assert slope == pytest.approx(mean.value, abs=4 * math.hypot(error, mean.error) + 0.04)


def test_the_model_file_says_what_it_was_trained_on(model: Path, ladder: list[Frames]) -> None:
    header = read_header(model)
    assert (header["temperature"], header["temperature_range"]) == (300.0, [300.0, 600.0])
    frames = header["provenance"]["frames"]
    assert (frames["number"], frames["temperatures of the frames"]) == (2400, [300.0, 420.0, 600.0])
    for part in ladder:
        assert shared_frames(part, header["provenance"]).origin is Origin.TRAINING
    others = PeroxideStatistics(420.0).frames(500, 99)
    assert shared_frames(others, header["provenance"]).origin is Origin.HELD_OUT
    assert "300 K (800), 420 K (800), 600 K (800)" in (model.parent / "run.log").read_text()


def test_each_frame_counts_at_its_temperature_and_in_its_kT(ladder: list[Frames]) -> None:
    data = TrainingData.of(ladder)
    settings = SETTINGS.model_copy(update={"flow": replace(SETTINGS.flow, context=1), "dtype": "float64"})
    potential = initial_potential(data, settings).double()
    module = FlowTraining(potential, data, settings)
    numbers = torch.tensor([3, 799, 800, 1234, 1600, 2399])
    found = module._frame_terms(potential, module._tensors(numbers))
    for place, (kelvin, row) in enumerate(
        [(300.0, 3), (300.0, 799), (420.0, 0), (420.0, 434), (600.0, 0), (600.0, 799)]
    ):
        part = next(frames for frames in ladder if frames.temperature == kelvin)
        one = potential.at_temperature(kelvin)
        x = torch.from_numpy(part.positions[row]).double()
        energy, forces = one.energy_and_forces(x)
        error = (forces - torch.from_numpy(part.require_forces()[row])).square().mean() / one.kT**2
        # float32 of the forces in kT
        torch.testing.assert_close(found["force_mse"][place].detach(), error, rtol=1e-4, atol=0)
        torch.testing.assert_close(found["nll"][place].detach(), energy / one.kT, rtol=1e-10, atol=1e-10)
    assert [data.name_of(int(n)) for n in numbers[[1, 2, 5]]] == [
        "frame 799 of 300 K",
        "frame 0 of 420 K",
        "frame 799 of 600 K",
    ]


def test_a_run_on_several_temperatures_goes_on_bit_for_bit_whatever_their_order(
    tmp_path: Path, ladder: list[Frames]
) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done >= 10:
            raise Stop

    with pytest.raises(Stop):
        train(ladder, SHORT, tmp_path / "run", on_progress=stop)
    found = read_model(train(ladder[::-1], SHORT, tmp_path / "run"))
    whole = reproduce(tmp_path / "run", ladder, tmp_path / "whole")
    assert whole.agrees()
    assert (whole.n_held_out, found.temperature_range) == (240, RANGE)
    with pytest.raises(ConfigurationError, match="trained on other frames"):
        reproduce(tmp_path / "run", ladder[:2], tmp_path / "again")


def test_a_compiled_loss_has_the_contexts_of_its_frames(ladder: list[Frames]) -> None:
    data = TrainingData.of(ladder)
    settings = SETTINGS.model_copy(update={"flow": replace(SETTINGS.flow, context=1), "compile": True})
    potential = initial_potential(data, settings).float()
    module = FlowTraining(potential, data, settings)
    compiled = module._compiled_loss
    assert compiled is not None
    tensors = module._tensors(torch.arange(0, 2400, 25))
    terms, loss = module._frame_loss(potential, tensors)
    # without machine code, which takes a minute: the graph that would be compiled
    parameters = list(potential.parameters())
    loss_found, gradients, values = compiled.loss([p.detach() for p in parameters], tensors)
    torch.testing.assert_close(loss_found, loss.detach(), rtol=1e-5, atol=0)
    expected = torch.autograd.grad(loss, parameters)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))
    assert len(values) == len(terms)


def test_frames_of_one_temperature_in_parts_are_frames_of_one_temperature(tmp_path: Path, ladder: list[Frames]) -> None:
    parts = [PeroxideStatistics(420.0).frames(300, seed) for seed in (7, 8)]
    found = read_model(train(parts, SHORT, tmp_path / "run"))
    assert (found.temperature, found.temperature_range, found.flow.n_context) == (420.0, None, 0)


@pytest.mark.parametrize(
    ("frames", "change", "error", "message"),
    [
        ([], {}, ConfigurationError, "nothing to train on"),
        ([300.0], {"flow": FlowSettings(context=1)}, ConfigurationError, "frames are of one temperature"),
        ([300.0, 600.0], {"flow": FlowSettings(context=2)}, ConfigurationError, "give it one feature"),
        ([300.0, -600.0], {}, FileFormatError, "no forces"),
    ],
)
def test_what_does_not_go_together_is_refused_before_there_is_a_folder(
    tmp_path: Path, frames: Sequence[float], change: dict[str, object], error: type[Exception], message: str
) -> None:
    parts = [PeroxideStatistics(abs(kelvin)).frames(100, 0) for kelvin in frames]
    # a negative temperature stands for frames without forces
    parts = [replace(part, forces=None) if kelvin < 0 else part for part, kelvin in zip(parts, frames, strict=True)]
    with pytest.raises(error, match=message):
        train(parts, SHORT.model_copy(update=change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_parts_of_different_molecules_are_refused(ladder: list[Frames]) -> None:
    water = topology_from_smiles("O")[0]
    other = Frames(water, 500.0, np.zeros((3, 3, 3), dtype=np.float32) + np.arange(3)[None, :, None])
    with pytest.raises(TopologyError, match="the frames of 300 K"):
        TrainingData.of([*ladder, other])


def test_training_goes_on_with_a_model_of_the_same_range_alone(
    tmp_path: Path, model: Path, ladder: list[Frames], force_field: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smoothflow.training.refining, "n_cores", lambda: 1)
    refining = RefiningSettings(pool_size=500, refresh_every=20, frames_share=0.5, outside_share=0.05)
    settings = TrainSettings(
        initial_model=str(model),
        steps=40,
        batch_size=96,
        validate_every=20,
        learning_rate=2e-3,
        refining=refining,
        weights=LossWeights(reverse_kl=0.1),
        n_samples=16,
    )
    cold, hot = (next(part for part in ladder if part.temperature == kelvin) for kelvin in (300.0, 600.0))
    with pytest.raises(ConfigurationError, match=r"is of 300 to 600 K, and the frames are of 300 K"):
        train(cold, settings, tmp_path / "cold", force_field)
    # samples are of the lowest temperature; what is learned there is not lost at the others
    found = read_model(train([hot, cold], settings, tmp_path / "refined", force_field))
    for kelvin in (300.0, 420.0, 600.0):
        before = ess_fraction(weighted(read_model(model).at_temperature(kelvin))[0]).value
        assert ess_fraction(weighted(found.at_temperature(kelvin))[0]).value > before - 0.03
    plain = train(cold, SHORT, tmp_path / "plain")
    with pytest.raises(
        ConfigurationError, match=r"is of 300 K, and the frames are of 300 to 600 K|another architecture"
    ):
        train(ladder, settings.model_copy(update={"initial_model": str(plain)}), tmp_path / "other", force_field)
