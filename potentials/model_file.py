"""Model files: a flow potential in one safetensors file, architecture and provenance in its header.

Nothing in the file is code, and nothing is unpickled: opening a stranger's model is safe.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..coordinates.internal import InternalCoordinates
from ..coordinates.zmatrix import ZMatrix
from ..core.architecture import FlowSettings, build_flow
from ..core.charts import Chart, ColumnChart
from ..core.errors import (
    ConfigurationError,
    FileFormatError,
    ManifoldError,
    PluginError,
    SmoothflowError,
    TopologyError,
)
from ..core.files import parse_json, require_safetensors, write_atomically
from ..core.layers import Sequential
from ..core.plugins import PotentialLoader, hookimpl, registry
from ..core.text import REQUIREMENT, VERSION
from ..core.topology import Topology
from .flow_potential import FlowPotential
from .temperatures import TemperatureRange

FORMAT = "smoothflow-model"
SCHEMA = 3
"""The newest; models of one temperature are written in schema 2, which earlier versions read."""

PARTS: dict[str, type | tuple[type, ...]] = {
    "settings": dict,
    "charts": list,
    "zmatrix": list,
    "topology": dict,
    "temperature": (int, float),
    "plugins": dict,
    "provenance": dict,
}
"""What a header must hold, and of which type."""


def save_model(
    potential: FlowPotential,
    path: str | Path | FlowSettings,
    provenance: Mapping[str, Any] | str | Path | None = None,
    *deprecated: Mapping[str, Any],
    settings: FlowSettings | None = None,
) -> None:
    """Write a model file, complete or not at all; what `read_model` would refuse is not written.

    Args:
        potential: What to save; its flow must have been built by `build_flow` and begin with a `Chart`.
        path: The file's final name.
        provenance: How the model came to be, in JSON types.
        deprecated: Version 0.1 took the settings of the flow before the path; in the next version it is an error.
        settings: The same by keyword.

    Raises:
        ConfigurationError: If the potential is not a flow, or settings are given that are not the flow's.
        FileFormatError: If the model could not be loaded again, or the file cannot be written.
    """
    if isinstance(path, FlowSettings):
        settings, path, provenance = path, provenance, deprecated[0] if deprecated else {}  # type: ignore[assignment]
    if settings is not None:
        warnings.warn("The flow knows its settings: call save_model(potential, path).", DeprecationWarning, 2)
    if not isinstance(path, str | Path) or isinstance(provenance, str | Path):
        raise ConfigurationError("A model is saved by save_model(potential, path), or with its provenance behind.")
    if not isinstance(potential, FlowPotential):
        raise ConfigurationError(f"A model file holds a flow, and this is a {type(potential).__name__}. Save its flow.")
    own = potential.flow.settings
    if own is None:
        raise FileFormatError("Only flows that build_flow made can be saved: others do not know their architecture.")
    if settings is not None and settings != own:
        raise ConfigurationError(
            f"The settings are not those of the flow: they are {settings}, and the flow was built from {own}. Leave "
            "them out."
        )
    content = _content(potential, own, dict(provenance or {}))
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / "model.safetensors"
        write_atomically(trial, content)
        try:
            read_model(trial)
        except SmoothflowError as error:
            reason = str(error).replace(str(trial), str(path))
            raise FileFormatError(f"The model cannot be saved, since nobody could load it: {reason}") from error
    write_atomically(Path(path), content)


def _content(potential: FlowPotential, settings: FlowSettings, provenance: dict[str, Any]) -> bytes:
    """The bytes of a model file."""
    layer = potential.flow.layer
    chart = layer.layers[0] if isinstance(layer, Sequential) else layer
    if not isinstance(chart, Chart):
        raise FileFormatError("Only flows that start with a Chart can be saved as a model of a molecule.")
    described = asdict(settings)
    temperatures: dict[str, Any] = {}
    if potential.temperature_range is not None:
        temperatures["temperature_range"] = list(astuple(potential.temperature_range))
    elif settings.context > 0:
        raise FileFormatError(
            "A model file holds a flow of one temperature or of a range of them: a flow of another context has no file."
        )
    else:
        # earlier versions do not know it
        del described["context"]
    header: dict[str, Any] = {
        "format": FORMAT,
        "schema": SCHEMA if temperatures else 2,
        "settings": described,
        "charts": [asdict(column) for column in chart.columns],
        "zmatrix": [list(row) for row in potential.coordinates.zmatrix.rows],
        "topology": potential.topology.to_dict() if potential.topology else None,
        "temperature": potential.temperature,
        **temperatures,
        "units": {"length": "nm", "energy": "kJ/mol", "angle": "radian", "temperature": "K"},
        "plugins": {
            name: {"distribution": entry.distribution, "version": entry.version}
            for name in sorted(set(settings.transforms.values()))
            for entry in [registry().entry("transform", name)]
        },
        "provenance": provenance,
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in potential.flow.state_dict().items()}
    try:
        return save(tensors, metadata={"smoothflow": json.dumps(header)})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"The settings or the provenance of the model are not in JSON types: {error}."
        ) from error


def add_provenance(source: str | Path, destination: str | Path, provenance: Mapping[str, Any]) -> None:
    """Write a copy of a model file that tells more of how it came to be; the weights are the same to the last bit.

    Args:
        source: A model file.
        destination: The copy's final name; it is complete or not there.
        provenance: What to add, in JSON types; what the model says of itself under the same names is replaced.

    Raises:
        FileFormatError: As `read_model` does, or if the copy cannot be written.
    """
    read_model(source)  # what is damaged is not passed on
    header = read_header(source)
    header["provenance"] = {**header["provenance"], **provenance}
    with safe_open(Path(source), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    write_atomically(Path(destination), save(tensors, metadata={"smoothflow": json.dumps(header)}))


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a model file: architecture, charts, topology, temperature (and its range), plug-ins and provenance.

    Raises:
        FileFormatError: If the file is missing, truncated, not a model, or of a newer schema.
    """
    path = Path(path)
    try:
        # opening a pipe would wait for whoever writes into it
        if path.exists() and not path.is_file():
            raise FileFormatError(f'"{path}" is not a file. Give the path of a model written by "smoothflow train".')
        require_safetensors(path, "smoothflow model")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        header = parse_json(metadata["smoothflow"])
    except FileNotFoundError as error:
        raise FileFormatError(
            f'There is no file "{path}". Give the path of a model written by "smoothflow train".'
        ) from error
    except OSError as error:
        raise FileFormatError(f'"{path}" cannot be read: {error.strerror or error}.') from error
    except (SafetensorError, KeyError, ValueError) as error:
        raise FileFormatError(
            f'"{path}" is not a smoothflow model, or it is truncated ({type(error).__name__}: {error}). '
            'Give a file written by "smoothflow train".'
        ) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise FileFormatError(f'"{path}" is a safetensors file, but not a smoothflow model.')
    if not isinstance(header.get("schema"), int) or not 1 <= header["schema"] <= SCHEMA:
        raise FileFormatError(
            f'"{path}" has schema {header.get("schema")}; this version reads up to {SCHEMA}. Update smoothflow.'
        )
    for name, kind in PARTS.items():
        if not isinstance(header.get(name), kind):
            raise FileFormatError(f'The header of "{path}" is damaged: it has no {name}, or none that can be read.')
    for transform, origin in header["plugins"].items():
        # they are printed, and one is part of a command
        if not isinstance(origin, dict) or not (
            _matches(REQUIREMENT, origin.get("distribution")) and _matches(VERSION, origin.get("version"))
        ):
            raise FileFormatError(
                f'The header of "{path}" is damaged: it names no distribution and version that could be installed for '
                f'the transform "{transform}".'
            )
    if not 0 < header["temperature"] < math.inf:
        raise FileFormatError(f'The header of "{path}" is damaged: its temperature is {header["temperature"]} K.')
    return header


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def read_model(
    path: str | Path, dtype: torch.dtype = torch.float64, device: str | torch.device = "cpu"
) -> FlowPotential:
    """The potential in a model file, ready to evaluate.

    Args:
        path: A file written by `save_model`.
        dtype: Precision of weights and coordinates; float64 for molecular dynamics.
        device: Where to put it.

    Returns:
        At the temperature of its header; `FlowPotential.at_temperature` gives it at others, if it is of a range.

    Raises:
        FileFormatError: If the file is missing, damaged, not a model, or does not fit its own header.
        PluginError: If a plug-in that supplied a transform is not installed; says which distribution to install.
    """
    header = read_header(path)
    _require_plugins(header, Path(path))
    try:
        topology = Topology.from_dict(header["topology"])
        coordinates = InternalCoordinates(topology, ZMatrix(header["zmatrix"]))
        # flows of versions 0.1 and 0.2 had no shear
        settings = FlowSettings(**{"shear": False, **header["settings"]})
        charts = [ColumnChart(**column) for column in header["charts"]]
        temperature, temperatures = float(header["temperature"]), _temperatures(header)
        with safe_open(Path(path), framework="pt") as file:
            stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(weight.get_shape()) for name, weight in stored.items()}
            # without memory for the weights, so that a header that lies about its size costs nothing
            with torch.device("meta"):
                sketch = build_flow(settings, Chart(coordinates.codomain, charts)).state_dict()
            expected = {name: tuple(value.shape) for name, value in sketch.items()}
            if shapes != expected:
                wrong = sorted(set(shapes.items()) ^ set(expected.items()))[0]
                raise FileFormatError(
                    f'The weights in "{path}" do not fit the architecture in its header (first at {wrong[0]}). '
                    "The file is damaged; get it again."
                )
            for name, weight in stored.items():
                if weight.get_dtype() not in ("F32", "F64"):
                    raise FileFormatError(
                        f'The weight {name} in "{path}" has type {weight.get_dtype()}, not F32 or F64. The file is '
                        "damaged; get it again."
                    )
            flow = build_flow(settings, Chart(coordinates.codomain, charts))
            weights = {name: file.get_tensor(name) for name in shapes}
        potential = FlowPotential(flow, coordinates, temperature, temperatures)
    except (ConfigurationError, ManifoldError, TopologyError) as error:
        raise FileFormatError(f'The header of "{path}" does not describe a model that can be built: {error}') from error
    except (
        SafetensorError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise FileFormatError(
            f'The header of "{path}" is damaged ({type(error).__name__}: {error}). Get the file again.'
        ) from error
    for name, weight in weights.items():
        if not bool(torch.isfinite(weight).all()):
            raise FileFormatError(f'The weight {name} in "{path}" is not finite. The file is damaged; get it again.')
    flow.load_state_dict(weights)
    return potential.to(device=device, dtype=dtype).requires_grad_(False).eval()


def _temperatures(header: Mapping[str, Any]) -> TemperatureRange | None:
    """The range of temperatures of a model, if it is one of several; raises a `ConfigurationError` otherwise."""
    if "temperature_range" not in header:
        return None
    lowest, highest = header["temperature_range"]
    return TemperatureRange(float(lowest), float(highest))


def _require_plugins(header: Mapping[str, Any], path: Path) -> None:
    for name, origin in header["plugins"].items():
        try:
            registry().transform(name)
        except SmoothflowError as error:
            distribution = origin["distribution"]
            raise PluginError(
                f'The model "{path}" uses the transform "{name}" of {distribution} {origin["version"]}, which cannot '
                f"be had here: {error} If you know who publishes {distribution}, and trust them, install it with: "
                f"pip install {distribution}."
            ) from error


@hookimpl
def smoothflow_loaders() -> Mapping[str, PotentialLoader]:
    return {".safetensors": read_model}
