"""Training that begins with a model, and on the flow's own samples."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.errors import ConfigurationError
from smoothflow.core.potential import Potential
from smoothflow.molecules.frames import Frames
from smoothflow.potentials.model_file import read_header, read_model
from smoothflow.training.config import AnnealingSettings, LossWeights, TrainSettings
from smoothflow.training.module import N_VALIDATION_SAMPLES
from smoothflow.training.run import train

SETTINGS = TrainSettings(
    flow=FlowSettings(hidden=12, n_hidden_layers=1, line_pairs=1, interval_pairs=1, circle_pairs=1),
    steps=40,
    batch_size=64,
    validate_every=20,
    learning_rate=5e-3,
    averaging=0.9,
)
SAMPLES = TrainSettings(
    weights=LossWeights(nll=0.5, force=0.0, reverse_kl=0.5, alpha_two=0.1),
    annealing=AnnealingSettings(n_intermediate=1, n_leapfrog=2),
    path_gradient=True,
    n_samples=20,
    steps=40,
    batch_size=64,
    validate_every=20,
    learning_rate=2e-3,
    averaging=0.9,
)


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, peroxide_frames: Frames) -> Path:
    return train(peroxide_frames, SETTINGS, tmp_path_factory.mktemp("likelihood") / "run")


def test_training_from_a_model_keeps_its_architecture(
    tmp_path: Path, model: Path, peroxide_frames: Frames, force_field: Potential
) -> None:
    settings = SAMPLES.model_copy(update={"initial_model": str(model)})
    tuned = train(peroxide_frames, settings, tmp_path / "run", target=force_field)
    header = read_header(tuned)
    assert header["settings"] == read_header(model)["settings"]
    assert header["charts"] == read_header(model)["charts"]
    assert header["provenance"]["initial_model"]["step"] == read_header(model)["provenance"]["step"]
    # the first steps are taken from there: the weights are still close, and what samples cost is falling
    before, after = read_model(model).flow.state_dict(), read_model(tuned).flow.state_dict()
    assert all(float((after[name] - value).abs().max()) < 0.2 for name, value in before.items())
    first, last = rows(tmp_path / "run")
    for name in ("val_reverse_kl", "val_alpha_two"):
        assert float(last[name]) < float(first[name])
    # each validation and each step: once for the reverse KL divergence; for the other once, and 1 + 2 in a transition
    steps, validations = 40 * 20, 2 * N_VALIDATION_SAMPLES
    assert int(last["energy_evaluations"]) == (steps + validations) * (1 + 1 + 3)
    assert header["provenance"]["validation"]["energy_evaluations"] in {
        int(r["energy_evaluations"]) for r in (first, last)
    }


def test_interrupted_run_on_samples_goes_on_bit_for_bit(
    tmp_path: Path, model: Path, peroxide_frames: Frames, force_field: Potential
) -> None:
    settings = SAMPLES.model_copy(update={"initial_model": str(model)})

    def stop(progress: object) -> None:
        if getattr(progress, "done", 0) >= 30:
            raise Stop

    whole = train(peroxide_frames, settings, tmp_path / "whole", target=force_field)
    with pytest.raises(Stop):
        train(peroxide_frames, settings, tmp_path / "parts", force_field, stop)  # type: ignore[arg-type]
    parts = train(peroxide_frames, settings, tmp_path / "parts", target=force_field)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    for name, value in read_model(whole).flow.state_dict().items():
        assert torch.equal(value, read_model(parts).flow.state_dict()[name]), name


def test_models_and_settings_that_do_not_match_are_refused(
    tmp_path: Path, model: Path, peroxide_frames: Frames, force_field: Potential
) -> None:
    settings = SAMPLES.model_copy(update={"initial_model": str(model)})
    other = TrainSettings(**{**settings.model_dump(exclude_unset=True), "flow": replace(SETTINGS.flow, hidden=13)})
    with pytest.raises(ConfigurationError, match="hidden is 12 there and 13"):
        train(peroxide_frames, other, tmp_path / "run", target=force_field)
    warmer = replace(peroxide_frames, temperature=310.0)
    with pytest.raises(ConfigurationError, match="300 K, and the frames are of 310 K"):
        train(warmer, settings, tmp_path / "run", target=force_field)
    with pytest.raises(ConfigurationError, match="need the force field"):
        train(peroxide_frames, settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()

    copy = tmp_path / "model.safetensors"
    copy.write_bytes(model.read_bytes())
    begun = SAMPLES.model_copy(update={"initial_model": str(copy), "steps": 20})
    train(peroxide_frames, begun, tmp_path / "run", target=force_field)
    other_model = train(peroxide_frames, SETTINGS.model_copy(update={"steps": 20, "seed": 1}), tmp_path / "other")
    copy.write_bytes(other_model.read_bytes())
    with pytest.raises(ConfigurationError, match="SHA-256 of the initial model is"):
        train(peroxide_frames, begun, tmp_path / "run", target=force_field)
