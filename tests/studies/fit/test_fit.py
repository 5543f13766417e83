"""A fit: its decisions are kept, what is interrupted goes on to the same numbers, and what is wrong is said."""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import replace
from pathlib import Path

import openmm
import pytest
import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import read_frames
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.model_file import read_model
from smoothflow.potentials.reference import reference
from smoothflow.runs.progress import Progress
from smoothflow.studies.fit import fit as fit_module
from smoothflow.studies.fit import planning
from smoothflow.studies.fit.annealing import WORTH, crude_configurations, next_temperature
from smoothflow.studies.fit.decisions import Decisions
from smoothflow.studies.fit.fit import fit
from smoothflow.studies.fit.planning import Pace, first_training, round_training, seconds_per_step, sized
from smoothflow.studies.fit.result import Fitted
from smoothflow.studies.fit.settings import FitSettings, duration, spoken
from smoothflow.training import refining
from smoothflow.training.config import TrainSettings


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def peroxide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Hydrogen peroxide as a SMILES file, and a System of harmonic terms and one torsion with two wells."""
    folder = tmp_path_factory.mktemp("peroxide")
    structure, xml = folder / "peroxide.smi", folder / "system.xml"
    structure.write_text("OO\n")
    system = openmm.System()
    for mass in (15.999, 15.999, 1.008, 1.008):  # RDKit adds hydrogens behind
        system.addParticle(mass)
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    for i, j, length in ((0, 1, 0.145), (0, 2, 0.097), (1, 3, 0.097)):
        bonds.addBond(i, j, length, 2e5)
    for i, j, k in ((2, 0, 1), (3, 1, 0)):
        angles.addAngle(i, j, k, 1.75, 300.0)
    torsions.addTorsion(2, 0, 1, 3, 2, 0.0, 3.0)
    for force in (bonds, angles, torsions):
        system.addForce(force)
    xml.write_text(openmm.XmlSerializer.serialize(system))
    return structure, xml


@pytest.fixture(scope="module")
def settings(peroxide: tuple[Path, Path]) -> FitSettings:
    structure, xml = peroxide
    return FitSettings(structure, f"openmm:{xml}", ess=0.995, budget=160, n_samples=1000)


def shorten(patch: pytest.MonkeyPatch) -> None:
    """One process, and the least of everything."""
    # whatever the machine is doing: plans are made for one that is quiet
    patch.setattr(fit_module, "seconds_per_energy", lambda *_: 5e-5)
    patch.setattr(fit_module, "n_cores", lambda: 1)
    patch.setattr(refining, "n_cores", lambda: 1)
    patch.setattr(fit_module, "FIRST_SHARE", 0.0)
    patch.setattr(fit_module, "N_HOT", 100)
    patch.setattr(planning, "STARTING", 1.0)


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    shorten(monkeypatch)


def hurried() -> float:
    """A clock of this process alone, whatever else the machine does, that runs ten times as fast."""
    return 10 * time.process_time()


@pytest.fixture(scope="module")
def whole(settings: FitSettings, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """A fit that was not interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        return fit(settings, tmp_path_factory.mktemp("whole") / "fit", clock=hurried)


@pytest.mark.slow
@pytest.mark.usefixtures("_short")
def test_an_interrupted_fit_goes_on_to_the_same_numbers(settings: FitSettings, whole: Fitted, tmp_path: Path) -> None:
    # what was measured and decided there, and nothing else
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(whole.folder / "fit.json", again)
    seen: set[str] = set()

    def stop(progress: Progress) -> None:
        # once in every stage, in its middle
        if progress.stage not in seen and 2 * progress.done >= progress.total > 0:
            seen.add(progress.stage)
            raise Stop

    n_stops = 0
    while True:
        try:
            found = fit(settings, again, stop, hurried)
            break
        except Stop:
            n_stops += 1
    assert n_stops >= 6
    assert {"Simulation", "Training", "Training, round-1", "Samples, round-1", "evaluate"} <= seen
    ours, theirs = (json.loads((folder / "metrics.json").read_text()) for folder in (again, whole.folder))
    assert {**ours, "model": ""} == {**theirs, "model": ""}
    for name, value in read_model(whole.model).flow.state_dict().items():
        assert torch.equal(value, read_model(found.model).flow.state_dict()[name]), name


@pytest.mark.slow
def test_a_fit_reaches_its_target_and_says_what_it_did(settings: FitSettings, whole: Fitted) -> None:
    found, folder = whole, whole.folder
    # the reference's own energies weigh samples of the model that was kept: its efficiency, independently
    potential = read_model(found.model).double()
    with torch.no_grad():
        positions, log_q = potential.sample(4000, seed=7)
    log_weights = -reference(settings.reference, settings.structure).energy(positions) / potential.kT - log_q
    weights = torch.softmax(log_weights, 0)
    assert found.ess.value == pytest.approx(float(1 / weights.square().sum() / 4000), abs=0.05)
    assert found.ess.value > 0.7
    log = (folder / "fit.log").read_text()
    for words in ("one energy with forces", "independent ones", "a first model", "round 1", "evaluation on"):
        assert words in log
    # frames of the evaluation are those of other walkers than trained on
    training, test = read_frames(folder / "training.h5"), read_frames(folder / "test.h5")
    assert training.replica is not None
    assert test.replica is not None
    assert set(training.replica) & set(test.replica) == set()
    assert found.evaluation.frames_are.value == "held-out frames"
    # two wells of equal depth, by symmetry
    assert [basin.torsions for basin in found.basins] == [found.basins[0].torsions] * 2
    difference = found.basins[1].free_energy
    assert difference is not None
    assert abs(difference.value) < 4 * difference.error
    assert sum(basin.reweighted.value for basin in found.basins) == pytest.approx(1)
    assert (folder / "report.html").is_file()
    assert all(basin.name in (folder / "report.html").read_text() for basin in found.basins)


@pytest.mark.slow
@pytest.mark.usefixtures("_short")
def test_a_fit_without_dynamics_is_annealed(
    settings: FitSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit_module, "N_MEASURED", 1000)
    monkeypatch.setattr(fit_module, "CRUDE_SHARE", 0.0)
    folder = tmp_path / "fit"
    found = fit(replace(settings, md=False, budget=240), folder, clock=hurried)
    assert not (folder / "frames.h5").exists()
    lines = (folder / "fit.log").read_text()
    assert "for 1200 K, by" in lines
    # the efficiency at the temperature that was asked for, from the reference itself
    potential = read_model(found.model).double()
    assert potential.temperature == 300
    with torch.no_grad():
        positions, log_q = potential.sample(4000, seed=7)
    log_weights = -reference(settings.reference, settings.structure).energy(positions) / potential.kT - log_q
    weights = torch.softmax(log_weights, 0)
    assert found.ess.value == pytest.approx(float(1 / weights.square().sum() / 4000), abs=0.05)
    assert found.ess.value > 0.5
    assert len(found.basins) == 2
    assert (folder / "report.html").is_file()


def test_a_temperature_is_lowered_as_far_as_samples_stay_worth_something() -> None:
    """Harmonic motion in n dimensions at T, weighted to T': the efficiency is known in closed form."""
    n, noise = 20, torch.Generator().manual_seed(0)
    x = torch.randn((200_000, n), generator=noise, dtype=torch.float64)
    kT = thermal_energy(1200.0)
    energy = 0.5 * kT * x.square().sum(1)
    log_density = -0.5 * x.square().sum(1)
    found = next_temperature(energy, log_density, 1200.0, 300.0)
    # ESS = (a (2 - a))^(n/2) with a = T'/T, of weights exp(-(1/a - 1) x^2 / 2)
    a = found / 1200
    assert (a * (2 - a)) ** (n / 2) == pytest.approx(WORTH, rel=0.1)
    assert next_temperature(energy, log_density, 1200.0, 1100.0) == 1100
    # samples that are worth nothing even where they are: no lower
    assert next_temperature(50 * energy, log_density, 1200.0, 300.0) == 1200


def test_crude_configurations_are_those_of_the_molecule(peroxide: tuple[Path, Path]) -> None:
    structure, xml = peroxide
    force_field = reference(f"openmm:{xml}", structure)
    topology, positions = topology_from_pdb(structure)
    coordinates = InternalCoordinates(topology)
    made = crude_configurations(force_field, coordinates, positions[0].double().numpy(), 1200.0, 0)
    q = coordinates.encode(torch.from_numpy(made.frames.positions).double())[0]
    # normal, as wide as kT over the curvature: 2e5 kJ/mol/nm^2, and a torsion that turns all around
    kT = thermal_energy(1200.0)
    assert q[:, :3].std(0).tolist() == pytest.approx([math.sqrt(kT / 2e5)] * 3, rel=0.05)
    assert float(torch.exp(1j * q[:, 5]).mean().abs()) < 0.1
    energy = force_field.energy(torch.from_numpy(made.frames.positions).double())
    assert made.frames.energies == pytest.approx(energy.numpy(), abs=0.05)
    assert made.n_evaluations < 4000 + 2 * 6 + 12 + 400


@pytest.mark.usefixtures("_short")
def test_impossible_fits_are_refused(settings: FitSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"A budget of 2 s is too short: .* Give at least"):
        fit(FitSettings(settings.structure, settings.reference, budget=2.0), tmp_path / "short")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "frames.h5").write_bytes(b"mine")
    with pytest.raises(ConfigurationError, match="does not hold a fit"):
        fit(settings, foreign)
    assert (foreign / "frames.h5").read_bytes() == b"mine"
    other = tmp_path / "other"
    other.mkdir()
    state = {"fit": 1, "identity": {**settings.identity, "seed": 5}, "decisions": {}}
    (other / "fit.json").write_text(json.dumps(state))
    with pytest.raises(ConfigurationError, match="seed is 5 there and 0 here"):
        fit(settings, other)
    (other / "fit.json").write_text('{"fit": 1, "identity": 3}')
    with pytest.raises(FileFormatError, match="damaged"):
        fit(settings, other)


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("30min", 1800), ("1h30min", 5400), ("90 s", 90), ("1.5h", 5400), ("2m", 120)]
)
def test_durations_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "two hours", "-2h", "0s", "2h x"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a duration"):
        duration(text)


def test_settings_that_make_no_sense_are_refused(settings: FitSettings) -> None:
    for changed in ({"ess": 1.0}, {"ess": 0.0}, {"budget": math.inf}, {"temperature": 0.0}, {"n_samples": 5}):
        with pytest.raises(ConfigurationError):
            FitSettings(settings.structure, settings.reference, **changed)


def test_a_decision_is_made_once_and_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    now = [0.0]
    first = Decisions(tmp_path, {"a": 1}, lambda: now[0], lines.append)
    now[0] = 50.0
    assert first.make("size", lambda: (3, "three, as it is small")) == 3
    assert lines == ["three, as it is small"]
    # another process, whose clock began elsewhere
    later = [1e6]
    second = Decisions(tmp_path, {"a": 1}, lambda: later[0], lines.append)
    assert second.make("size", lambda: pytest.fail("decided twice")) == 3
    later[0] += 25
    assert second.seconds == pytest.approx(75)
    assert lines == ["three, as it is small"]


def test_a_round_takes_the_time_that_is_planned() -> None:
    first = TrainSettings(batch_size=256, steps=100)
    # samples cost as much as steps if each is used once, so that they are used more often
    plan = round_training(first, 1015.0, Pace(0.1, 1, False), 0.1 / 218, "m.safetensors", "hot.h5", 1)
    share = plan.refining
    n_samples = 256 * 0.85
    uses = share.refresh_every * n_samples / share.pool_size
    assert uses == pytest.approx(3, rel=0.01)
    n_pools = math.ceil(plan.steps / share.refresh_every)
    assert plan.steps * 0.1 + n_pools * share.pool_size * 0.1 / 218 == pytest.approx(1000, rel=0.02)
    assert spoken(1000) == "16.7 min"


@pytest.mark.parametrize(
    ("seconds", "before", "steps", "compiled"),
    # 15 s to start, then steps of 0.1 s; or 280 s more to compile (60 s where that was done before), then 0.045 s
    [(115, False, 1000, False), (1015, False, 16000, True), (215, False, 2000, False), (215, True, 3111, True)],
)
def test_a_training_is_compiled_where_that_gives_more_steps(
    seconds: float, before: bool, steps: int, compiled: bool
) -> None:
    found, is_compiled = Pace(0.1, 1, True).steps(seconds, 0.0, before)
    assert is_compiled == compiled
    assert found == pytest.approx(steps, abs=1)
    plain, never = Pace(0.1, 1, False).steps(seconds, 0.0, before)
    assert plain == pytest.approx((seconds - 15) / 0.1, abs=1)
    assert not never


def test_two_cores_take_a_step_in_little_more_than_half_the_time() -> None:
    assert Pace(0.16, 2, False).steps(115)[0] == pytest.approx(1000, abs=1)


def test_a_first_model_does_not_learn_few_frames_by_heart() -> None:
    first = TrainSettings(batch_size=256)
    hour = sized(first, 3200, 3600, Pace(0.1, 1, True))
    # eight passes
    assert (hour.steps, hour.compile) == (100, False)
    # with more frames than there is time for, as many steps as there is time for
    assert sized(first, 10**6, 115, Pace(0.1, 1, True)).steps == pytest.approx(1000, abs=1)


def test_the_time_of_a_step_is_measured(peroxide_frames: Frames) -> None:
    first = first_training(peroxide_frames, 1, 0)
    took = [seconds_per_step(peroxide_frames, first.model_copy(update={"batch_size": n})) for n in (16, 4096)]
    # 256 times as much work, of which small batches are dominated by what does not depend on it
    assert 0 < took[0] < took[1]
