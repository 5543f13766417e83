"""Repeat the training of a run folder, and compare every number that it recorded."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ConfigurationError, FileFormatError
from ..core.files import file_digest, read_json
from ..core.plugins import registry
from ..core.potential import Potential
from ..molecules.frames import Frames
from ..potentials.model_file import read_header, read_model
from ..runs.progress import OnProgress, silent
from .config import TrainSettings
from .data import TrainingData
from .run import train
from .run_folder import RunFolder, last_step, settings_of

MAX_TABLE_BYTES = 2**24
"""Largest table of metrics: a hundred thousand validations."""


@dataclass(frozen=True)
class Reproduced:
    """A number that a run recorded, and the same number of its repetition.

    Attributes:
        name: What it is.
        recorded: Its value in the run.
        reproduced: Its value now.
        difference: Relative; the largest one over all validations, or of all weights.
    """

    name: str
    recorded: float
    reproduced: float
    difference: float


@dataclass(frozen=True)
class Reproduction:
    """Outcome of repeating a run.

    Attributes:
        folder: Folder of the new run.
        numbers: The metrics at the best model, and the weights.
        n_validations: Validations that were compared.
        n_held_out: Frames that each validation is over.
        changed: Differences of code and machine: then and now, by name.
    """

    folder: Path
    numbers: tuple[Reproduced, ...]
    n_validations: int
    n_held_out: int
    changed: dict[str, tuple[str, str]]

    def agrees(self, tolerance: float = 0.0) -> bool:
        """Whether no number differs by more, relative to its size; bit for bit without a tolerance."""
        return all(number.difference <= tolerance for number in self.numbers)


def recorded_source(run_folder: str | Path) -> dict[str, Any]:
    """Where the frames and the force field of a run came from, as far as it says.

    Raises:
        FileFormatError: If the folder holds no training run, or its file is damaged.
    """
    run = _require_run(Path(run_folder))
    return _read_json(run.source) if run.source.exists() else {}


def recorded_device(run_folder: str | Path) -> str:
    """Where a run computed; raises as `recorded_source` does."""
    return settings_of(_require_run(Path(run_folder))).device


def require_recorded(run_folder: str | Path, frames: Frames | Sequence[Frames]) -> None:
    """Raise a `ConfigurationError` unless these are the frames that a run was trained on, to the last bit.

    Whatever else makes a run the same is read from its folder, and need not be compared as in `require_same_run`.
    """
    run, data = _require_run(Path(run_folder)), TrainingData.of(frames)
    recorded = _read_json(run.frames)
    if recorded.get("sha256") != data.digest():
        raise ConfigurationError(
            f'The run "{run.path}" was trained on other frames ({recorded.get("frames")} of them; here are '
            f"{len(data)}). Give those that it was trained on with --frames."
        )


def reproduce(
    run_folder: str | Path,
    frames: Frames | Sequence[Frames],
    output: str | Path,
    target: Potential | None = None,
    on_progress: OnProgress = silent,
    source: Mapping[str, Any] | None = None,
) -> Reproduction:
    """Train again with the settings of a run folder, in a new folder, and compare metrics and weights.

    On the same machine with the same versions they are the same, bit for bit, however often either run was interrupted.

    Args:
        run_folder: A finished run.
        frames: The frames that it was trained on.
        output: Folder of the new run; a run that is in it is resumed.
        target: The force field, if it was trained on samples.
        on_progress: Told of steps and losses.
        source: As in `train`.

    Raises:
        FileFormatError: If the folder holds no training run, or one of its files is damaged.
        ConfigurationError: If the run is not finished, the frames or the model that it began with are others, or the
            new folder is the old one.
        TrainingError: As `train` does.
    """
    run, again = _require_run(Path(run_folder)), RunFolder(Path(output))
    if again.path.resolve() == run.path.resolve():
        raise ConfigurationError(f'"{output}" is the run itself. Name another folder for the new run.')
    settings = settings_of(run)
    require_recorded(run.path, frames)
    _require_files(run, settings)
    step = last_step(run)
    if step != settings.steps:
        raise ConfigurationError(
            f'The run "{run.path}" is not finished: step {step or 0} of {settings.steps}. Finish it first.'
        )
    train(frames, settings, again.path, target, on_progress, source)
    recorded, found = _metrics(run), _metrics(again)
    if [row["step"] for row in recorded] != [row["step"] for row in found]:
        raise FileFormatError(f'"{run.metrics}" is damaged: its validations are not those of its settings.')
    best = max(i for i, row in enumerate(recorded) if row["best"])
    numbers = [
        Reproduced(
            name,
            recorded[best][name],
            found[best].get(name, math.nan),
            max(_difference(a[name], b.get(name, math.nan)) for a, b in zip(recorded, found, strict=True)),
        )
        for name in recorded[best]
    ]
    then, now = _conditions(run), _conditions(again)
    return Reproduction(
        again.path,
        (*numbers, _weights(run, again)),
        len(recorded),
        len(TrainingData.of(frames).split(settings.validation_fraction, settings.seed)[1]),
        {name: (then[name], now[name]) for name in then if name in now and then[name] != now[name]},
    )


def _require_run(path: Path) -> RunFolder:
    run = RunFolder(path)
    for file in (run.config, run.frames, run.metrics, run.model):
        if not file.is_file():
            raise FileFormatError(f'"{path}" is not a folder of a training run: it has no {file.name}.')
    return run


def _require_files(run: RunFolder, settings: TrainSettings) -> None:
    """Raise a `ConfigurationError` unless the files that settings name are those that the run was given."""
    recorded = _read_json(run.frames)
    model, outside = settings.initial_model, settings.refining.outside_frames
    if model is not None and file_digest(registry().model_path(model)) != recorded.get("initial_model"):
        raise ConfigurationError(
            f'The run "{run.path}" began with another model than "{model}" is now. Restore that file.'
        )
    there = "" if outside is None or not Path(outside).is_file() else file_digest(Path(outside))
    if there != recorded.get("outside_frames", there):
        raise ConfigurationError(
            f'The run "{run.path}" was trained with other frames outside the bulk than "{outside}" holds now. '
            "Restore that file."
        )


def _read_json(path: Path) -> dict[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise FileFormatError(f'"{path}" is damaged: it holds no names with values.')
    return value


def _metrics(run: RunFolder) -> list[dict[str, float]]:
    """The rows of the table; nan where a row has no value."""
    try:
        if run.metrics.stat().st_size > MAX_TABLE_BYTES:
            raise ValueError(f"it is larger than {MAX_TABLE_BYTES} bytes")
        with run.metrics.open(newline="", encoding="utf-8") as file:
            rows = [{name: float(value or "nan") for name, value in row.items()} for row in csv.DictReader(file)]
        if not any(row["best"] for row in rows):
            raise ValueError("no validation is the best")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise FileFormatError(f'"{run.metrics}" is damaged: {error}.') from error
    return rows


def _difference(first: float, second: float) -> float:
    """Relative to the larger one; infinite if only one is nan."""
    if first == second or (math.isnan(first) and math.isnan(second)):
        return 0.0
    difference = abs(first - second) / max(abs(first), abs(second))
    return difference if math.isfinite(difference) else math.inf


def _weights(run: RunFolder, again: RunFolder) -> Reproduced:
    """The largest weight, and the largest difference of any, relative to it."""
    ours, theirs = (
        torch.cat([value.double().flatten() for value in read_model(each.model).flow.state_dict().values()])
        for each in (run, again)
    )
    largest = float(ours.abs().max())
    difference = float((ours - theirs).abs().max()) / largest
    return Reproduced("largest weight", largest, float(theirs.abs().max()), difference)


def _conditions(run: RunFolder) -> dict[str, str]:
    """Versions and machine of a run."""
    versions = read_header(run.model)["provenance"]["versions"]
    source = _read_json(run.source) if run.source.exists() else {}
    return {**versions, **{name: str(source[name]) for name in ("commit", "machine") if name in source}}
