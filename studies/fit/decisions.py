"""What a fit decided, why, and when: written down as it is decided, and read again when the fit goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import FileFormatError
from ...core.files import read_json, require_own_folder, write_atomically
from ...runs.provenance import require_same_run

STATE = "fit.json"
MARK = b'"fit": 1'
"""What the file has that makes a folder a fit's."""

Clock = Callable[[], float]
"""Seconds since some fixed time."""


class Decisions:
    """The decisions of one fit, by name.

    Whatever a fit decides by what it measures (a speed, a time, an efficiency) is decided once: a fit that goes on
    reads it here, so that it does the same as one that was never interrupted.

    Args:
        folder: The fit's folder.
        identity: What makes the fit this one, in JSON types.
        clock: Tells the time.
        log: Takes lines of text.

    Raises:
        ConfigurationError: If the folder is another fit's, or has files that a fit would replace and is none.
        FileFormatError: If the file is damaged or cannot be written.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], clock: Clock, log: Callable[[str], None]) -> None:
        self.path = folder / STATE
        self._identity = dict(identity)
        self._clock = clock
        self._log = log
        self._made: dict[str, dict[str, Any]] = {}
        if self.path.exists():
            self._read(folder)
        # the time of earlier stretches, up to their last decisions
        before = [float(each["seconds"]) for each in self._made.values()]
        self._before = max(before, default=0.0)
        self._began = clock()

    @property
    def seconds(self) -> float:
        """Wall-clock time of the fit so far, over all stretches."""
        return self._before + self._clock() - self._began

    def make(self, name: str, decide: Callable[[], tuple[Any, str]]) -> Any:
        """What was decided, or what is decided now.

        Args:
            name: Name of the decision.
            decide: Returns it, in JSON types, and why, as a line for people.
        """
        if name not in self._made:
            value, why = decide()
            self._made[name] = {"value": value, "why": why, "seconds": round(self.seconds, 3)}
            self._write()
            self._log(why)
        return self._made[name]["value"]

    def __getitem__(self, name: str) -> Any:
        """What was decided before."""
        return self._made[name]["value"]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """All decisions in order: when, for people, and why."""
        return [(f"{each['seconds'] / 60:.1f} min", str(each["why"])) for each in self._made.values()]

    def _write(self) -> None:
        state = {"fit": 1, "identity": self._identity, "decisions": self._made}
        write_atomically(self.path, json.dumps(state, indent=1).encode())

    def _read(self, folder: Path) -> None:
        state = read_json(self.path)
        try:
            there, made = dict(state["identity"]), dict(state["decisions"])
            self._made = {
                str(name): {"value": each["value"], "why": str(each["why"]), "seconds": float(each["seconds"])}
                for name, each in made.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f'"{self.path}" is damaged: {error}. Start again in another folder.') from error
        require_same_run(f'The folder "{folder}"', there, self._identity)


def require_fit_folder(folder: Path, names: list[str]) -> None:
    """Raise a `ConfigurationError` if a folder has files that a fit would replace, and is not a fit's."""
    require_own_folder(folder, names, {STATE: MARK}, "a fit")
