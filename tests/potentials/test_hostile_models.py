"""Model files, packages and checkpoints that somebody made to do harm: one clear error, at once, in little memory."""

from __future__ import annotations

import copy
import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from smoothflow import FlowPotential, FlowSettings, InternalCoordinates, build_flow, save_model
from smoothflow.core.charts import Chart, ColumnChart
from smoothflow.core.files import MAX_HEADER_BYTES
from smoothflow.core.topology import Atom, Topology
from smoothflow.potentials.package import write_header
from torch import Tensor

Refused = Callable[[Mapping[str, Any]], None]

HUGE = 10**9
BEYOND_64_BITS = 2**70
BEYOND_FLOATS = 10**400
NUMBERS: list[Any] = [HUGE, BEYOND_64_BITS, -1, 1.5, "x", None, [3], float("nan"), BEYOND_FLOATS]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small flow on hydrogen peroxide."""
    atoms = [Atom(name[0], name, "HPO", 0) for name in ("H1", "O1", "O2", "H2")]
    topology = Topology(tuple(atoms), ((0, 1), (1, 2), (2, 3)))
    coordinates = InternalCoordinates(topology)
    settings = FlowSettings(line_pairs=0, interval_pairs=1, circle_pairs=1, hidden=4)
    charts = [*[ColumnChart("standard", 0.1, 0.01)] * 5, ColumnChart("circle", 0.0)]
    flow = build_flow(settings, Chart(coordinates.codomain, charts)).double()
    path = tmp_path_factory.mktemp("model") / "good.safetensors"
    save_model(FlowPotential(flow, coordinates, 300.0), path, {})
    return path


class Maker:
    """Writes variants of a model file; `files` are all of them by name."""

    def __init__(self, model: Path, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, Path] = {}
        self.content = model.read_bytes()
        n_header = struct.unpack("<Q", self.content[:8])[0]
        self.raw = json.loads(self.content[8 : 8 + n_header])
        self.data = self.content[8 + n_header :]
        self.header = json.loads(self.raw["__metadata__"]["smoothflow"])
        self.weights = load(self.content)

    def write(self, name: str, content: bytes) -> None:
        self.files[name] = self.folder / f"{len(self.files)}.safetensors"
        self.files[name].write_bytes(content)

    def header_text(self, name: str, text: str, weights: dict[str, Tensor] | None = None) -> None:
        self.write(name, save(weights or self.weights, metadata={"smoothflow": text}))

    def changed(self, name: str, **fields: Any) -> None:
        self.header_text(name, json.dumps({**self.header, **fields}))

    def set(self, name: str, **fields: Any) -> None:
        self.changed(name, settings={**self.header["settings"], **fields})

    def raw_header(self, name: str, header: Any, data: bytes | None = None) -> None:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        self.write(name, struct.pack("<Q", len(text)) + text + (self.data if data is None else data))


@pytest.fixture
def maker(model: Path, tmp_path: Path) -> Maker:
    return Maker(model, tmp_path)


def test_files_that_are_cut_or_claim_another_length(
    model: Path, maker: Maker, open_hostile: Any, assert_refused: Refused
) -> None:
    for tenth in range(10):
        maker.write(f"{tenth} tenths", maker.content[: len(maker.content) * tenth // 10])
    for length in (0, 7, MAX_HEADER_BYTES, MAX_HEADER_BYTES + 1, 2**62, 2**64 - 1):
        maker.write(f"a header of {length} bytes", struct.pack("<Q", length) + maker.content[8:])
    assert_refused(open_hostile("model", model, maker.files))


def test_headers_of_safetensors_that_lie(model: Path, maker: Maker, open_hostile: Any, assert_refused: Refused) -> None:
    name = sorted(maker.weights)[0]

    def lie(what: str, **fields: Any) -> None:
        raw = copy.deepcopy(maker.raw)
        raw[name].update(fields)
        maker.raw_header(what, raw)

    lie("a shape of exabytes", shape=[HUGE, HUGE])
    lie("a shape beyond 64 bits", shape=[2**63, 2])
    lie("an offset beyond the file", data_offsets=[0, 2**60])
    lie("an object type", dtype="OBJECT")
    maker.raw_header("nested", b'{"a":' * 200_000)
    maker.raw_header("no text", b"\xff\xfe" * 100)
    maker.raw_header("metadata that are not text", {**maker.raw, "__metadata__": {"smoothflow": 3}})
    entry = {"dtype": "F64", "shape": [0], "data_offsets": [0, 0]}
    many = {f"t{i}": entry for i in range(60_000)}
    maker.raw_header("sixty thousand weights", {**many, "__metadata__": maker.raw["__metadata__"]}, b"")
    assert_refused(open_hostile("model", model, maker.files))


def test_headers_of_our_format_with_wrong_content_are_refused(
    model: Path, maker: Maker, open_hostile: Any, assert_refused: Refused
) -> None:
    text = json.dumps(maker.header)
    maker.header_text("nested lists", "[" * 100_000)
    maker.header_text("nested mappings", '{"a":' * 100_000)
    maker.header_text("nested deeply, but whole", text[:-1] + ',"x":' + "[" * 40 + "]" * 40 + "}")
    maker.header_text("a list", "[1]")
    maker.header_text("a name twice", text[:-1] + ', "temperature": 5}')
    maker.header_text("a number of five thousand digits", text[:-1] + ', "x": ' + "9" * 5000 + "}")
    for i, schema in enumerate([None, "1", [1], 1.5, 0, -5, BEYOND_64_BITS]):
        maker.changed(f"schema {i}", schema=schema)
    assert_refused(open_hostile("model", model, maker.files))


def test_headers_with_absurd_fields(model: Path, maker: Maker, open_hostile: Any, assert_refused: Refused) -> None:
    for field in ("settings", "charts", "zmatrix", "topology", "plugins", "provenance", "temperature"):
        for value in (None, [], "x", {"x": 1}, True if field != "temperature" else [], [[None]]):
            # a provenance may say anything, in a mapping
            if not (field == "provenance" and isinstance(value, dict)):
                maker.changed(f"{field} {value!r}", **{field: value})
    for temperature in (float("nan"), float("inf"), -1, 0, BEYOND_FLOATS):
        maker.changed(f"temperature {str(temperature)[:9]}", temperature=temperature)
    for origin in (None, [], 3):
        maker.changed(f"a plug-in that is {origin}", plugins={"smooth": origin})
    for field in ("location", "scale"):
        for value in ("a", None, float("nan"), BEYOND_FLOATS):
            chart = {"kind": "standard", "location": 0.0, "scale": 1.0, field: value}
            maker.changed(f"{field} {str(value)[:9]}", charts=[chart] * 6)
    maker.changed("thirty thousand charts", charts=[maker.header["charts"][0]] * 30_000)
    for entry in (BEYOND_FLOATS, float("nan"), float("inf"), "a", None):
        maker.changed(f"z-matrix of {str(entry)[:9]}", zmatrix=[[entry] * 4] * 4)
    maker.changed("z-matrix of one atom", zmatrix=[[0, -1, -1, -1]] * 100_000)
    chain = [[i, i + 1] for i in range(9_000)]
    atoms = [["Si", f"S{i}", "X", 0] for i in range(9_001)]
    maker.changed("a molecule of nine thousand atoms", topology={"atoms": atoms, "bonds": chain})
    maker.changed("a residue at infinity", topology={"atoms": [["H", "H", "H", float("inf")]] * 4, "bonds": []})
    maker.changed("bonds to nowhere", topology={"atoms": [["H", "H", "H", 0]] * 4, "bonds": [[0, HUGE]]})
    assert_refused(open_hostile("model", model, maker.files))


def test_architectures_that_cannot_be(model: Path, maker: Maker, open_hostile: Any, assert_refused: Refused) -> None:
    for field in ("line_pairs", "interval_pairs", "circle_pairs", "hidden", "n_hidden_layers", "n_harmonics"):
        for number in NUMBERS:
            maker.set(f"{field} {str(number)[:9]}", **{field: number})
    for width in (0, -1, 1001, "x", None, [3], float("nan"), float("inf"), BEYOND_FLOATS):
        maker.set(f"tail_scale {str(width)[:9]}", tail_scale=width)
    for seed in (BEYOND_64_BITS, -1, "x", None):
        maker.set(f"seed {seed}", seed=seed)
    maker.set("the largest that is allowed", line_pairs=32, interval_pairs=32, circle_pairs=32, n_hidden_layers=8)
    maker.set("the widest that is allowed", hidden=2**16, n_harmonics=1000)
    for i, options in enumerate([{"n_components": HUGE}, {"n_components": "x"}, {"n_components": None}, {"x": 1}, 3]):
        maker.set(f"options {i}", options={"smooth": options})
    for i, transforms in enumerate([{"circle": "../x"}, {"circle": None}, {"circle": [1]}, [], None, {"x": "smooth"}]):
        maker.set(f"transforms {i}", transforms=transforms)
    assert_refused(open_hostile("model", model, maker.files))


def test_weights_of_impossible_types_are_refused(
    model: Path, maker: Maker, open_hostile: Any, assert_refused: Refused
) -> None:
    name = sorted(maker.weights)[0]
    text = json.dumps(maker.header)
    for dtype in (torch.int64, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.bool):
        maker.header_text(str(dtype), text, {**maker.weights, name: maker.weights[name].to(dtype)})
    for value in (float("nan"), float("inf")):
        wrong = torch.full_like(maker.weights[name], value)
        maker.header_text(f"{value}", text, {**maker.weights, name: wrong})
    maker.header_text("another shape", text, {**maker.weights, name: torch.zeros(3, 3, 3)})
    maker.header_text("a weight too many", text, {**maker.weights, "../../x": torch.zeros(2)})
    maker.header_text("a weight too few", text, {k: v for k, v in maker.weights.items() if k != name})
    assert_refused(open_hostile("model", model, maker.files))


def test_names_that_lead_elsewhere(model: Path, tmp_path: Path, open_hostile: Any, assert_refused: Refused) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "secret.safetensors").symlink_to("/etc/passwd")
    (tmp_path / "loop.safetensors").symlink_to("loop.safetensors")
    names = ("pipe", "secret", "loop", "missing")
    files: dict[str, str | Path] = {name: tmp_path / f"{name}.safetensors" for name in names}
    files |= {"a folder": tmp_path, "zeros": "/dev/zero", "letters": "x" * 300 + ".safetensors"}
    assert_refused(open_hostile("model", model, files))


def test_files_that_are_not_checkpoints_are_refused(
    tmp_path: Path, maker: Maker, open_hostile: Any, assert_refused: Refused
) -> None:
    from smoothflow.core.engine import DynamicsSettings
    from smoothflow.core.integrator import State
    from smoothflow.core.reporter import EnergyRecord
    from smoothflow.integrators.checkpoint import Checkpoint, write_checkpoint

    positions, velocities, forces = (torch.zeros(1, 3, 3) for _ in range(3))
    state = State(positions, velocities, forces, torch.zeros(1), torch.ones(3), 0.0)
    good = tmp_path / "good.ckpt"
    write_checkpoint(good, Checkpoint(DynamicsSettings(5), "velocity_verlet", 0, state, {}, EnergyRecord()))
    kept = Maker.__new__(Maker)
    kept.folder, kept.files, kept.weights = tmp_path, {}, load(good.read_bytes())
    for tenth in range(10):
        kept.write(f"{tenth} tenths", good.read_bytes()[: good.stat().st_size * tenth // 10])
    for text in ("[" * 100_000, "3", "{}", '{"format": "smoothflow-checkpoint", "schema": "x"}'):
        kept.header_text(text[:50], text)
    kept.header_text(
        "a time beyond floats", json.dumps({"format": "smoothflow-checkpoint", "schema": 1, "time": 10**400})
    )
    header = json.dumps({"__metadata__": {"smoothflow": "[" + "1," * 2_000_000 + "1]"}}).encode()
    header += b" " * (2**26 - len(header))
    kept.write("a header of megabytes", struct.pack("<Q", len(header)) + header)
    assert_refused(open_hostile("checkpoint", good, kept.files))


def test_files_that_are_not_packages_are_refused(tmp_path: Path, open_hostile: Any, assert_refused: Refused) -> None:
    files: dict[str, Path] = {}

    def package(name: str, header: str, compression: int = zipfile.ZIP_STORED, size: int = 10) -> Path:
        path = tmp_path / f"{name}.pt2"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("p/smoothflow.json", header)
            archive.writestr("p/code.so", b"\0" * size)
        return path

    good = package("good", write_header({"shape": [4, 3], "functions": [], "topology": None}))
    for tenth in range(10):
        files[f"{tenth} tenths"] = tmp_path / f"{tenth}.pt2"
        files[f"{tenth} tenths"].write_bytes(good.read_bytes()[: good.stat().st_size * tenth // 10])
    files["nested"] = package("nested", "[" * 100_000)
    for i, name in enumerate(
        ("../../code.so", "/tmp/code.so", "p/../../code.so", "p\\..\\code.so", "..", "p//code.so")
    ):
        files[name] = package(f"outside{i}", write_header({"shape": [4, 3], "functions": [], "topology": None}))
        with zipfile.ZipFile(files[name], "a") as archive:
            archive.writestr(name, b"")
    # entries of the directory that all mean the same bytes
    shared = package("shared", write_header({"shape": [4, 3], "functions": [], "topology": None}), size=2**20)
    content = shared.read_bytes()
    begin, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[content.rindex(b"PK\x01\x02") : end]
    n_entries = 2000
    directory = content[begin:end] + b"".join(entry.replace(b"code.so", f"{i:07d}".encode()) for i in range(n_entries))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n_entries + 2, n_entries + 2, len(directory), begin, 0)
    files["bytes that are shared"] = tmp_path / "shared2.pt2"
    files["bytes that are shared"].write_bytes(content[:begin] + directory + tail)
    files["a bomb"] = package("bomb", "{}", zipfile.ZIP_DEFLATED, 2**26)
    for name, content in {
        "no shape": {"functions": [], "topology": None},
        "a shape of text": {"shape": ["x"], "functions": [], "topology": None},
        "a shape at infinity": {"shape": [float("inf")], "functions": [], "topology": None},
        "no functions": {"shape": [4, 3], "functions": 3, "topology": None},
        "no topology": {"shape": [4, 3], "functions": [], "topology": 3},
    }.items():
        files[name] = package(name, write_header(content))
    assert_refused(open_hostile("package", good, files))
