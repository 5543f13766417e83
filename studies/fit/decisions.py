"""The decisions of a fit with their reasons and times, recorded when they are made and read when the fit is resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import FileFormatError
from ...core.files import read_json, require_own_folder, write_json
from ...runs.provenance import require_same_run

STATE = "fit.json"
MARK = b'"fit": 1'
"""Text in the file that marks a folder as a fit's."""

Clock = Callable[[], float]
"""Seconds since some fixed time."""


class Decisions:
    """The decisions of one fit, by name.

    A decision that depends on a measurement (a speed, a time, an efficiency) is made once: a resumed fit reads it here,
    so that it does the same as one that was never interrupted.

    Args:
        folder: The fit's folder.
        identity: What makes the fit this one, in JSON types.
        clock: Returns the time.
        log: Receives lines of text.

    Raises:
        ConfigurationError: If the folder is another fit's, or is not a fit's and has files that one would replace.
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
        """An earlier decision of that name, or a new one.

        Args:
            name: Name of the decision.
            decide: Returns the decision, in JSON types, and its reason, as a line of text.
        """
        if name not in self._made:
            value, why = decide()
            self._made[name] = {"value": value, "why": why, "seconds": round(self.seconds, 3)}
            self._write()
            self._log(why)
        return self._made[name]["value"]

    def __getitem__(self, name: str) -> Any:
        """An earlier decision."""
        return self._made[name]["value"]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """All decisions in order: time, as text, and reason."""
        return [(f"{each['seconds'] / 60:.1f} min", str(each["why"])) for each in self._made.values()]

    def _write(self) -> None:
        state = {"fit": 1, "identity": self._identity, "decisions": self._made}
        write_json(self.path, state)

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
    """Raise a `ConfigurationError` if a folder is not a fit's and has files that one would replace."""
    require_own_folder(folder, names, {STATE: MARK}, "a fit")
