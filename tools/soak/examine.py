"""Whether a file is complete, and holds what the file of an uninterrupted run holds or begins with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import torch
from safetensors.torch import load_file
from smoothflow.integrators.checkpoint import read_checkpoint
from smoothflow.molecules.frames import COLUMNS
from smoothflow.molecules.frames_file import read_frames
from smoothflow.potentials.model_file import read_model
from smoothflow.studies.comparison.cell import read_measured


def content(path: Path) -> dict[str, Any]:
    """What a file holds, as arrays by name; raises if it is not complete or cannot be read."""
    match path.suffix:
        case ".h5":
            frames = read_frames(path)
            return {name: getattr(frames, name) for name in COLUMNS if getattr(frames, name) is not None}
        case ".csv":
            text = path.read_text(encoding="utf-8")
            if not text.endswith("\n"):
                raise ValueError("the last line is not complete")
            # how long it took is another number each time
            return {"lines": np.array([line for line in text.splitlines() if "training_seconds" not in line])}
        case ".xtc" | ".dcd":
            kind = mdtraj.formats.XTCTrajectoryFile if path.suffix == ".xtc" else mdtraj.formats.DCDTrajectoryFile
            if path.stat().st_size == 0:
                return {"xyz": np.zeros((0,))}
            with kind(str(path)) as file:
                return {"xyz": file.read()[0]}
        case ".safetensors":
            read_model(path)
            return dict(load_file(path))
        case ".checkpoint":
            read_checkpoint(path)
            return dict(load_file(path))
        case ".ckpt":
            return dict(tensors(torch.load(path, weights_only=True)))
        case ".yaml":
            return {"text": path.read_text(encoding="utf-8")}
        case ".json" if path.name in ("evaluation.json", "reference.json"):
            found = read_measured(path)
            assert found is not None
            return {name: value for name, value in found.to_dict()["metrics"].items() if name != "training_seconds"}
        case ".json":
            return {"is json": bool(json.loads(path.read_text(encoding="utf-8")))}
        case ".png" | ".html" | ".log" | ".md":
            end = {".png": b"IEND\xaeB`\x82", ".html": b"</html>", ".log": b"", ".md": b""}[path.suffix]
            if not path.read_bytes().rstrip(b"\n").endswith(end):
                raise ValueError("the end is missing")
            return {}
    raise ValueError("nothing is known of such a file")


GROWING = (".h5", ".csv", ".xtc", ".dcd")
"""Files that hold the beginning of the uninterrupted run's; others are replaced as a whole."""


def tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from tensors(item, f"{name}/{key}")


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, np.ndarray):
        return np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")
    return bool(ours == theirs)


def files(folder: Path) -> list[Path]:
    """All files under their final names."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".part"
    ]


def difference(path: Path, whole: Path, at_end: bool) -> str:
    """Where a file differs from that of the uninterrupted run, which it must equal in the end and begin before.

    Raises:
        Exception: Any, if the file is not complete or cannot be read.
    """
    ours = content(path)
    if not at_end and path.suffix not in GROWING:
        return ""
    if not whole.exists():
        return "the uninterrupted run has no such file"
    if not at_end and path.name == "comparison.csv":
        # the rows of the cells that there are, and those of the force field behind them
        return "" if set(ours["lines"]) <= set(content(whole)["lines"]) else "lines"
    for name, theirs in content(whole).items():
        if name not in ours:
            return f"it has no {name}"
        mine = ours[name]
        begun = not at_end and len(mine) <= len(theirs)
        # a file in which nothing is yet begins like any
        if not (begun and len(mine) == 0) and not same(mine, theirs[: len(mine)] if begun else theirs):
            return name
    return ""
