"""Frames that are committed are there whatever happens to the writes after them: half of them, none, or an error."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from smoothflow.core.topology import Atom, Topology
from smoothflow.molecules import frames_file
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.frames_file import FramesReader, FramesWriter, read_frames

SECTOR = 512
"""What a disk writes as a whole."""

WATER = Topology((Atom("O", "O", "HOH", 1), Atom("H1", "H", "HOH", 1), Atom("H2", "H", "HOH", 1)), ((0, 1), (0, 2)))


def numbered(first: int, n_frames: int) -> Frames:
    """Frames whose numbers say which they are."""
    index = np.arange(first, first + n_frames)
    return Frames(WATER, 300.0, index[:, None, None] + np.zeros((n_frames, 3, 3)), energies=index.astype(float))


def half_written(before: bytes, after: bytes, chosen: random.Random) -> bytes:
    """A file of which a random part of the changed sectors reached the disk; what lies behind may be cut off."""
    length = len(before) if chosen.random() < 0.3 else len(after)
    old, new = before.ljust(len(after), b"\0"), after
    share = chosen.random()
    sectors = [
        (new if chosen.random() < share else old)[start : start + SECTOR] for start in range(0, len(after), SECTOR)
    ]
    return b"".join(sectors)[:length]


@pytest.mark.parametrize("seed", range(3))
def test_committed_frames_survive_a_machine_that_goes_down_within_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    # so many chunks that HDF5's index grows by blocks of every kind
    monkeypatch.setattr(frames_file, "CHUNK_BYTES", 4 * 36)
    path, torn = tmp_path / "f.h5", tmp_path / "torn.h5"
    chosen = random.Random(seed)
    writer = FramesWriter.create(path, numbered(0, 0), {"at": np.zeros(1, dtype=np.int64)})
    synced: list[bytes] = []
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(path.read_bytes())

    monkeypatch.setattr(os, "fsync", sync)
    synced.append(path.read_bytes())
    n_frames, ends = 0, []
    for _ in range(60):
        new = chosen.randint(1, 12)
        writer.append(numbered(n_frames, new), {"at": np.array([n_frames + new])})
        n_frames += new
        ends.append(n_frames)
    writer.close()
    n_torn = 0
    for i, (before, after) in enumerate(pairwise(synced)):
        for _ in range(3):
            torn.write_bytes(half_written(before, after, chosen))
            with FramesReader(torn) as reader:
                found, state = reader.read(), reader.state()
                n_torn += bool(reader._places)
            # between two syncs of an append the frames before it are there; from its last one on, also its own
            allowed = {0, *ends[max(0, i // 2 - 1) : i // 2 + 1]} if i < 2 else set(ends[i // 2 - 1 : i // 2 + 1])
            assert len(found) in allowed
            assert np.array_equal(found.energies, np.arange(len(found)))
            assert np.array_equal(found.positions[:, 0, 0], np.arange(len(found)))
            assert state["at"].item() == len(found)
    # otherwise nothing was torn that mattered
    assert n_torn > 5


def test_a_run_goes_on_from_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with FramesWriter.create(path, numbered(0, 0)) as writer:
        writer.append(numbered(0, 2500))
        header = writer._file["positions"].id
        address = frames_file.import_h5py().h5o.get_info(header).addr
    content = bytearray(path.read_bytes())
    content[address + 20 : address + 60] = bytes(40)
    path.write_bytes(content)
    with FramesWriter.resume(path) as writer:
        writer.append(numbered(2500, 10))
    assert np.array_equal(read_frames(path).energies, np.arange(2510))


def test_the_record_of_what_is_committed_lies_within_one_sector(tmp_path: Path) -> None:
    for n_atoms in range(1, 40):
        # topologies of many lengths move it
        topology = Topology(tuple(Atom("H", f"H{i}", "MOL", 1) for i in range(n_atoms)), ())
        kind = Frames(topology, 300.0, np.zeros((0, n_atoms, 3)))
        with FramesWriter.create(tmp_path / f"{n_atoms}.h5", kind) as writer:
            offset = writer._file["commit"].id.get_offset()
        assert offset // SECTOR == (offset + 15) // SECTOR


CHILD = """
import os, resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_torn_writes as t
from smoothflow.core.errors import SmoothflowError
from smoothflow.molecules.frames_file import FramesWriter, read_frames
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
FramesWriter._reserve = lambda self, needed: None
usual = resource.getrlimit(resource.RLIMIT_FSIZE)
folder, n_failed, complete = Path(sys.argv[2]), 0, False
for kilobytes in range(0, 1200, 4):
    path = folder / f"{kilobytes}.h5"
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * kilobytes, usual[1]))
    n_frames = None
    try:
        with FramesWriter.create(path, t.numbered(0, 0)) as writer:
            n_frames = 0
            for _ in range(5):
                writer.append(t.numbered(n_frames, 1500))
                n_frames += 1500
    except SmoothflowError as error:
        assert "cannot be" in str(error) and chr(10) not in str(error), error
        n_failed += 1
    else:
        complete = True
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    if n_frames is None:
        assert list(folder.iterdir()) == []
        continue
    assert len(read_frames(path)) == n_frames
    path.unlink()
print(n_failed, complete)
"""


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_write_costs_no_committed_frame(tmp_path: Path) -> None:
    found = subprocess.run(
        [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stderr) == (0, "")
    n_failed, complete = found.stdout.split()
    assert int(n_failed) > 50
    assert complete == "True"
