"""Fingerprints of the frames that a model was trained on, few enough for the model's file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import UInt64
from numpy import ndarray

from .frames import BLOCK, Frames

SIZE = 2048
"""Number of fingerprints that are kept; all where there are fewer frames."""

QUANTUM = 1e-4
"""Step, nm, to which distances are rounded: far above the rounding of float32, far below thermal motion."""

FINE_QUANTUM = 1e-6
"""The same for molecules of three atoms or fewer, whose few distances must tell frames apart."""


class Origin(Enum):
    """What is known of the frames that a model is evaluated on."""

    HELD_OUT = "held-out frames"
    TRAINING = "training frames"
    UNKNOWN = "frames (not known whether held out)"


@dataclass(frozen=True)
class SharedFrames:
    """How many of some frames a model was trained on.

    Attributes:
        origin: What the frames are called.
        share: Share of the frames that the model was trained on, as far as fingerprints tell; nan if it is not known.
    """

    origin: Origin
    share: float


def fingerprints(frames: Frames) -> UInt64[ndarray, "frames"]:
    """A number for each configuration that survives other file formats, units of length, and rigid motion.

    Six distances between atoms spread over the molecule, rounded, are hashed. Rounding makes a few frames in a hundred
    differ from themselves when they went through a file with fewer digits.
    """
    n_atoms = len(frames.topology)
    corners = np.unique(np.linspace(0, n_atoms - 1, 4).round().astype(int))
    quantum = QUANTUM if len(corners) == 4 else FINE_QUANTUM
    pairs = np.array(list(combinations(corners, 2)))
    found = []
    for start in range(0, len(frames), BLOCK):
        x = frames.positions[start : start + BLOCK, corners].astype(np.float64)
        at = np.searchsorted(corners, pairs)
        lengths = np.linalg.norm(x[:, at[:, 0]] - x[:, at[:, 1]], axis=-1)
        steps = np.rint(lengths / quantum).astype("<i8")
        found += [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") for row in steps]
    return np.array(found, dtype=np.uint64)


def sketch(*parts: Frames) -> list[str]:
    """The smallest fingerprints of all frames of some parts, in hexadecimal.

    Of any other frames, those with fingerprints up to the largest kept one are a random part, and each of them is among
    the kept ones exactly if it was among the frames.

    Reference: Broder, On the resemblance and containment of documents, Compression and Complexity of Sequences 1997.
    """
    return [f"{value:016x}" for value in np.unique(np.concatenate(list(map(fingerprints, parts))))[:SIZE]]


def shared_frames(frames: Frames, provenance: Mapping[str, Any]) -> SharedFrames:
    """Whether a model was trained on these frames or on some of them.

    Args:
        frames: To evaluate on.
        provenance: Provenance of the model, as its header holds it; with that of the models that it was tuned from.
    """
    known, share = False, 0.0
    digest = frames.digest()
    given: Any = provenance
    ours = None
    while isinstance(given, Mapping):
        trained = given.get("frames")
        trained = trained if isinstance(trained, Mapping) else {}
        if trained.get("sha256") == digest:
            return SharedFrames(Origin.TRAINING, 1.0)
        kept = trained.get("sketch")
        if isinstance(kept, Sequence) and not isinstance(kept, str) and kept:
            ours = fingerprints(frames) if ours is None else ours
            theirs = np.array([int(str(value), 16) for value in kept], dtype=np.uint64)
            # with room left in it, a sketch holds every frame
            told = ours if len(theirs) < SIZE else ours[ours <= theirs.max()]
            if len(told):
                known = True
                share = max(share, float(np.isin(told, theirs).mean()))
        given = given.get("initial_model")
    if share > 0:
        return SharedFrames(Origin.TRAINING, share)
    return SharedFrames(Origin.HELD_OUT, 0.0) if known else SharedFrames(Origin.UNKNOWN, float("nan"))


def without_sketches(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance for readers: the same without the fingerprints."""
    return {
        name: without_sketches(value) if isinstance(value, Mapping) else value
        for name, value in provenance.items()
        if name != "sketch"
    }
