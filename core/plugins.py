"""Hook specifications, and the registry through which everything pluggable is found by name."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, Protocol

import pluggy

from .engine import Engine
from .errors import FileFormatError, PluginError, RenamedWarning, UnknownNameError
from .hooks import GROUP
from .hooks import hookimpl as hookimpl
from .integrator import Integrator
from .potential import Potential
from .transforms import Transform

hookspec = pluggy.HookspecMarker(GROUP)

Kind = Literal["transform", "provider", "integrator", "engine", "loader", "model"]


class PotentialProvider(Protocol):
    """Makes a potential from the text after the colon in ``name:argument`` and a structure file (PDB).

    An attribute ``arguments`` may list arguments that are easily taken for names, for hints: ``ase`` has ``tblite``.
    """

    def __call__(self, argument: str, structure: Path) -> Potential: ...


class PotentialLoader(Protocol):
    """Reads a potential from a file."""

    def __call__(self, path: Path) -> Potential: ...


class Hooks:
    """The hooks that a plug-in may implement; each returns a mapping from names to what it offers."""

    @hookspec
    def smoothflow_transforms(self) -> Mapping[str, type[Transform]]:  # type: ignore[empty-body]
        """Transforms, by the name that configurations use."""

    @hookspec
    def smoothflow_providers(self) -> Mapping[str, PotentialProvider]:  # type: ignore[empty-body]
        """Providers of potentials: force fields and calculators of other programs."""

    @hookspec
    def smoothflow_integrators(self) -> Mapping[str, type[Integrator]]:  # type: ignore[empty-body]
        """Integrators of the equations of motion."""

    @hookspec
    def smoothflow_engines(self) -> Mapping[str, type[Engine]]:  # type: ignore[empty-body]
        """Engines: ways to run molecular dynamics with any potential."""

    @hookspec
    def smoothflow_loaders(self) -> Mapping[str, PotentialLoader]:  # type: ignore[empty-body]
        """Readers of files with a potential inside, by suffix, like ``.safetensors``."""

    @hookspec
    def smoothflow_models(self) -> Mapping[str, Path]:  # type: ignore[empty-body]
        """Files of models that come with the plug-in, by the name that is given instead of a path."""


KINDS: dict[Kind, str] = {
    "transform": "smoothflow_transforms",
    "provider": "smoothflow_providers",
    "integrator": "smoothflow_integrators",
    "engine": "smoothflow_engines",
    "loader": "smoothflow_loaders",
    "model": "smoothflow_models",
}


RENAMED: dict[tuple[Kind, str], str] = {("engine", "verlet"): "native"}
"""Names that have changed, and what to ask for now; the old ones work, with a warning, for two minor releases."""


def name_of_today(kind: Kind, name: str) -> str:
    """The name that something goes by now, which may not be the one that an older file has."""
    return RENAMED.get((kind, name), name)


@dataclass(frozen=True)
class Registered:
    """One thing that a plug-in offers, and where it comes from."""

    kind: Kind
    name: str
    value: Any
    plugin: str
    distribution: str
    version: str
    module: str
    """Name of the plug-in's module, by which its code is recognized in a traceback."""


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that could not be used, with the reason."""

    plugin: str
    distribution: str
    version: str
    error: str


class Registry:
    """Everything that plug-ins offer, by kind and name.

    A plug-in that raises on import, misspells a hook or returns the wrong type is kept in `broken` with its error and
    raises only when something is asked for by a name that nobody else supplies.
    """

    def __init__(self) -> None:
        self.entries: dict[tuple[Kind, str], Registered] = {}
        self.conflicts: dict[tuple[Kind, str], str] = {}
        self.broken: list[BrokenPlugin] = []

    def register(self, plugin: Any, name: str, distribution: str = "unknown", version: str = "unknown") -> None:
        """Take in one plug-in: a module or object whose functions are marked with ``hookimpl``."""
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(Hooks)
        try:
            module = getattr(plugin, "__name__", None) or type(plugin).__module__
            manager.register(plugin, name=name)
            manager.check_pending()
            found = [
                Registered(kind, key, value, name, distribution, version, module)
                for kind, hook in KINDS.items()
                for offered in getattr(manager.hook, hook)()
                for key, value in _checked(kind, offered).items()
            ]
        except Exception as error:
            self.broken.append(BrokenPlugin(name, distribution, version, f"{type(error).__name__}: {error}"))
            return
        for entry in found:
            key = (entry.kind, entry.name)
            if key in self.entries:
                first = self.entries[key]
                self.conflicts[key] = (
                    f'Two plug-ins offer a {entry.kind} called "{entry.name}": {first.plugin} of {first.distribution} '
                    f"and {name} of {distribution}. Uninstall one of them, or rename one."
                )
            else:
                self.entries[key] = entry

    def unregister(self, name: str) -> None:
        """Forget a plug-in that `register` took in."""
        self.entries = {key: entry for key, entry in self.entries.items() if entry.plugin != name}
        self.broken = [broken for broken in self.broken if broken.plugin != name]
        self.conflicts = {key: text for key, text in self.conflicts.items() if f" {name} of " not in text}

    def load_entry_point(self, entry_point: EntryPoint) -> None:
        """Take in the plug-in behind an installed entry point."""
        distribution = entry_point.dist.name if entry_point.dist else "unknown"
        version = entry_point.dist.version if entry_point.dist else "unknown"
        try:
            plugin = entry_point.load()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            self.broken.append(BrokenPlugin(entry_point.name, distribution, version, text))
            return
        self.register(plugin, entry_point.name, distribution, version)

    def raised_by(self, error: BaseException) -> Registered | None:
        """Something of the plug-in whose code raised an exception, or None if it was not a third party's.

        It was a plug-in's if, of all frames that are a plug-in's or this package's, the innermost is the plug-in's.
        """
        ours = __name__.partition(".")[0]
        packages = {entry.module.partition(".")[0]: entry for entry in self.entries.values()}
        found = None
        traceback = error.__traceback__
        while traceback is not None:
            package = str(traceback.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
            if package == ours:
                found = None
            elif package in packages:
                found = packages[package]
            traceback = traceback.tb_next
        return found

    def names(self, kind: Kind) -> list[str]:
        """The names on offer of one kind, sorted."""
        return sorted(name for entry_kind, name in self.entries if entry_kind == kind)

    def entry(self, kind: Kind, name: str) -> Registered:
        """What is registered under a name; an old name gives what its new one does, with a `RenamedWarning`.

        Raises:
            UnknownNameError: If nothing is.
            PluginError: If two plug-ins claim the name, or a broken plug-in bears it.
        """
        key = (kind, name)
        if key in self.conflicts:
            raise PluginError(self.conflicts[key])
        if key in self.entries:
            return self.entries[key]
        for broken in self.broken:
            if broken.plugin == name:
                raise PluginError(
                    f'The plug-in "{name}" of {broken.distribution} {broken.version} is broken: {broken.error}'
                )
        if key in RENAMED:
            warnings.warn(
                f'The {kind} "{name}" is called "{RENAMED[key]}" now. Ask for it by that name.',
                RenamedWarning,
                stacklevel=2,
            )
            return self.entry(kind, RENAMED[key])
        raise UnknownNameError(kind, name, self.names(kind), self.meant(name) if kind == "provider" else None)

    def meant(self, name: str) -> str | None:
        """``PROVIDER:ARGUMENT`` if a name is nearly one of the ``arguments`` that a provider lists."""
        known = {
            argument: f"{entry.name}:{argument}"
            for entry in self.entries.values()
            if entry.kind == "provider"
            for argument in getattr(entry.value, "arguments", ())
        }
        near = difflib.get_close_matches(name, known, n=1)
        return known[near[0]] if near else None

    def transform(self, name: str) -> type[Transform]:
        """The transform class of that name; raises as `entry` does."""
        value: type[Transform] = self.entry("transform", name).value
        return value

    def provider(self, name: str) -> PotentialProvider:
        """The provider of that name; raises as `entry` does."""
        value: PotentialProvider = self.entry("provider", name).value
        return value

    def integrator(self, name: str) -> type[Integrator]:
        """The integrator class of that name; raises as `entry` does."""
        value: type[Integrator] = self.entry("integrator", name).value
        return value

    def engine(self, name: str) -> type[Engine]:
        """The engine class of that name; raises as `entry` does."""
        value: type[Engine] = self.entry("engine", name).value
        return value

    def model_path(self, model: str | Path) -> Path:
        """The file that a path or a model's name means; where there is a file of that name, it is that file.

        Raises:
            FileFormatError: If what can only be a path leads to no file.
            UnknownNameError: If no file and no model has that name.
            PluginError: As `entry` does.
        """
        path = Path(model)
        try:
            if path.is_file():
                return path
        except OSError as error:
            raise FileFormatError(f'"{model}" cannot be read: {error.strerror}.') from error
        names = self.names("model")
        if str(model) not in names and (path.suffix or len(path.parts) > 1):
            raise FileFormatError(
                f'There is no file "{model}". Correct the path, or name a model that comes with the package: '
                f"{', '.join(names) or 'none'}."
            )
        value: Path = self.entry("model", str(model)).value
        return value

    def load(self, model: str | Path) -> Potential:
        """The potential in a file, or in the file of a model by name; the file's suffix says who reads it.

        Raises:
            UnknownNameError: If there is no such model, or nobody reads files with this suffix.
            SmoothflowError: Whatever is wrong with the path or the file.
        """
        path = self.model_path(model)
        value: PotentialLoader = self.entry("loader", path.suffix).value
        return value(path)


def _checked(kind: Kind, offered: object) -> Mapping[str, Any]:
    """What a hook returned, or a `PluginError` that says what it should have been."""
    bases = {"transform": Transform, "integrator": Integrator, "engine": Engine}
    if not isinstance(offered, Mapping):
        raise PluginError(f"{KINDS[kind]} must return a mapping of names, not {type(offered).__name__}.")
    for name, value in offered.items():
        if not isinstance(name, str):
            raise PluginError(f"{KINDS[kind]} must map names to values, but one key is {name!r}.")
        base = bases.get(kind)
        if kind == "model":
            if not isinstance(value, Path):
                raise PluginError(f'{KINDS[kind]}: "{name}" must be a path, not {type(value).__name__}.')
        elif base is None:
            if not callable(value):
                raise PluginError(f'{KINDS[kind]}: "{name}" must be callable, not {type(value).__name__}.')
        elif not (isinstance(value, type) and issubclass(value, base)):
            raise PluginError(f'{KINDS[kind]}: "{name}" must be a subclass of {base.__name__}, not {value!r}.')
    return offered


@cache
def registry() -> Registry:
    """The registry of installed plug-ins, loaded at the first call.

    The environment variable ``SMOOTHFLOW_PLUGINS`` limits third-party plug-ins to the comma-separated entry-point names
    in it; set but empty, it switches all of them off. Built-ins are always there.
    """
    allowed = os.environ.get("SMOOTHFLOW_PLUGINS")
    names = None if allowed is None else {name.strip() for name in allowed.split(",")}
    loaded = Registry()
    points = entry_points(group=GROUP)
    # ours first, so that a conflict names the newcomer second
    for point in sorted(points, key=lambda p: (p.dist is None or p.dist.name != GROUP, p.name)):
        ours = point.dist is not None and point.dist.name == GROUP
        if ours or names is None or point.name in names:
            loaded.load_entry_point(point)
    return loaded
