"""What a flow is trained on: frames of one temperature, or of each temperature of a ladder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from ..core.errors import ConfigurationError
from ..core.topology import Topology
from ..core.units import thermal_energy
from ..molecules.frames import Frames
from ..molecules.sketch import sketch
from ..potentials.temperatures import TemperatureRange, is_same
from .batches import split


@dataclass(frozen=True)
class TrainingData:
    """Frames of one molecule, numbered from the lowest temperature to the highest.

    Attributes:
        parts: The frames of each file, by temperature.
    """

    parts: tuple[Frames, ...]

    @classmethod
    def of(cls, frames: Frames | Sequence[Frames] | TrainingData) -> TrainingData:
        """Frames of one temperature, or several parts, in any order.

        Raises:
            ConfigurationError: If there are none.
            TopologyError: If they are of different molecules.
        """
        if isinstance(frames, TrainingData):
            return frames
        parts = (frames,) if isinstance(frames, Frames) else tuple(sorted(frames, key=lambda part: part.temperature))
        if not parts:
            raise ConfigurationError("There is nothing to train on: give frames.")
        for part in parts[1:]:
            parts[0].topology.require_same(
                part.topology, f"the frames of {parts[0].temperature:g} K", f"those of {part.temperature:g} K"
            )
        return cls(parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, index: Int[ndarray, "chosen"]) -> TrainingData:
        """The frames of some numbers, part by part."""
        return TrainingData(
            tuple(
                part[index[(index >= first) & (index < first + len(part))] - first] for part, first in self._numbered()
            )
        )

    def _numbered(self) -> Iterator[tuple[Frames, int]]:
        """Each part, and the number of its first frame."""
        first = 0
        for part in self.parts:
            yield part, first
            first += len(part)

    def name_of(self, number: int) -> str:
        """A frame in words: its place in its own part."""
        part, first = next(each for each in self._numbered() if number < each[1] + len(each[0]))
        where = "" if len(self.parts) == 1 else f" of {part.temperature:g} K"
        return f"frame {number - first}{where}"

    @property
    def topology(self) -> Topology:
        """The molecule."""
        return self.parts[0].topology

    @property
    def temperature(self) -> float:
        """The lowest temperature, K: that of the samples of a flow in training, and of its model."""
        return self.parts[0].temperature

    @property
    def temperature_range(self) -> TemperatureRange | None:
        """From the lowest temperature to the highest; None if all frames are of one."""
        lowest, highest = self.parts[0].temperature, self.parts[-1].temperature
        return None if is_same(lowest, highest) else TemperatureRange(lowest, highest)

    @property
    def positions(self) -> Float[Tensor, "frames atoms 3"]:
        """nm, float32."""
        return torch.cat([torch.from_numpy(part.positions) for part in self.parts])

    @property
    def forces(self) -> Float[Tensor, "frames atoms 3"]:
        """In kT/nm of each frame's temperature, float32.

        Raises:
            FileFormatError: If some have none.
        """
        return torch.cat(
            [torch.from_numpy(part.require_forces()) * (1 / thermal_energy(part.temperature)) for part in self.parts]
        )

    @property
    def weights(self) -> Float[Tensor, "frames"] | None:
        """Importance weights, of mean 1 in each part; None if no frames are weighted."""
        if all(part.log_weights is None for part in self.parts):
            return None
        return torch.cat([torch.from_numpy(_weights(part)) for part in self.parts])

    @property
    def context(self) -> Float[Tensor, "frames 1"] | None:
        """The context of a flow at each frame's temperature; None if all frames are of one temperature."""
        temperatures = self.temperature_range
        if temperatures is None:
            return None
        values = [np.full((len(part), 1), temperatures.context(part.temperature)) for part in self.parts]
        return torch.from_numpy(np.concatenate(values))

    @property
    def provenance(self) -> dict[str, Any]:
        """That of the frames of the lowest temperature, and which other temperatures there are."""
        found = dict(self.parts[0].provenance)
        if len(self.parts) > 1:
            found["temperatures of the frames"] = [part.temperature for part in self.parts]
        return found

    @property
    def sketch(self) -> list[str]:
        """Fingerprints of some frames, by which others are known to be held out."""
        return sketch(*self.parts)

    def digest(self) -> str:
        """A fingerprint of all frames: of one part, its own."""
        if len(self.parts) == 1:
            return self.parts[0].digest()
        return hashlib.sha256(" ".join(part.digest() for part in self.parts).encode()).hexdigest()

    def split(self, fraction: float, seed: int) -> tuple[Int[ndarray, "training"], Int[ndarray, "held_out"]]:
        """Numbers of the frames to train on, and of those held out: `batches.split` of each part."""
        shares = [[numbers + first for numbers in split(part, fraction, seed)] for part, first in self._numbered()]
        training, held_out = (np.concatenate(numbers) for numbers in zip(*shares, strict=True))
        return training, held_out


def _weights(part: Frames) -> Float[ndarray, "frames"]:
    if part.log_weights is None:
        return np.ones(len(part))
    weights: ndarray = np.exp(part.log_weights - part.log_weights.max())
    return np.asarray(weights / weights.mean())
