"""``smoothflow info``: content of a model or a frames file, and the models that ship with the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from . import completion
from .console import print_json, print_table, say
from .options import AsJson

LISTED = {
    "forward_kl": "NLL gap, kT",
    "force_mse_data": "force MSE, (kT/nm)^2",
    "ess": "Kish ESS, raw",
}
"""Measures in the list of models, and their column headings."""


def run(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL | FRAMES",
            help="A file, or a model's name; by default, models are listed.",
            autocompletion=completion.FILES,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model or a frames file holds: molecule, charts, settings, provenance, quality; or list the models.

    Example: smoothflow info ala2-smooth
    """
    from ..core.plugins import registry

    if name is None:
        _list(as_json)
        return
    path = registry().model_path(name)
    if path.suffix == ".safetensors":
        _model(name, path, as_json)
    elif path.suffix in registry().names("loader"):
        _potential(name, path, as_json)
    else:
        _frames(path, as_json)


def _list(as_json: bool) -> None:
    """The models that are known by name."""
    from ..core.plugins import registry
    from ..potentials.model_file import read_header

    origins = {name: read_header(registry().model_path(name))["provenance"] for name in registry().names("model")}
    if as_json:
        print_json(origins)
        return
    rows = []
    for name, origin in origins.items():
        evaluation = origin.get("evaluation", {})
        rows.append([name, *(_shown(evaluation.get(key, "")) for key in LISTED), str(origin.get("licence", ""))])
    print_table("Models", ["name", *LISTED.values(), "licence"], rows)


def _model(name: str, path: Path, as_json: bool) -> None:
    from ..core.display import count_parameters
    from ..molecules.sketch import without_sketches
    from ..potentials.model_file import read_header, read_model

    header = read_header(path)
    model = read_model(path)
    n_parameters = count_parameters(model.flow)
    if as_json:
        print_json({**header, "n_parameters": n_parameters})
        return
    provenance = without_sketches(header["provenance"])
    # the header may hold anything
    measured = provenance.get("evaluation")
    evaluation = provenance.pop("evaluation") if isinstance(measured, Mapping) else {}
    print_table(
        name,
        ["property", "value"],
        [
            ["atoms", str(len(header["topology"]["atoms"]))],
            ["temperature", f"{header['temperature']} K"],
            *([["temperatures", str(model.temperature_range)]] if model.temperature_range is not None else []),
            ["parameters", str(n_parameters)],
            *([label, _shown(value)] for label, value in _flat(header["settings"])),
            *[[f"plug-in {name}", f"{p['distribution']} {p['version']}"] for name, p in header["plugins"].items()],
        ],
    )
    if evaluation:
        print_table(
            f"Evaluation on {_frames_are(evaluation)} and samples, in kT and nm",
            ["quantity", "value"],
            [[label, _shown(value)] for label, value in _flat(evaluation)],
        )
    print_table(
        "How it came to be", ["property", "value"], [[label, _shown(leaf)] for label, leaf in _flat(provenance)]
    )
    print_table(
        "Charts",
        ["column", "kind", "location", "scale"],
        [
            [column.name, chart["kind"], f"{chart['location']:.6g}", f"{chart['scale']:.6g}"]
            for column, chart in zip(model.coordinates.codomain, header["charts"], strict=True)
        ],
    )
    say("Lengths in nm, angles and torsions in radians.")


def _potential(name: str, path: Path, as_json: bool) -> None:
    """Content of a file of any loader."""
    from ..core.plugins import registry

    reader = registry().entry("loader", path.suffix)
    potential = registry().load(path)
    molecule = potential.topology
    found = {
        "potential": type(potential).__name__,
        "atoms": "any" if molecule is None else str(len(molecule)),
        "elements": "" if molecule is None else " ".join(molecule.elements),
        "read by": f"{reader.distribution} {reader.version}",
    }
    if as_json:
        print_json(found)
    else:
        print_table(name, ["property", "value"], [list(item) for item in found.items()])


def _frames_are(evaluation: Mapping[str, Any]) -> str:
    from ..molecules.sketch import Origin

    # models of earlier versions do not say; their publishers called the frames held-out
    known = {origin.value for origin in Origin}
    said = evaluation.get("frames_are", Origin.HELD_OUT.value)
    return said if said in known else Origin.UNKNOWN.value


def _flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The leaves of nested mappings, each with its path; a number with its error is one leaf."""
    for name, value in tree.items():
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            value = {_label(item, i): item for i, item in enumerate(value)}
        if isinstance(value, Mapping) and value and not _is_estimate(value):
            yield from ((f"{name}.{label}", leaf) for label, leaf in _flat(value))
        else:
            yield name, value


def _label(item: Mapping[str, Any], index: int) -> str:
    """Key of an item in a list: its name or names, or its index."""
    names = item.get("names")
    return str(item.get("name") or (" and ".join(map(str, names)) if isinstance(names, list) else "") or index)


def _is_estimate(value: Any) -> bool:
    if not isinstance(value, Mapping) or not {"value", "error", "n"} <= set(value):
        return False
    return all(value[name] is None or isinstance(value[name], (int, float)) for name in ("value", "error"))


def _shown(value: Any) -> str:
    from ..analysis.estimates import format_measured

    if _is_estimate(value) and value["value"] is not None:
        return format_measured(value["value"], float("nan") if value["error"] is None else value["error"])
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _frames(path: Path, as_json: bool) -> None:
    from ..molecules.frames_file import describe_frames

    description: dict[str, Any] = describe_frames(path)
    if as_json:
        print_json(description)
        return
    print_table(str(path), ["property", "value"], [[name, str(value)] for name, value in description.items()])
