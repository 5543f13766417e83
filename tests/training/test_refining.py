"""Refining on own samples: the pool is what it says, the loss has its minimum at the target, nothing is lost."""

from __future__ import annotations

import copy
import csv
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import smoothflow.training.module
import smoothflow.training.refining
import torch
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.descent import descend
from smoothflow.core.errors import ConfigurationError, InversionError, TopologyError, TrainingError
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import write_frames
from smoothflow.molecules.topologies import topology_from_smiles
from smoothflow.potentials.flow_potential import FlowPotential
from smoothflow.potentials.model_file import read_header, read_model
from smoothflow.runs.progress import Progress
from smoothflow.runs.workers import worker_processes
from smoothflow.training.config import LossWeights, RefiningSettings, TrainSettings
from smoothflow.training.losses import force_error, weighted_likelihood
from smoothflow.training.module import FlowTraining
from smoothflow.training.outside import DESCENT_STEPS, distort, outside_configurations
from smoothflow.training.processes import ALONE, Rank
from smoothflow.training.refining import Refiner, weighable_samples
from smoothflow.training.reproduction import reproduce
from smoothflow.training.run import train
from smoothflow.training.sample_losses import Target

FIRST = TrainSettings(
    flow=FlowSettings(hidden=12, n_hidden_layers=1, line_pairs=1, interval_pairs=1, circle_pairs=1),
    steps=60,
    batch_size=64,
    validate_every=30,
    learning_rate=5e-3,
    averaging=0.9,
)
REFINED = TrainSettings(
    steps=80,
    batch_size=64,
    validate_every=20,
    learning_rate=3e-3,
    averaging=0.9,
    refining=RefiningSettings(pool_size=600, refresh_every=30, frames_share=0.2, outside_share=0.1),
)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def ess(model: Path, force_field: Potential, n: int = 4000) -> float:
    """Kish's fraction, from `FlowPotential.sample` in float64 and the force field itself."""
    potential = read_model(model).double()
    with torch.no_grad():
        positions, log_q = potential.sample(n, seed=123)
    log_weights = -force_field.energy(positions) / potential.kT - log_q
    weights = torch.softmax(log_weights.detach(), 0)
    return float(1 / weights.square().sum() / n)


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def _one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools are drawn in this process: others take seconds to start."""
    monkeypatch.setattr(smoothflow.training.refining, "n_cores", lambda: 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, peroxide_frames: Frames) -> Path:
    return train(peroxide_frames, FIRST, tmp_path_factory.mktemp("first") / "run")


@pytest.fixture(scope="module")
def settings(model: Path) -> TrainSettings:
    return REFINED.model_copy(update={"initial_model": str(model)})


@pytest.fixture(scope="module")
def potential(model: Path) -> FlowPotential:
    return read_model(model).float()


@pytest.fixture(scope="module")
def refined(
    settings: TrainSettings,
    peroxide_frames: Frames,
    force_field: Potential,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder of a refining that was not interrupted."""
    folder = tmp_path_factory.mktemp("refined") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smoothflow.training.refining, "n_cores", lambda: 1)
        train(peroxide_frames, settings, folder, target=force_field)
    return folder


@pytest.fixture
def refiner(settings: TrainSettings, force_field: Potential) -> Iterator[Refiner]:
    with worker_processes(1) as call:
        yield Refiner(settings, Target(force_field, thermal_energy(300.0), math.inf), None, call, ALONE)


def test_refining_raises_the_sampling_efficiency(refined: Path, model: Path, force_field: Potential) -> None:
    before, best = ess(model, force_field), refined / "model.safetensors"
    # over three quarters of what was missing to 1
    assert 1 - ess(best, force_field) < 0.25 * (1 - before)
    found = rows(refined)
    # a pool at steps 0, 30 and 60 of 600 samples and a tenth as many outside the bulk
    assert int(found[-1]["energy_evaluations"]) <= 3 * 660
    assert int(found[-1]["energy_evaluations"]) > 3 * 650
    assert float(found[-1]["pool_ess"]) > float(found[0]["pool_ess"])
    # 600 samples of the starting weights: the efficiency to a few percent
    assert float(found[0]["pool_ess"]) == pytest.approx(before, rel=0.15)
    log = (refined / "run.log").read_text()
    assert [line.split("pool of step ")[1].split(":")[0] for line in log.splitlines() if "pool of step" in line] == [
        "0",
        "30",
        "60",
    ]
    provenance = read_header(best)["provenance"]
    assert provenance["validation"]["energy_evaluations"] == int(
        next(r for r in found if int(r["step"]) == provenance["step"])["energy_evaluations"]
    )


@pytest.mark.parametrize("at", [10, 25, 30, 50])
def test_interrupted_refining_goes_on_bit_for_bit(
    tmp_path: Path, refined: Path, settings: TrainSettings, peroxide_frames: Frames, force_field: Potential, at: int
) -> None:
    def stop(progress: Progress) -> None:
        if progress.stage == "Training" and progress.done >= at:
            raise Stop

    with pytest.raises(Stop):
        train(peroxide_frames, settings, tmp_path / "parts", force_field, stop)
    parts = train(peroxide_frames, settings, tmp_path / "parts", target=force_field)
    assert rows(tmp_path / "parts") == rows(refined)
    for name, value in read_model(refined / "model.safetensors").flow.state_dict().items():
        assert torch.equal(value, read_model(parts).flow.state_dict()[name]), name


def test_interrupted_while_a_pool_is_drawn_goes_on_bit_for_bit(
    tmp_path: Path, refined: Path, settings: TrainSettings, peroxide_frames: Frames, force_field: Potential
) -> None:
    pools = 0

    def stop(progress: Progress) -> None:
        nonlocal pools
        pools += progress.stage == "Samples"
        if pools == 6:  # in the second pool of four parts, three of samples
            raise Stop

    with pytest.raises(Stop):
        train(peroxide_frames, settings, tmp_path / "parts", force_field, stop)
    parts = train(peroxide_frames, settings, tmp_path / "parts", target=force_field)
    assert rows(tmp_path / "parts") == rows(refined)
    assert parts.read_bytes() == (refined / "model.safetensors").read_bytes()


def test_a_pool_holds_weights_and_forces_of_the_reference(
    refiner: Refiner, potential: FlowPotential, force_field: Potential
) -> None:
    said = refiner.refresh(potential, 7)
    pool = refiner.pool
    assert pool is not None
    kT, x = potential.kT, pool.positions.double()
    energy, forces = force_field.energy_and_forces(x)
    # float32 at the end: 1e-5 of the largest force
    torch.testing.assert_close(pool.forces.double(), forces / kT, rtol=1e-4, atol=1e-5 * float(forces.abs().max()) / kT)
    log_weights = (-energy / kT - copy.deepcopy(potential).double().log_prob(x)).detach()
    weights = torch.softmax(log_weights, 0) * len(x)
    # the clip is at 20
    torch.testing.assert_close(pool.weights.double(), weights.clamp(max=20), rtol=1e-3, atol=1e-6)
    assert pool.ess == pytest.approx(float(1 / (weights / len(x)).square().sum() / len(x)), rel=1e-4)
    assert pool.clipped == pytest.approx(float((weights > 20).double().mean()))
    assert pool.lost == pytest.approx(1 - float(weights.clamp(max=20).mean()), abs=1e-4)
    assert f"{100 * pool.ess:.2f} %" in said


def test_a_pool_does_not_depend_on_the_number_of_processes(
    settings: TrainSettings, refiner: Refiner, potential: FlowPotential, force_field: Potential
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        refiner.refresh(potential, 0)
    finally:
        torch.set_num_threads(threads)
    with worker_processes(2) as call:
        spread = Refiner(settings, Target(force_field, thermal_energy(300.0), math.inf), None, call, ALONE)
        spread.refresh(potential, 0)
    assert refiner.pool is not None
    assert spread.pool is not None
    for name, value in refiner.pool.state().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, spread.pool.state()[name]), name
    assert refiner.target.n_evaluations == spread.target.n_evaluations


def test_log_densities_of_samples_are_good_enough_for_weights(potential: FlowPotential) -> None:
    positions, log_density = weighable_samples(potential, 200, (1, 2))
    with torch.no_grad():
        exact = copy.deepcopy(potential).double().log_prob(positions.double())
    assert positions.dtype == torch.float32
    assert log_density.dtype == torch.float64
    # rounding of float32 in a sum of six terms; 0.01 would be the error of a weight
    torch.testing.assert_close(log_density, exact, rtol=0, atol=1e-3)


def test_log_densities_that_float32_does_not_give_are_evaluated_in_float64(
    potential: FlowPotential, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = FlowPotential.sample

    def rounded(self: FlowPotential, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        positions, log_density = sample(self, n, generator)
        return positions, log_density + 0.1 * (self.dtype == torch.float32)

    def failing(self: FlowPotential, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        if self.dtype == torch.float32:
            raise InversionError("no root")
        return sample(self, n, generator)

    for replaced in (rounded, failing):
        monkeypatch.setattr(FlowPotential, "sample", replaced)
        positions, log_density = weighable_samples(potential, 50, (1, 2))
        with torch.no_grad():
            exact = copy.deepcopy(potential).double().log_prob(positions.double())
        assert torch.equal(log_density, exact)


def test_the_learning_rate_rises_to_its_cosine(potential: FlowPotential, peroxide_frames: Frames) -> None:
    settings = TrainSettings(steps=100, warm_up=20, learning_rate=2e-3)
    made = FlowTraining(copy.deepcopy(potential).requires_grad_(True), peroxide_frames, settings).configure_optimizers()
    optimizer, schedule, rates = made["optimizer"], made["lr_scheduler"]["scheduler"], []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(2e-3 / 20)
    assert rates[9] == pytest.approx(2e-3 * 0.5 * (1 + math.cos(0.09 * math.pi)) / 2)
    assert rates[50] == pytest.approx(1e-3)
    assert rates[100] == pytest.approx(0, abs=1e-12)


def test_a_batch_has_the_shares_that_are_asked_for(refiner: Refiner, potential: FlowPotential) -> None:
    refiner.refresh(potential, 0)
    frames = {"positions": torch.zeros(64, 4, 3), "forces": torch.zeros(64, 4, 3)}
    mixed = refiner.mixed(frames, 3)
    assert refiner.composition == (13, 45, 6)
    assert [int(x) for x in ((mixed["positions"] == 0).all(dim=(1, 2)).sum(), (mixed["sampled"] > 0).sum())] == [13, 45]
    # configurations outside the bulk have no likelihood; the others stand for the whole batch
    assert torch.equal(mixed["weights"][-6:], torch.zeros(6))
    assert torch.equal(mixed["damping"], torch.tensor([2e4] * 58 + [1e3] * 6))
    assert float(mixed["weights"][0]) == pytest.approx(64 / 58)
    assert {name: len(values) for name, values in mixed.items()} == dict.fromkeys(mixed, 64)


def test_processes_share_the_batch_of_one(settings: TrainSettings, refiner: Refiner, potential: FlowPotential) -> None:
    refiner.refresh(potential, 0)
    frames = {"positions": torch.randn(64, 4, 3), "forces": torch.randn(64, 4, 3)}
    whole = refiner.mixed(frames, 11)
    parts = []
    for index in range(4):
        rank = Rank(index, 4, 4)
        one = Refiner(settings, refiner.target, None, refiner._call, rank)
        one.pool = refiner.pool
        parts.append(one.mixed({name: values[rank.share] for name, values in frames.items()}, 11))
    for name, values in whole.items():
        again = torch.empty_like(values)
        for index, part in enumerate(parts):
            again[index::4] = part[name]
        assert torch.equal(again, values), name


def test_every_sample_is_trained_on_before_any_is_again(refiner: Refiner, potential: FlowPotential) -> None:
    refiner.refresh(potential, 5)
    assert refiner.pool is not None
    frames = {"positions": torch.zeros(64, 4, 3), "forces": torch.zeros(64, 4, 3)}
    steps = range(5, 5 + 600 // 45)
    seen = torch.cat([refiner.mixed(frames, step)["positions"][13:58] for step in steps])
    assert len(torch.unique(seen.flatten(1), dim=0)) == len(seen)


class Own(Potential):
    """A model's energy as a force field: the target that it is already."""

    def __init__(self, model: FlowPotential) -> None:
        super().__init__()
        self.model, self.shape, self.topology = model.double(), model.shape, model.topology

    def energy(self, positions: torch.Tensor) -> torch.Tensor:
        return self.model.energy(positions)


def test_a_model_that_equals_the_target_does_not_change(model: Path, settings: TrainSettings) -> None:
    potential = read_model(model).double().requires_grad_(True)
    target = Target(Own(read_model(model)), potential.kT, math.inf)
    settings = settings.model_copy(update={"dtype": "float64"})
    with worker_processes(1) as call:
        refiner = Refiner(settings, target, None, call, ALONE)
        refiner.refresh(potential, 0)
    pool = refiner.pool
    assert pool is not None
    assert pool.ess == pytest.approx(1, abs=1e-9)
    nll = -potential.log_prob(pool.positions)

    def gradient(loss: torch.Tensor) -> float:
        found = torch.autograd.grad(loss, list(potential.parameters()), retain_graph=True)
        return float(torch.cat([g.flatten() for g in found]).norm())

    plain = gradient((pool.weights * nll).mean())
    whole = gradient(weighted_likelihood(nll, pool.weights, pool.log_density, torch.ones_like(nll)).mean())
    # the likelihood of 600 samples has noise; with the density that they were drawn from, rounding is left
    assert plain > 0.1
    assert whole < 1e-8 * plain


def test_the_weighted_likelihood_is_convex_with_its_minimum_at_the_weight() -> None:
    weights = torch.tensor([0.3, 1.0, 7.0], dtype=torch.float64)
    log_density = torch.tensor([-2.0, 5.0, 0.5], dtype=torch.float64)
    u = torch.linspace(-12, 12, 24001, dtype=torch.float64)[:, None] - log_density
    loss = weighted_likelihood(u, weights, log_density, torch.ones_like(u))
    # at r = w, where -u - log q = log w; the grid has steps of 0.001
    best = -u.gather(0, loss.argmin(0)[None])[0] - log_density
    torch.testing.assert_close(best, weights.log(), rtol=0, atol=1e-3)
    assert float((loss[2:] - 2 * loss[1:-1] + loss[:-2]).min()) > -1e-9
    # for what is not a sample it is the weighted likelihood
    u = torch.randn(3, dtype=torch.float64)
    assert torch.equal(weighted_likelihood(u, weights, -u, torch.zeros(3)), weights * u)


def test_a_pool_of_few_effective_samples_is_not_trained_on(
    tmp_path: Path, settings: TrainSettings, peroxide_frames: Frames, force_field: Potential
) -> None:
    strict = settings.refining.model_copy(update={"fewest_effective": 1e4})
    poor = settings.model_copy(update={"refining": strict, "steps": 40})
    refused = train(peroxide_frames, poor, tmp_path / "poor", target=force_field)
    log = (tmp_path / "poor" / "run.log").read_text()
    assert log.count("worth fewer than 10000 samples, so that training goes on with frames alone") == 2
    # the same steps as without refining
    plain = poor.model_copy(update={"refining": RefiningSettings()})
    alone = train(peroxide_frames, plain, tmp_path / "plain")
    for name, value in read_model(refused).flow.state_dict().items():
        torch.testing.assert_close(value, read_model(alone).flow.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_configurations_outside_the_bulk_are_distorted_samples(potential: FlowPotential) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        positions, _ = potential.sample(500, seed=1)
        q, _ = potential.coordinates.encode(positions)
        moved, _ = potential.coordinates.encode(distort(potential, positions, generator))
    # bonds and angles deviate from 1 to 3 times as far, on average twice
    ratio = (moved[:, :5].std(0) / q[:, :5].std(0)).tolist()
    assert all(1.7 < r < 2.6 for r in ratio)
    # half of the torsions are drawn anew
    changed = (moved[:, 5] - q[:, 5]).abs() > 1e-3
    assert 0.4 < float(changed.double().mean()) < 0.6
    assert abs(float(torch.exp(1j * moved[changed, 5]).mean().abs())) < 0.2


def test_a_descent_goes_down_the_energy_of_the_flow(potential: FlowPotential) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        start = distort(potential, potential.sample(100, seed=1)[0], generator)
        below = descend(potential, start, DESCENT_STEPS)
        assert bool((potential.energy(below) <= potential.energy(start)).all())
        assert float((potential.energy(start) - potential.energy(below)).mean()) > potential.kT
    found = outside_configurations(potential, start, generator)
    assert bool(potential.energy_and_forces(found)[1].isfinite().all())


def test_hot_frames_make_up_half_of_what_is_outside(
    tmp_path: Path, settings: TrainSettings, peroxide_frames: Frames, force_field: Potential
) -> None:
    hot = replace(peroxide_frames[np.arange(50)], temperature=600.0)
    write_frames(tmp_path / "hot.h5", hot)
    share = settings.refining.model_copy(update={"outside_frames": str(tmp_path / "hot.h5")})
    warm = settings.model_copy(update={"refining": share, "steps": 20})
    train(peroxide_frames, warm, tmp_path / "run", target=force_field)
    assert "60 configurations outside the bulk" in (tmp_path / "run" / "run.log").read_text()
    # half of them took no energy
    assert int(rows(tmp_path / "run")[-1]["energy_evaluations"]) == 630
    again = reproduce(tmp_path / "run", peroxide_frames, tmp_path / "again", force_field)
    assert again.agrees()
    write_frames(tmp_path / "other.h5", hot[np.arange(40)])
    (tmp_path / "other.h5").replace(tmp_path / "hot.h5")
    with pytest.raises(ConfigurationError, match="other frames outside the bulk"):
        reproduce(tmp_path / "run", peroxide_frames, tmp_path / "third", force_field)
    with pytest.raises(ConfigurationError, match="SHA-256 of the frames outside the bulk is"):
        train(peroxide_frames, warm, tmp_path / "run", target=force_field)


def test_settings_that_contradict_one_another_are_refused(
    tmp_path: Path, settings: TrainSettings, peroxide_frames: Frames, force_field: Potential
) -> None:
    with pytest.raises(ConfigurationError, match="refining, need the force field"):
        train(peroxide_frames, settings, tmp_path / "run")
    with pytest.raises(ConfigurationError, match="fewer than batch_size"):
        train(peroxide_frames[np.arange(60)], settings, tmp_path / "run", target=force_field)
    with pytest.raises(ValueError, match="leave a share of each batch to the samples"):
        RefiningSettings(frames_share=0.5, outside_share=0.5)
    with pytest.raises(ValueError, match=r"outside_share needs weights\.force"):
        TrainSettings(weights=LossWeights(force=0), refining=RefiningSettings(pool_size=10, outside_share=0.1))
    with pytest.raises(ValueError, match="needs outside_share"):
        RefiningSettings(outside_frames="hot.h5")
    assert not (tmp_path / "run").exists()
    other, _ = topology_from_smiles("CO")
    positions = np.random.default_rng(0).normal(size=(3, len(other), 3))
    write_frames(tmp_path / "other.h5", Frames(other, 600.0, positions, np.zeros_like(positions)))
    share = settings.refining.model_copy(update={"outside_frames": str(tmp_path / "other.h5")})
    with pytest.raises(TopologyError):
        train(peroxide_frames, settings.model_copy(update={"refining": share}), tmp_path / "run", target=force_field)
    assert not (tmp_path / "run").exists()


def test_a_model_does_not_tell_the_folders_of_the_files_it_was_made_of(refined: Path, model: Path) -> None:
    header = read_header(refined / "model.safetensors")
    assert header["provenance"]["training"]["initial_model"] == model.name
    assert str(model.parent) not in str(header)


def broken_at(place: int, n_times: int) -> Any:
    """`force_error`, not finite at one place of a batch that is trained on, so many times."""
    left = [n_times]

    def error(forces: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        found = force_error(forces, reference)
        if len(found) == REFINED.batch_size and found.requires_grad and left[0] > 0:
            left[0] -= 1
            found = found + torch.where(torch.arange(len(found)) == place, math.nan, 0.0)
        return found

    return error


def test_a_sample_without_a_finite_force_is_left_out_and_counted(
    settings: TrainSettings,
    peroxide_frames: Frames,
    force_field: Potential,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # of 64 places the last six are configurations outside the bulk, and the first 13 frames
    monkeypatch.setattr(smoothflow.training.module, "force_error", broken_at(40, 1))
    short = settings.model_copy(update={"steps": 20})
    found = train(peroxide_frames, short, tmp_path / "run", target=force_field)
    assert rows(tmp_path / "run")[-1]["left_out"] == "1.0"
    for weight in read_model(found).flow.parameters():
        assert bool(weight.isfinite().all())


@pytest.mark.parametrize(("place", "n_times", "message"), [(3, 1, "frame"), (40, 9, "sample 40 of the batch")])
def test_frames_and_many_samples_without_a_finite_force_stop_a_refining(
    place: int,
    n_times: int,
    message: str,
    settings: TrainSettings,
    peroxide_frames: Frames,
    force_field: Potential,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(smoothflow.training.module, "force_error", broken_at(place, n_times))
    short = settings.model_copy(update={"steps": 20})
    with pytest.raises(TrainingError, match=message):
        train(peroxide_frames, short, tmp_path / "run", target=force_field)
