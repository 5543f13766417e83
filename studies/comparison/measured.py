"""Results of one potential, kept in one file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...analysis.estimates import Estimate, as_text, read_estimate
from ...core.errors import FileFormatError
from ...core.files import read_json, write_json
from ..report import Picture


@dataclass(frozen=True)
class NVERuns:
    """Total energies of NVE runs.

    Attributes:
        times: ps.
        total_energy: kJ/mol.
    """

    times: Float[Tensor, "frames"]
    total_energy: Float[Tensor, "frames replicas"]


@dataclass(frozen=True)
class Measured:
    """Results of one potential, as they are kept in a file.

    Attributes:
        title: The cell, as ``transform/objective``, or the force field.
        metrics: Numbers by name; what could not be measured is missing.
        breakdowns: For each stage that broke down, how.
        verdict: Why errors of the evaluation do not hold; empty if they do.
        nve: Energies in the NVE runs, if they did not break down.
        pictures: Title, caption and file, in the folder.
        identity: What the numbers depend on: digests of the frames, and settings.
        origin: Command, commit and machine.
        folder: Folder of the file and the pictures.
    """

    title: str
    identity: Mapping[str, Any]
    origin: Mapping[str, str]
    folder: Path
    metrics: dict[str, Estimate] = field(default_factory=dict)
    breakdowns: dict[str, str] = field(default_factory=dict)
    verdict: list[str] = field(default_factory=list)
    nve: NVERuns | None = None
    pictures: tuple[tuple[str, str, str], ...] = ()

    def read_pictures(self) -> list[Picture]:
        """The pictures in the folder."""
        return [Picture(title, caption, (self.folder / name).read_bytes()) for title, caption, name in self.pictures]

    def to_dict(self) -> dict[str, Any]:
        """All but the folder in plain JSON types; numbers that are not finite as text."""
        kept = None
        if self.nve is not None:
            # 1e-6 kJ/mol is far below any fluctuation
            energies = [[round(value, 6) for value in row] for row in self.nve.total_energy.double().tolist()]
            kept = {"times": self.nve.times.tolist(), "total_energy": energies}
        return {
            "title": self.title,
            "identity": dict(self.identity),
            "origin": dict(self.origin),
            "metrics": {
                name: {key: as_text(value) for key, value in _kept(found).items()}
                for name, found in self.metrics.items()
            },
            "breakdowns": self.breakdowns,
            "verdict": self.verdict,
            "pictures": [list(picture) for picture in self.pictures],
            "nve": kept,
        }


def read_measured(path: Path) -> Measured | None:
    """The results in a file; None if there is none.

    Raises:
        FileFormatError: If it is damaged.
    """
    if not path.exists():
        return None
    try:
        data = read_json(path)
        kept = data["nve"]
        return Measured(
            title=data["title"],
            identity=data["identity"],
            origin=data["origin"],
            folder=path.parent,
            metrics={name: read_estimate(found) for name, found in data["metrics"].items()},
            breakdowns=data["breakdowns"],
            # files of earlier versions have none
            verdict=[str(reason) for reason in data.get("verdict", ())],
            nve=None if kept is None else NVERuns(torch.tensor(kept["times"]), torch.tensor(kept["total_energy"])),
            # only names of files in the folder: a path would show any file it leads to
            pictures=tuple((title, caption, Path(name).name) for title, caption, name in data["pictures"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f'"{path}" is damaged: {error}. Remove it to measure again.') from error


def write_measured(found: Measured, path: Path) -> Measured:
    """Write the results to a file, whole or not at all, and return them."""
    write_json(path, found.to_dict())
    return found


def _kept(found: Estimate) -> dict[str, Any]:
    """The fields of an estimate; reason and interval only where there are some."""
    return {key: value for key, value in asdict(found).items() if value not in ("", None)}
