"""Errors that say what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class SmoothflowError(Exception):
    """Base of every error that this package raises on purpose; its message is meant for the user."""


class ConfigurationError(SmoothflowError):
    """An option, a name or a combination of settings that cannot work."""


class UnknownNameError(ConfigurationError):
    """A name that no plug-in registered.

    Args:
        kind: What kind of thing has the name.
        name: The unknown one.
        known: Those that there are.
        meant: What else may have been meant, if none of the known ones is near.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str], meant: str | None = None) -> None:
        known = sorted(known)
        near = [*difflib.get_close_matches(name, known, n=1), *([meant] if meant else [])]
        hint = f' Did you mean "{near[0]}"?' if near else ""
        super().__init__(f'No {kind} is called "{name}".{hint} Known: {", ".join(known) or "none"}.')


class MissingDependencyError(SmoothflowError):
    """A feature was asked for whose extra is not installed."""

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(
            f'{feature} needs the package "{package}", which is not installed. '
            f"Install it with: pip install 'smoothflow[{extra}]'."
        )


class PluginError(SmoothflowError):
    """A plug-in that could not be loaded, or that broke the contract of its hook."""


class ManifoldError(SmoothflowError):
    """A value outside its manifold, or a transform asked for a manifold that it does not map."""


class InversionError(SmoothflowError):
    """A root finder that did not converge."""


class TopologyError(SmoothflowError):
    """A molecule that cannot be used as it is, or that does not match what it is used with."""


class GeometryError(SmoothflowError):
    """Positions that define no internal coordinates: not finite, overlapping or collinear atoms."""


class FileFormatError(SmoothflowError):
    """A file that is missing, truncated, of another format or of a newer schema."""


class TrainingError(SmoothflowError):
    """A training run that cannot go on."""


class SimulationError(SmoothflowError):
    """A simulation that cannot go on: energies or forces that are not finite."""


class CompilationError(SmoothflowError):
    """Compiled code that cannot be made here, that differs from what it was made of, or that needs another machine."""


class BenchmarkError(SmoothflowError):
    """A benchmark that failed."""


class ConformanceError(SmoothflowError):
    """A part that breaks a clause of its contract.

    Attributes:
        clause: Name of the clause.
        message: What is wrong.
        inputs: Where it broke, as text.
        numbers: What was measured there.
        advice: What a break of this clause does to a user, and where to look.
    """

    def __init__(
        self, subject: str, clause: str, message: str, inputs: str, numbers: Mapping[str, float], advice: str = ""
    ) -> None:
        self.clause = clause
        self.message = message
        self.inputs = inputs
        self.numbers = dict(numbers)
        self.advice = advice
        measured = ", ".join(f"{name} = {value:.6g}" for name, value in numbers.items())
        parts = [f'{subject} breaks the clause "{clause}": {message}']
        parts += [f"Numbers: {measured}."] if measured else []
        parts += [f"Input: {inputs}."] if inputs else []
        parts += [advice] if advice else []
        super().__init__(" ".join(parts))


class RenamedWarning(DeprecationWarning):
    """Something was asked for by an old name; the command line shows it, though Python keeps it for programmers."""
