"""Frames files, ours and others', that somebody made to do harm: one clear error, at once, in little memory."""

from __future__ import annotations

import ctypes
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from smoothflow.molecules.formats import export_frames
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import FramesWriter
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.superblock import lookup3
from smoothflow.molecules.topologies import topology_from_pdb

Refused = Callable[[Mapping[str, Any]], None]

BILLION = 10**9
UNITS = {"positions": b"nm", "forces": b"kJ/mol/nm", "energies": b"kJ/mol"}


@pytest.fixture(scope="module")
def frames() -> Frames:
    topology, positions = topology_from_pdb(molecule_path("water"))
    x = positions.repeat(5, 1, 1).numpy()
    return Frames(topology, 300.0, positions=x, forces=np.zeros_like(x), energies=np.zeros(5))


@pytest.fixture(scope="module")
def good(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "good.h5"
    with FramesWriter.create(path, frames[:0], {"walkers": np.zeros(3)}) as writer:
        writer.append(frames, {"walkers": np.ones(3)})
    return path


def put(file: h5py.File, name: str, **options: Any) -> None:
    if name in file:
        del file[name]
    file.create_dataset(name, **options)
    if name in UNITS:
        file[name].attrs["units"] = np.bytes_(UNITS[name])


def put_json(file: h5py.File, name: str, text: str | bytes) -> None:
    put(file, name, data=np.bytes_(text))


def claim(file: h5py.File, n_frames: int) -> None:
    file["commit"][0] = n_frames


def move(file: h5py.File, name: str, link: object) -> None:
    file.move(name, "elsewhere")
    file[name] = link


def put_virtual(file: h5py.File, other: Path) -> None:
    layout = h5py.VirtualLayout((5, 3, 3), dtype="f4", maxshape=(None, 3, 3))
    layout[:] = h5py.VirtualSource(str(other), "positions", (5, 3, 3))
    del file["positions"]
    file.create_virtual_dataset("positions", layout).attrs["units"] = UNITS["positions"]


def put_holes(file: h5py.File) -> None:
    """Ten million frames that take no disk: chunks that are reserved and never written."""
    for name, dtype, tail in (("positions", "f4", (3, 3)), ("forces", "f4", (3, 3)), ("energies", "f8", ())):
        del file[name]
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((10**6, *tail))
        created.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        created.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        space = h5py.h5s.create_simple((10**7, *tail))
        h5py.h5d.create(file.id, name.encode(), h5py.h5t.py_create(np.dtype(dtype)), space, created)
        file[name].attrs["units"] = np.bytes_(UNITS[name])
    claim(file, 10**7)


def put_unknown_filter(file: h5py.File) -> None:
    del file["commit"]
    created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    created.set_chunk((2,))
    # optional, so that HDF5 lets it be made
    created.set_filter(32_015, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple((2,))
    dataset = h5py.h5d.create(file.id, b"commit", h5py.h5t.NATIVE_INT64, space, created)
    h5py.Dataset(dataset)[:] = (5, 1)


HARMS: dict[str, Callable[[h5py.File], object]] = {
    "nested JSON": lambda f: put_json(f, "provenance", "[" * 100_000),
    "JSON nested deeply, but whole": lambda f: put_json(f, "provenance", '{"a":' * 50 + "1" + "}" * 50),
    "JSON that is not a mapping": lambda f: put_json(f, "provenance", "3"),
    "JSON that is not text": lambda f: put_json(f, "provenance", b"\xff\xff"),
    "JSON of many megabytes": lambda f: put_json(f, "provenance", '{"a": [' + "[1]," * 2_000_000 + "1]}"),
    "a residue beyond floats": lambda f: put_json(f, "topology", '{"atoms":[["H","H","H",1e999]],"bonds":[]}'),
    "a hundred thousand atoms": lambda f: put_json(
        f, "topology", json.dumps({"atoms": [["H", "H", "H", 0]] * 100_000, "bonds": []})
    ),
    "a billion frames": lambda f: (
        put(f, "positions", shape=(BILLION, 3, 3), maxshape=(None, 3, 3), chunks=(1000, 3, 3), dtype="f4"),
        claim(f, BILLION),
    ),
    "a billion frames in one piece": lambda f: (
        put(f, "positions", shape=(BILLION, 3, 3), dtype="f4"),
        claim(f, BILLION),
    ),
    "a billion atoms": lambda f: put(f, "positions", shape=(5, BILLION, 3), chunks=(1, 1000, 3), dtype="f4"),
    "chunks of gigabytes": lambda f: put(
        f, "positions", shape=(5, 3, 3), maxshape=(None, 3, 3), chunks=(10**8, 3, 3), dtype="f4"
    ),
    "gzip of nothing": lambda f: put(f, "energies", shape=(10**10,), chunks=(10**6,), dtype="f8", compression="gzip"),
    "a state of terabytes": lambda f: put(f, "state/x", shape=(2, 10**12), chunks=(1, 10**6), dtype="f8"),
    "a state in compressed chunks": lambda f: put(
        f, "state/x", data=np.zeros((2, 2**25)), chunks=(1, 2**20), compression="gzip"
    ),
    "a state in shuffled chunks": lambda f: put(f, "state/x", data=np.zeros((2, 9)), chunks=(1, 9), shuffle=True),
    "a state in plain chunks": lambda f: put(f, "state/x", data=np.zeros((2, 9)), chunks=(1, 9)),
    "a state that is never written": lambda f: put(f, "state/x", shape=(2, 2**24), dtype="f8"),
    "a commit in one compressed chunk of gigabytes": lambda f: put(
        f, "commit", data=np.array([5, 1]), maxshape=(None,), chunks=(2**28,), compression="gzip"
    ),
    "a commit with a filter nobody has": put_unknown_filter,
    "a temperature of megabytes": lambda f: f.attrs.create("temperature", np.zeros(10**5)),
    "a unit of megabytes": lambda f: f["positions"].attrs.create("units", np.bytes_(b"nm" * 30_000)),
    "a state of objects": lambda f: put(f, "state/x", data=["a", "b"]),
    "a state of references": lambda f: put(f, "state/x", data=[f.ref, f.ref], dtype=h5py.ref_dtype),
    "a state in itself": lambda f: f["state"].__setitem__("me", f["state"]),
    "a state of many parts": lambda f: [put(f, f"state/{i}", data=np.zeros(2)) for i in range(500)],
    "a state elsewhere": lambda f: move(f, "state", h5py.ExternalLink("other.h5", "/state")),
    "a state under another name": lambda f: move(f, "state", h5py.SoftLink("/elsewhere")),
    "positions elsewhere": lambda f: move(f, "positions", h5py.ExternalLink("other.h5", "/positions")),
    "positions under another name": lambda f: move(f, "positions", h5py.SoftLink("/elsewhere")),
    "a topology elsewhere": lambda f: move(f, "topology", h5py.ExternalLink("/etc/passwd", "/p")),
    "JSON of another file": lambda f: put(f, "provenance", shape=(), dtype="S100", external=[("/etc/passwd", 0, 100)]),
    "numbers of another file": lambda f: put(f, "commit", shape=(2,), dtype="i8", external=[("/etc/passwd", 0, 16)]),
    "virtual positions": lambda f: put_virtual(f, Path(f.filename).parent / "other.h5"),
    "positions that are a group": lambda f: (f.__delitem__("positions"), f.create_group("positions")),
    "other byte order": lambda f: put(f, "positions", data=np.zeros((5, 3, 3), ">f4"), chunks=(5, 3, 3)),
    "holes": put_holes,
    "2^62 frames": lambda f: claim(f, 2**62),
    "NaN in positions": lambda f: f["positions"].__setitem__((2, 1), np.nan),
    "infinite energies": lambda f: f["energies"].__setitem__(2, np.inf),
    "a format that is a reference": lambda f: f.attrs.create("format", f.ref, dtype=h5py.ref_dtype),
    "a format of megabytes": lambda f: f.attrs.create("format", np.zeros(10**6)),
    "no unit": lambda f: f["positions"].attrs.__delitem__("units"),
    "a unit that is not text": lambda f: f["positions"].attrs.__setitem__("units", np.bytes_(b"\xff")),
    **{
        f"temperature {value}": lambda f, value=value: f.attrs.__setitem__("temperature", value)
        for value in ("warm", np.nan, np.inf, -1, np.zeros(3), h5py.Empty("f8"))
    },
    **{
        f"schema {value}": lambda f, value=value: f.attrs.__setitem__("schema", value)
        for value in ("x", np.nan, np.inf, np.zeros(3), h5py.Empty("f8"), 2**62)
    },
}


def test_hostile_frames_files_are_refused(
    good: Path, tmp_path: Path, open_hostile: Any, assert_refused: Refused
) -> None:
    files = {}
    shutil.copy(good, tmp_path / "other.h5")
    for name, harm in HARMS.items():
        files[name] = tmp_path / f"{len(files)}.h5"
        shutil.copy(good, files[name])
        with h5py.File(files[name], "r+", libver="latest") as file:
            # without the places of the chunks, as in version 0.1, a reader has to go by HDF5's index
            del file["chunks"]
            harm(file)
    bare = tmp_path / "bare.h5"
    shutil.copy(good, bare)
    with h5py.File(bare, "r+", libver="latest") as file:
        del file["chunks"]
    content = bare.read_bytes()
    for tenth in range(10):
        files[f"{tenth} tenths"] = tmp_path / f"cut{tenth}.h5"
        files[f"{tenth} tenths"].write_bytes(content[: len(content) * tenth // 10])
    # with the checksum that belongs to them: HDF5 would count 2^62 chunks, or divide by 0
    place = content.index(b"EAHD")
    for name, start, end, number in (("2^62 chunks", 44, 52, 2**62), ("blocks of no chunks", 8, 10, 0)):
        index = bytearray(content)
        index[place + start : place + end] = number.to_bytes(end - start, "little")
        index[place + 68 : place + 72] = lookup3(bytes(index[place : place + 68])).to_bytes(4, "little")
        files[name] = tmp_path / f"{name}.h5"
        files[name].write_bytes(index)
    # places of chunks that lead anywhere, where the index is of no use
    for name, place, rows in (
        ("beyond the end", 2**60, 1000),
        ("before the start", -8, 1000),
        ("of no frames", 512, 0),
    ):
        files[name] = tmp_path / f"{name}.h5"
        shutil.copy(good, files[name])
        with h5py.File(files[name], "r+", libver="latest") as file:
            file["positions"].resize(0, axis=0)
            file["chunks/positions"][0] = place
            file["chunks/positions"].attrs["frames_per_chunk"] = rows
    assert_refused(open_hostile("frames", good, files))


def compress_names(plist: Any) -> None:
    """Have HDF5 compress the heap of a group's names; h5py does not offer it."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    (library,) = {line.split()[-1] for line in maps if "libhdf5-" in line or "libhdf5.so" in line}
    deflate = ctypes.CDLL(library).H5Pset_deflate
    deflate.argtypes = (ctypes.c_int64, ctypes.c_uint)
    assert deflate(plist.id, 9) == 0


def test_names_that_are_compressed(good: Path, tmp_path: Path, open_hostile: Any, assert_refused: Refused) -> None:
    path = tmp_path / "names.h5"
    shutil.copy(good, path)
    with h5py.File(path, "r+", libver="latest") as file:
        del file["state"]
        created = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
        compress_names(created)
        group = h5py.Group(h5py.h5g.create(file.id, b"state", gcpl=created))
        for i in range(60):
            group["x" * 60_000 + str(i)] = np.zeros(2)
    assert_refused(open_hostile("frames", good, {"names": path}))


def test_names_that_lead_elsewhere(good: Path, tmp_path: Path, open_hostile: Any, assert_refused: Refused) -> None:
    os.mkfifo(tmp_path / "pipe.h5")
    (tmp_path / "secret.h5").symlink_to("/etc/passwd")
    (tmp_path / "loop.h5").symlink_to("loop.h5")
    files: dict[str, str | Path] = {name: tmp_path / f"{name}.h5" for name in ("pipe", "secret", "loop", "missing")}
    files |= {"a folder": tmp_path, "zeros": "/dev/zero", "letters": "x" * 300 + ".h5"}
    assert_refused(open_hostile("frames", good, files))


def test_hostile_npz_files_are_refused(
    frames: Frames, tmp_path: Path, open_hostile: Any, assert_refused: Refused
) -> None:
    good = tmp_path / "good.npz"
    export_frames(frames, good)
    arrays = dict(np.load(good))
    files = {}

    def write(name: str, compressed: bool = False, **changed: Any) -> None:
        files[name] = tmp_path / f"{len(files)}.npz"
        (np.savez_compressed if compressed else np.savez)(files[name], **{**arrays, **changed})

    write("objects", R=np.array([{}, 1], dtype=object))
    write("another shape", R=np.zeros((5, 4, 3)))
    for dtype in ("U1", "c16", "?", "M8[s]", [("a", "f8")]):
        for key in ("R", "E", "F", "temperature"):
            write(f"{key} of {dtype}", **{key: np.zeros(arrays[key].shape, dtype=dtype)})
    write("two temperatures", temperature=np.array([1.0, 2.0]))
    write("atoms beyond the table", z=np.array([2**60, 1, 1]))
    write("atoms at infinity", z=np.array([np.inf, 1, 1]))
    write("one number for atoms", z=np.array(8))
    write("a unit that is not text", r_unit=np.array(b"\xff"))
    write("a bomb", compressed=True, R=np.zeros((10**6, 3, 3)))
    for shape in ((10**12, 3, 3), (2**62, 2**62, 3), (-1, 3, 3)):
        files[f"a claim of {shape}"] = tmp_path / f"{len(files)}.npz"
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        shutil.copy(good, files[f"a claim of {shape}"])
        with zipfile.ZipFile(good) as old, zipfile.ZipFile(files[f"a claim of {shape}"], "w") as new:
            for member in old.namelist():
                new.writestr(member, header.getvalue() if member == "R.npy" else old.read(member))
    # a directory that says less than there is, and methods that make much of a byte
    with zipfile.ZipFile(tmp_path / "lie.npz", "w", zipfile.ZIP_DEFLATED) as lie:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**28,)})
        with lie.open("R.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(2**11):
                member.write(bytes(2**20))
    lied = (tmp_path / "lie.npz").read_bytes()
    directory = lied.rindex(b"PK\x01\x02")
    files["a directory that lies"] = tmp_path / "lies.npz"
    files["a directory that lies"].write_bytes(
        lied[: directory + 24] + (1000).to_bytes(4, "little") + lied[directory + 28 :]
    )
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        files[f"method {method}"] = tmp_path / f"method{method}.npz"
        with zipfile.ZipFile(files[f"method {method}"], "w", method) as archive:
            archive.writestr("R.npy", bytes(2**26))
    files["an array twice"] = tmp_path / "twice.npz"
    shutil.copy(good, files["an array twice"])
    with zipfile.ZipFile(files["an array twice"], "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("R.npy", archive.read("R.npy"))
    content = good.read_bytes()
    for tenth in range(10):
        files[f"{tenth} tenths"] = tmp_path / f"cut{tenth}.npz"
        files[f"{tenth} tenths"].write_bytes(content[: len(content) * tenth // 10])
    assert_refused(open_hostile("imported", good, files))


def test_hostile_xyz_files_are_refused(
    frames: Frames, tmp_path: Path, open_hostile: Any, assert_refused: Refused
) -> None:
    good = tmp_path / "good.xyz"
    export_frames(frames, good)
    text = good.read_text()
    _, body = text.split("\n", 1)
    contents = {
        "a billion atoms": f"{BILLION - 1}\n{body}",
        "less than no atoms": f"-3\n{body}",
        "frames without atoms": "0\n\n" * 300_000,
        "a billion columns": text.replace("pos:R:3", f"pos:R:{BILLION}"),
        "a million columns in other words": text.replace("pos:R:3", "pos:R: 999999"),
        "many keys": text.replace("energy=", " ".join(f"a{i}=1" for i in range(50_000)) + " energy="),
        "a quotation without end": text.replace("energy=", 'a="' + "\\" * 50_000),
        "braces": text.replace("energy=", "a=" + "{" * 50_000),
        "cut": text[: len(text) // 2],
        "nothing": "",
    }
    files = {name: tmp_path / f"{i}.xyz" for i, name in enumerate(contents)}
    for name, content in contents.items():
        files[name].write_text(content)
    assert_refused(open_hostile("imported", good, files))
