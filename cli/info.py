"""``smoothflow info``: what is in a model or a frames file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..core.errors import FileFormatError
from . import completion
from .console import print_json, print_table, results
from .options import AsJson


def run(
    path: Annotated[
        Path,
        typer.Argument(
            help="A model or a frames file.", autocompletion=completion.files(".safetensors", ".h5", ".hdf5")
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Say what a model or a frames file holds: molecule, charts, settings, provenance.

    Example: smoothflow info smoothflow-demo/smooth/model.safetensors
    """
    if not path.is_file():
        raise FileFormatError(f'There is no file "{path}". Give a model (.safetensors) or a frames file (.h5).')
    if path.suffix == ".safetensors":
        _model(path, as_json)
    else:
        _frames(path, as_json)


def _model(path: Path, as_json: bool) -> None:
    from ..potentials.model_file import load_model, read_header

    header = read_header(path)
    model = load_model(path)
    n_parameters = sum(parameter.numel() for parameter in model.flow.parameters())
    if as_json:
        print_json({**header, "n_parameters": n_parameters})
        return
    print_table(
        str(path),
        ["property", "value"],
        [
            ["atoms", str(len(header["topology"]["atoms"]))],
            ["temperature", f"{header['temperature']} K"],
            ["parameters", str(n_parameters)],
            *[[name, str(value)] for name, value in header["settings"].items()],
            *[[f"plug-in {name}", f"{p['distribution']} {p['version']}"] for name, p in header["plugins"].items()],
            *[[f"provenance: {name}", str(value)] for name, value in header["provenance"].items()],
        ],
    )
    print_table(
        "Charts",
        ["column", "kind", "location", "scale"],
        [
            [column.name, chart["kind"], f"{chart['location']:.6g}", f"{chart['scale']:.6g}"]
            for column, chart in zip(model.coordinates.codomain, header["charts"], strict=True)
        ],
    )
    results.print("Lengths in nm, angles and torsions in radians.")


def _frames(path: Path, as_json: bool) -> None:
    from ..training.frames_file import describe_frames

    description: dict[str, Any] = describe_frames(path)
    if as_json:
        print_json(description)
        return
    print_table(str(path), ["property", "value"], [[name, str(value)] for name, value in description.items()])
