"""Frames and their files: round trips, kills at any moment, and files that are not what they should be."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from smoothflow.core.errors import ConfigurationError, FileFormatError, GeometryError, SmoothflowError, TopologyError
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules.frames import COLUMNS, Frames, concatenate
from smoothflow.molecules.frames_file import FramesReader, FramesWriter, describe_frames, read_frames, write_frames
from smoothflow.molecules.superblock import is_marked, lookup3

WATER = Topology(tuple(Atom(e, n, "HOH", 0) for e, n in (("O", "O"), ("H", "H1"), ("H", "H2"))), bonds=((0, 1), (0, 2)))

# Appends frames for ever; frame i holds the number i, and so does the state that belongs to it.
APPENDING = """
import sys
import numpy as np
from pathlib import Path
from smoothflow.molecules.frames_file import FramesReader, FramesWriter
path = Path(sys.argv[1])
with FramesReader(path) as reader:
    kind = reader.read(0, 0)
writer = FramesWriter.resume(path)
print("ready", flush=True)
while True:
    n = 1 + len(writer) % 37
    numbers = np.arange(len(writer), len(writer) + n)
    frames = kind.__class__(
        kind.topology, kind.temperature,
        positions=np.broadcast_to(numbers[:, None, None] / 1024, (n, 3, 3)),
        forces=np.broadcast_to(-numbers[:, None, None], (n, 3, 3)),
        energies=numbers * 0.5, provenance=kind.provenance,
    )
    writer.append(frames, {"last": np.full(1000, len(writer) + n)})
"""


def some_frames(n_frames: int, seed: int = 0, **columns: bool) -> Frames:
    rng = np.random.default_rng(seed)
    equilibrium = np.array([[0.0, 0.0, 0.0], [0.096, 0.0, 0.0], [-0.024, 0.093, 0.0]])
    return Frames(
        WATER,
        300.0,
        positions=equilibrium + 0.002 * rng.normal(size=(n_frames, 3, 3)),
        forces=rng.normal(size=(n_frames, 3, 3)),
        energies=rng.normal(size=n_frames),
        log_weights=rng.normal(size=n_frames) if columns.get("log_weights") else None,
        replica=np.arange(n_frames) % 4 if columns.get("replica") else None,
        provenance={"force field": "none", "seed": seed},
    )


def assert_same(first: Frames, second: Frames) -> None:
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    assert first.topology == second.topology
    assert first.temperature == second.temperature
    assert first.provenance == second.provenance


def numbered(path: Path) -> Path:
    FramesWriter.create(path, replace(some_frames(0), provenance={}), {"last": np.zeros(1000, dtype=np.int64)}).close()
    return path


def check_numbered(path: Path) -> int:
    with FramesReader(path) as reader:
        frames = reader.read()
        numbers = np.arange(len(reader))
        # exact in single precision, and not so far from the origin that frames are centred
        expected = np.broadcast_to(numbers[:, None, None] / 1024, (len(numbers), 3, 3))
        np.testing.assert_array_equal(frames.positions, expected)
        assert frames.forces is not None
        assert frames.energies is not None
        np.testing.assert_array_equal(frames.forces, -1024 * frames.positions)
        np.testing.assert_array_equal(frames.energies, numbers * 0.5)
        np.testing.assert_array_equal(reader.state()["last"], len(numbers))
        return len(reader)


@pytest.mark.parametrize("n_frames", [0, 1, 2501])  # 2501 frames need three chunks
def test_what_is_written_is_read(tmp_path: Path, n_frames: int) -> None:
    frames = some_frames(n_frames, log_weights=True, replica=True)
    write_frames(tmp_path / "f.h5", frames)
    assert_same(read_frames(tmp_path / "f.h5"), frames)
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_appended_chunks_are_read_in_parts(tmp_path: Path) -> None:
    parts = [some_frames(n, seed=0) for n in (3, 1500, 1, 700)]
    with FramesWriter.create(tmp_path / "f.h5", parts[0]) as writer:
        for part in parts:
            writer.append(part)
            with FramesReader(tmp_path / "f.h5") as reader:  # while it is being written
                assert len(reader) == len(writer)
    whole = concatenate(parts)
    assert_same(read_frames(tmp_path / "f.h5"), whole)
    with FramesReader(tmp_path / "f.h5") as reader:
        assert_same(reader.read(2, 1800), whole[2:1800])
        assert_same(concatenate(list(reader.blocks(400))), whole)


def test_arrays_carry_units_and_no_object_types(tmp_path: Path) -> None:
    write_frames(tmp_path / "f.h5", some_frames(4))
    with h5py.File(tmp_path / "f.h5") as file:
        assert file["positions"].attrs["units"] == b"nm"
        assert file["forces"].attrs["units"] == b"kJ/mol/nm"
        assert file["energies"].attrs["units"] == b"kJ/mol"
        assert file["forces"].dtype == np.float32
        assert file["energies"].dtype == np.float64
        kinds: list[str] = []
        file.visititems(lambda _, item: kinds.append(item.dtype.kind) if isinstance(item, h5py.Dataset) else None)
        assert "O" not in kinds
    assert describe_frames(tmp_path / "f.h5")["frames"] == 4


def test_killed_writer_leaves_every_committed_chunk(tmp_path: Path) -> None:
    path = numbered(tmp_path / "f.h5")
    rng = random.Random(0)
    n_before = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", APPENDING, str(path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05 + 0.2 * rng.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        n_frames = check_numbered(path)
        assert n_frames > n_before
        n_before = n_frames
    with FramesWriter.resume(path) as writer:
        assert len(writer) == n_before
    assert check_numbered(path) == n_before


def test_checksum_of_the_superblock_is_hdf5s(tmp_path: Path, left_by_a_killed_writer: Path) -> None:
    write_frames(tmp_path / "f.h5", some_frames(3))
    for path in (tmp_path / "f.h5", left_by_a_killed_writer):
        content = path.read_bytes()
        assert lookup3(content[:44]) == int.from_bytes(content[44:48], "little")
        assert is_marked(path) == (path is left_by_a_killed_writer)
    with pytest.raises(OSError, match="already open for write"):
        h5py.File(left_by_a_killed_writer)


def test_chunk_without_its_commit_is_not_seen(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_frames(path, some_frames(10))
    with h5py.File(path, "r+") as file:
        for name in ("positions", "forces", "energies"):
            file[name].resize(15, axis=0)
    assert_same(read_frames(path), some_frames(10))
    with FramesWriter.resume(path) as writer:
        writer.append(some_frames(3, seed=0))
    assert len(read_frames(path)) == 13


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    script = f"""
import resource, signal
from smoothflow.core.errors import FileFormatError
from smoothflow.molecules.frames_file import FramesReader, FramesWriter, read_frames
with FramesReader({str(tmp_path / "f.h5")!r}) as reader:
    frames = reader.read()
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = FramesWriter.create({str(tmp_path / "g.h5")!r}, frames)
try:
    while True:
        writer.append(frames)
except FileFormatError as error:
    assert "make room" in str(error), error
writer.close()
print(len(writer))
"""
    write_frames(tmp_path / "f.h5", some_frames(200))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    n_frames = int(done.stdout)
    assert n_frames > 0
    frames = read_frames(tmp_path / "g.h5")
    assert len(frames) == n_frames
    assert_same(frames[:200], some_frames(200))


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    stale = [tmp_path / f".f.h5.{name}.part" for name in ("a1b2", "c3d4")]
    others = tmp_path / ".g.h5.a1b2.part"
    for part in (*stale, others):
        part.write_bytes(b"the beginning of a copy")
    with FramesWriter.create(path, some_frames(0)) as writer:
        assert not any(part.exists() for part in stale)
        writer.append(some_frames(2))
    stale[0].write_bytes(b"the beginning of a copy")
    with FramesWriter.resume(path) as writer:
        assert len(writer) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [".g.h5.a1b2.part", "f.h5"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with FramesWriter.create(path, some_frames(0)) as writer:
        with pytest.raises(ConfigurationError, match="another process"):
            FramesWriter.resume(path)
        with pytest.raises(ConfigurationError, match="exists"):
            FramesWriter.create(path, some_frames(0))
        writer.append(some_frames(2))
    with FramesWriter.resume(path) as writer:
        assert len(writer) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_appending_other_frames_is_refused(tmp_path: Path) -> None:
    with FramesWriter.create(tmp_path / "f.h5", some_frames(0)) as writer:
        with pytest.raises(FileFormatError, match="forces"):
            writer.append(replace(some_frames(2), forces=None))
        with pytest.raises(FileFormatError, match="another molecule"):
            writer.append(replace(some_frames(2), temperature=310.0))
        assert len(writer) == 0


def test_missing_file_and_other_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no file"):
        read_frames(tmp_path / "none.h5")
    with pytest.raises(FileFormatError, match="cannot be written"):
        write_frames(tmp_path / "no folder" / "f.h5", some_frames(1))
    (tmp_path / "text.h5").write_text("ATOM")
    with pytest.raises(FileFormatError, match="convert"):
        read_frames(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["positions"] = np.zeros((2, 3, 3))
    with pytest.raises(FileFormatError, match="not a frames file"):
        read_frames(tmp_path / "other.h5")


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    write_frames(tmp_path / "f.h5", some_frames(2))
    with h5py.File(tmp_path / "f.h5", "r+") as file:
        file.attrs["schema"] = 99
    with pytest.raises(FileFormatError, match=r"schema 99.*Update"):
        read_frames(tmp_path / "f.h5")


@pytest.fixture(scope="module")
def left_by_a_killed_writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "f.h5"
    write_frames(path, some_frames(3000))
    script = f"""
import os
from smoothflow.molecules.frames_file import FramesWriter
writer = FramesWriter.resume({str(path)!r})
os._exit(0)"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert_same(read_frames(path), some_frames(3000))
    return path


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, part: float, killed: bool, left_by_a_killed_writer: Path) -> None:
    path = tmp_path / "f.h5"
    if killed:
        shutil.copy(left_by_a_killed_writer, path)
    else:
        write_frames(path, some_frames(3000))
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(FileFormatError, match=r"truncated|damaged|not a frames file"):
        read_frames(path)


def _replace(file: h5py.File, name: str, **options: object) -> None:
    del file[name]
    file.create_dataset(name, **options)


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: (
            _replace(file, "positions", shape=(10**12, 3, 3), chunks=(1000, 3, 3), dtype="f4"),
            file.__delitem__("chunks"),
        ),
        lambda file: _replace(file, "positions", data=np.zeros((5, 4, 3), "f4")),
        lambda file: _replace(file, "positions", data=np.zeros((5, 3, 3), "f8")),
        lambda file: file["positions"].attrs.__setitem__("units", b"angstrom"),
        lambda file: file["commit"].__setitem__(slice(None), (10**12, 1)),
        lambda file: file["commit"].__setitem__(slice(None), (-1, 1)),
        lambda file: _replace(file, "topology", data=np.bytes_(b'{"atoms": [], "bonds": [[0, 1]]}')),
        lambda file: _replace(file, "topology", data=np.bytes_(b"not json")),
        lambda file: _replace(file, "topology", data="text of variable length"),
        lambda file: file.__delitem__("state"),
        lambda file: file.__delitem__("positions"),
        lambda file: (file.__delitem__("positions"), file.__setitem__("positions", h5py.ExternalLink("x.h5", "/p"))),
        lambda file: file.attrs.__setitem__("temperature", "warm"),
    ],
)
def test_hostile_file_is_refused(tmp_path: Path, harm: object) -> None:
    path = tmp_path / "f.h5"
    write_frames(path, some_frames(5))
    with h5py.File(path, "r+") as file:
        harm(file)  # type: ignore[operator]
    with pytest.raises((FileFormatError, TopologyError)):
        read_frames(path)


def test_compressed_arrays_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_frames(path, some_frames(5))
    with h5py.File(path, "r+") as file:  # a small file that would fill the memory
        _replace(file, "energies", shape=(10**9,), chunks=(10**6,), dtype="f8", compression="gzip")
        file["energies"].attrs["units"] = b"kJ/mol"
    with pytest.raises(FileFormatError, match="stored"):
        read_frames(path)


def test_any_damage_gives_frames_or_one_clear_error(tmp_path: Path, left_by_a_killed_writer: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "f.h5"
    write_frames(path, some_frames(7))
    for content in (path.read_bytes(), left_by_a_killed_writer.read_bytes()):
        written = [place for place, byte in enumerate(content[:20_000]) if byte != 0]
        outcomes = set()
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(rng.choice([1, 1, 2, 8])):
                damaged[rng.choice(written)] = rng.randrange(256)
            path.write_bytes(damaged)
            try:
                with FramesReader(path) as reader:
                    reader.read()
                    reader.state()
                outcomes.add("read")
            except SmoothflowError:
                outcomes.add("refused")
        assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("column", ["positions", "forces", "energies"])
def test_values_that_are_not_finite_name_their_frame(tmp_path: Path, column: str) -> None:
    frames = some_frames(20)
    values = getattr(frames, column).copy()
    values[13] = np.nan
    with pytest.raises(GeometryError, match=r"1 of 20 frames, first in frame 13"):
        replace(frames, **{column: values})


def test_arrays_that_do_not_fit_are_refused() -> None:
    frames = some_frames(4)
    with pytest.raises(FileFormatError, match=r"Forces of 4 frames .* shape"):
        replace(frames, forces=np.zeros((3, 3, 3)))
    with pytest.raises(FileFormatError, match="temperature"):
        replace(frames, temperature=0.0)
    with pytest.raises(FileFormatError, match="no forces"):
        replace(frames, forces=None).require_forces()


def test_another_molecule_is_refused() -> None:
    other = Topology(WATER.atoms[::-1], ((0, 2), (1, 2)))
    with pytest.raises(TopologyError, match="Atom order differs"):
        some_frames(2).require_topology(other, '"model"')
    with pytest.raises(TopologyError, match="Bonds differ"):
        some_frames(2).require_topology(Topology(WATER.atoms, ((0, 1), (1, 2))), '"model"')


def test_digest_changes_with_the_data() -> None:
    frames = some_frames(3)
    assert frames.digest() == some_frames(3).digest()
    positions = frames.positions.copy()
    positions[0, 0, 0] = np.nextafter(positions[0, 0, 0], np.float32(1))
    assert replace(frames, positions=positions).digest() != frames.digest()
