"""Small good files of each kind, and how inputs for `fuzz` are made of them."""

from __future__ import annotations

import copy
import json
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import yaml
from smoothflow import FlowPotential, FlowSettings, InternalCoordinates, build_flow, load_model, save_model
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import FramesReader, FramesWriter
from smoothflow.molecules.superblock import lookup3
from smoothflow.training.config import TrainSettings, read_settings, write_settings

WATER = Topology(tuple(Atom(n[0], n, "HOH", 0) for n in ("O", "H1", "H2")), ((0, 1), (0, 2)))

VALUES: list[Any] = [None, True, 0, -1, 1, 2.5, 10**9, 2**70, 1e308, float("nan"), float("inf"), "", "x", "../x", "\0"]
VALUES += [[], {}, [[]], {"x": {}}, [0] * 100, "9" * 400, "smooth", [[0, -1, -1, -1]]]

SIGNATURES = (
    b"OHDR",
    b"OCHK",
    b"FRHP",
    b"FHDB",
    b"FHIB",
    b"BTHD",
    b"BTLF",
    b"BTIN",
    b"EAHD",
    b"EAIB",
    b"EADB",
    b"FAHD",
)
"""How parts of HDF5 files begin that end with a checksum."""


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Bytes flipped, cut, repeated or exchanged."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            break
        place = random.randrange(len(changed))
        other = random.randrange(len(changed))
        length = random.randrange(1, 1 + min(64, len(changed)))
        kind = random.randrange(8)
        if kind < 3:
            changed[place] = random.randrange(256)
        elif kind == 3:
            changed[place] ^= 1 << random.randrange(8)
        elif kind == 4:
            changed[place : place + 8] = struct.pack("<q", random.choice((0, -1, 1, 2**31, 2**40, 2**62, -(2**63))))
        elif kind == 5:
            changed[place : place + length] = changed[other : other + length]
        elif kind == 6:
            del changed[place : place + length]
        else:
            changed[place:place] = changed[other : other + length]
    return bytes(changed[: random.randrange(len(changed) + 1)] if random.random() < 0.05 else changed)


def mutated_tree(tree: Any, random: Random) -> Any:
    """One to three values somewhere in nested mappings and lists replaced, removed, renamed or exchanged."""
    tree = copy.deepcopy(tree)
    for _ in range(random.choice((1, 1, 2, 3))):
        owner, key = tree, None
        while isinstance(owner, (dict, list)) and owner:
            key = random.choice(list(owner)) if isinstance(owner, dict) else random.randrange(len(owner))
            if not isinstance(owner[key], (dict, list)) or not owner[key] or random.random() < 0.2:
                break
            owner = owner[key]
        if not isinstance(owner, (dict, list)) or not owner:
            continue
        kind = random.randrange(5)
        if kind < 3:
            owner[key] = copy.deepcopy(random.choice(VALUES))
        elif kind == 3:
            del owner[key]
        elif isinstance(owner, dict):
            owner[random.choice(("x", "", "smooth", *tree))] = owner.pop(key)
        else:
            owner.insert(random.randrange(len(owner) + 1), copy.deepcopy(random.choice([*VALUES, owner[key]])))
    return tree


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: What it is.
        suffix: Suffix of its files.
        share: Which part of all inputs are of it.
        make: Writes a good file.
        open: Reads a file.
        change: Makes an input of the good file's content.
    """

    name: str
    suffix: str
    share: float
    make: Callable[[Path], None]
    open: Callable[[Path], object]
    change: Callable[[bytes, Random], bytes]

    @cached_property
    def seed(self) -> bytes:
        """The good file."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"seed{self.suffix}"
            self.make(path)
            return path.read_bytes()

    def mutate(self, random: Random) -> bytes:
        """An input."""
        return self.change(self.seed, random)


def make_model(path: Path) -> None:
    coordinates = InternalCoordinates(WATER)
    settings = FlowSettings(
        {"line": "affine"}, line_pairs=1, interval_pairs=0, circle_pairs=0, hidden=1, n_hidden_layers=1
    )
    flow = build_flow(settings, Chart(coordinates.codomain, [ColumnChart("standard", 0.1, 0.01)] * 3))
    save_model(FlowPotential(flow, coordinates, WATER, 300.0), path, {"a": [1, {"b": "c"}]})


def change_model(seed: bytes, random: Random) -> bytes:
    kind = random.random()
    if kind < 0.3:
        return mutated_bytes(seed, random)
    end = 8 + struct.unpack("<Q", seed[:8])[0]
    if kind < 0.4:
        header = mutated_bytes(seed[8:end], random)
        return struct.pack("<Q", len(header)) + header + seed[end:]
    raw = json.loads(seed[8:end])
    if kind < 0.6:
        raw = mutated_tree(raw, random)
    else:
        ours = json.dumps(mutated_tree(json.loads(raw["__metadata__"]["smoothflow"]), random))
        if random.random() < 0.1:
            ours = mutated_bytes(ours.encode(), random).decode(errors="replace")
        raw["__metadata__"]["smoothflow"] = ours
    header = json.dumps(raw).encode()
    return struct.pack("<Q", len(header)) + header + seed[end:]


def make_frames(path: Path) -> None:
    x = np.array([[[0, 0, 0], [0.096, 0, 0], [-0.024, 0.093, 0]]] * 2)
    frames = Frames(WATER, 300.0, positions=x, energies=np.ones(2), provenance={"a": 1})
    with FramesWriter.create(path, frames[:0], {"rounds": np.zeros(2)}) as writer:
        writer.append(frames, {"rounds": np.ones(2)})


def open_frames(path: Path) -> None:
    with FramesReader(path) as reader:
        reader.read()
        reader.state()


@cache
def checksummed(content: bytes) -> list[tuple[int, int]]:
    """Start and end of the parts of an HDF5 file that are followed by their checksum."""
    found = [(0, 44)]
    for signature in SIGNATURES:
        start = content.find(signature)
        while start >= 0:
            for end in range(start + 8, min(start + 800, len(content) - 3)):
                # the checksum of so few bytes is not an accident
                if struct.pack("<I", lookup3(content[start:end])) == content[end : end + 4]:
                    found.append((start, end))
                    break
            start = content.find(signature, start + 1)
    return found


def change_frames(seed: bytes, random: Random) -> bytes:
    if random.random() < 0.2:
        return mutated_bytes(seed, random)
    parts = checksummed(seed)
    changed = bytearray(seed)
    for _ in range(random.choice((1, 1, 2, 3))):
        start, end = random.choice(parts)
        for _ in range(random.choice((1, 1, 2, 4))):
            place = random.randrange(start, end)
            n_bytes = random.choice((1, 1, 2, 4, 8))
            new = random.choice((random.randbytes(n_bytes), b"\xff" * n_bytes, bytes(n_bytes), seed[place : place + 8]))
            changed[place : min(place + n_bytes, end)] = new[: min(n_bytes, end - place)].ljust(
                min(n_bytes, end - place)
            )
        changed[end : end + 4] = struct.pack("<I", lookup3(bytes(changed[start:end])))
    return bytes(changed)


def make_settings(path: Path) -> None:
    path.write_text(write_settings(TrainSettings(zmatrix=((0, -1, -1, -1), (1, 0, -1, -1)))), encoding="utf-8")


@cache
def parsed(seed: bytes) -> Any:
    """The tree of a YAML file."""
    return yaml.safe_load(seed)


def change_settings(seed: bytes, random: Random) -> bytes:
    """A few of the fields, their tree mutated, and often the text, too."""
    tree = parsed(seed)
    chosen = {name: tree[name] for name in random.sample(list(tree), random.randrange(1, 5))}
    text = yaml.safe_dump(mutated_tree(chosen, random) if random.random() < 0.8 else chosen).encode()
    return mutated_bytes(text, random) if random.random() < 0.5 else text


KINDS = {
    kind.name: kind
    for kind in (
        Kind("models", ".safetensors", 0.2, make_model, load_model, change_model),
        Kind("frames", ".h5", 0.3, make_frames, open_frames, change_frames),
        Kind("configurations", ".yaml", 0.5, make_settings, read_settings, change_settings),
    )
}
