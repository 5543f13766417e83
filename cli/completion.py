"""Completion of values in a shell: names of plug-ins and suitable files, found without importing torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable
from importlib.metadata import entry_points
from pathlib import Path

from ..core.errors import FileFormatError, MissingDependencyError
from ..molecules.shipped import molecule_names
from ..studies.physics.settings import PHYSICS_TESTS

Complete = Callable[[str], list[str]]
"""Maps the beginning of a value to the values that begin with it."""

FOLDERS = 100
"""Largest number of folders searched for files, the nearest first."""


def names(kind: str) -> list[str]:
    """Names of a kind of plug-in, or of the kinds "target", toy targets, and "preset", grids to compare.

    Finding them takes seconds, since plug-ins and torch must be imported. So they are kept in the user's cache, under a
    name that changes with what is installed.
    """
    try:
        kept: dict[str, list[str]] = json.loads(_cache().read_text(encoding="utf-8"))
        return kept[kind]
    except (OSError, ValueError, KeyError, TypeError):
        return keep_names()[kind]


def keep_names() -> dict[str, list[str]]:
    """Find all names anew and, if the cache can be written, keep them for completion."""
    from ..core.files import write_atomically
    from ..core.plugins import KINDS, registry
    from ..potentials.toys import TOYS

    found: dict[str, list[str]] = {kind: registry().names(kind) for kind in KINDS}
    found["target"], found["preset"] = sorted(TOYS), []
    with contextlib.suppress(MissingDependencyError):
        from ..studies.comparison.settings import preset_names

        found["preset"] = preset_names()
    cache = _cache()
    with contextlib.suppress(OSError, FileFormatError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(cache, json.dumps(found).encode("utf-8"))
    return found


def _cache() -> Path:
    installed = [(p.name, p.value, p.dist.version if p.dist else "") for p in entry_points(group="smoothflow")]
    key = hashlib.sha256(repr((sorted(installed), os.environ.get("SMOOTHFLOW_PLUGINS"))).encode("utf-8")).hexdigest()
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "smoothflow" / f"names-{key[:16]}.json"


def files(*suffixes: str) -> Complete:
    """Completes the path of a file with one of the suffixes, in the folder typed or in one below it."""

    def complete(incomplete: str) -> list[str]:
        return _found(incomplete, suffixes)

    return complete


def _found(incomplete: str, suffixes: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    folders = deque([incomplete[: incomplete.rfind("/") + 1]])
    for _ in range(FOLDERS):
        if not folders:
            break
        folder = folders.popleft()
        with contextlib.suppress(OSError), os.scandir(folder or ".") as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder + entry.name
                if entry.name.startswith(".") or not path.startswith(incomplete):
                    continue
                if entry.is_dir():
                    folders.append(f"{path}/")
                elif entry.name.endswith(suffixes):
                    found.append(path)
    return found


def _chosen(values: Callable[[], Iterable[str]]) -> Complete:
    """Completes a value, or the last one in a list with commas."""

    def complete(incomplete: str) -> list[str]:
        before = incomplete[: incomplete.rfind(",") + 1]
        return [before + value for value in values() if (before + value).startswith(incomplete)]

    return complete


def _any_of(*parts: Complete) -> Complete:
    def complete(incomplete: str) -> list[str]:
        return [value for part in parts for value in part(incomplete)]

    return complete


TRANSFORMS = _chosen(lambda: names("transform"))
ENGINES = _chosen(lambda: names("engine"))
INTEGRATORS = _chosen(lambda: names("integrator"))
TARGETS = _chosen(lambda: names("target"))
PRESETS = _any_of(_chosen(lambda: names("preset")), files(".yaml", ".yml"))
PROVIDERS = _chosen(lambda: [f"{name}:" for name in names("provider")])
TESTS = _chosen(lambda: PHYSICS_TESTS)
PACKAGES = files(".pt2")
FRAMES = files(".h5", ".hdf5")
STARTS = files(".h5", ".hdf5", ".pdb", ".cif", ".sdf")
SETTINGS = files(".yaml", ".yml")
MEASUREMENTS = files(".json")
STRUCTURES = _any_of(_chosen(molecule_names), files(".pdb", ".cif", ".sdf", ".smi"))
MODELS = _any_of(_chosen(lambda: names("model")), files(".safetensors"))
FILES = _any_of(MODELS, FRAMES)
SUBJECTS = _any_of(TRANSFORMS, INTEGRATORS, ENGINES, PROVIDERS, MODELS, PACKAGES)
