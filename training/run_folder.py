"""The folder of a training run: what it is called, whose run it is, its log, and where it goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from ..core.errors import FileFormatError
from ..core.files import read_json, require_own_folder, write_atomically, write_json
from ..core.text import shown
from ..runs.provenance import MISSING, require_same_run
from .config import TrainSettings, read_settings, write_settings
from .data import TrainingData


@dataclass(frozen=True)
class RunFolder:
    """Names of the files of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The settings, every field written out."""
        return self.path / "config.yaml"

    @property
    def frames(self) -> Path:
        """Which frames the run is trained on."""
        return self.path / "frames.json"

    @property
    def source(self) -> Path:
        """The command, where frames and force field came from, and where it ran: what `reproduce` asks for."""
        return self.path / "source.json"

    @property
    def metrics(self) -> Path:
        """One row for each validation."""
        return self.path / "metrics.csv"

    @property
    def timing(self) -> Path:
        """Wall-clock time of the training so far over all stretches, seconds."""
        return self.path / "timing.json"

    @property
    def log(self) -> Path:
        """The log."""
        return self.path / "run.log"

    @property
    def checkpoint(self) -> Path:
        """The checkpoint from which the run resumes."""
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def model(self) -> Path:
        """The best model on the held-out frames."""
        return self.path / "model.safetensors"


FRAMES_MARK = b'"sha256"'
"""Text in the file that marks a folder as a training run's."""


def identity_of(
    frames: TrainingData, digest: str, origin: Mapping[str, Any] | None, outside: str | None
) -> dict[str, Any]:
    """What a run is made of besides its settings, as its folder keeps it.

    Args:
        frames: All frames.
        digest: Their fingerprint.
        origin: The model that training begins with, if there is one.
        outside: The SHA-256 of the file of frames outside the bulk, if there is one.
    """
    identity = {"sha256": digest, "frames": len(frames), "provenance": frames.provenance}
    if origin is not None:
        identity["initial_model"] = origin["sha256"]
    if outside is not None:
        identity["outside_frames"] = outside
    return identity


def settings_of(run: RunFolder) -> TrainSettings:
    """The settings of a run.

    Raises:
        FileFormatError, ConfigurationError: If the file cannot be read.
    """
    settings = read_settings(run.config)
    # every version writes all settings that it knows: where there is none for a shear, the flow has none
    if "shear:" not in run.config.read_text(encoding="utf-8"):
        settings = settings.model_copy(update={"flow": replace(settings.flow, shear=False)})
    return settings


def claim(run: RunFolder, identity: Mapping[str, Any], settings: TrainSettings) -> None:
    """Record what the run is, or check that the folder holds this run.

    Raises:
        ConfigurationError: If the folder holds another run, or is not a run and holds files that one would replace.
    """
    files = (run.config, run.frames, run.source, run.metrics, run.log, run.checkpoint, run.model)
    names = [str(path.relative_to(run.path)) for path in files]
    require_own_folder(run.path, names, {run.frames.name: FRAMES_MARK}, "a training run")
    if not run.config.exists():
        # first the file that identifies the run
        write_json(run.frames, identity)
        write_atomically(run.config, write_settings(settings).encode())
        return
    try:
        known = _begun_with(read_json(run.frames))
    except (KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(f'"{run.frames}" is damaged: {error}. Start again in another folder.') from error
    there = {**settings_of(run).model_dump(mode="json"), **known}
    here = {**settings.model_dump(mode="json"), **_begun_with(identity)}
    # how many processes share the work is not part of what is computed
    require_same_run(f'The folder "{run.path}"', there, here, ("processes",))


def _begun_with(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is made of besides its settings, named for people."""
    return {
        "SHA-256 of the frames": identity["sha256"],
        "SHA-256 of the initial model": identity.get("initial_model", MISSING),
        "SHA-256 of the frames outside the bulk": identity.get("outside_frames", MISSING),
    }


def training_seconds(run: RunFolder) -> float:
    """Wall-clock time of a training over all stretches, up to the last validation; nan where version 0.1 trained.

    Raises:
        FileFormatError: If the file is damaged.
    """
    if not run.timing.exists():
        return math.nan
    try:
        return float(json.loads(run.timing.read_text(encoding="utf-8"))["training_seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f'"{run.timing}" is damaged: {error}. Remove it to go on without.') from error


def last_step(run: RunFolder) -> int | None:
    """The step at which the checkpoint was written, if there is one."""
    if not run.checkpoint.exists():
        return None
    try:
        return int(torch.load(run.checkpoint, map_location="meta", weights_only=True)["global_step"])
    except Exception as error:
        raise FileFormatError(
            f'"{run.checkpoint}" is damaged ({type(error).__name__}). Remove it to start again, or restore it.'
        ) from error


Journal = Callable[[str], None]
"""Writes a line to the run's log."""


@contextmanager
def journal_of(path: Path) -> Iterator[Journal]:
    """The log of a run, opened for each line; what stops the run is its last one."""

    def write(text: str) -> None:
        # a full disk is reported where more than this line is lost
        with suppress(OSError), path.open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {shown(text)}\n")

    try:
        yield write
    except BaseException as error:
        write(f"stopped: {type(error).__name__}: {error}")
        raise
