"""Frames files: HDF5 that can be appended to while running and read after a kill at any moment.

The file is written in HDF5's single-writer multiple-reader mode: metadata reach the file in an order that leaves it
readable at every instant, which ordinary HDF5 does not promise. On top of it, an append first writes and syncs the
data and only then the record ``commit`` of 16 bytes: the number of valid frames and the number of appends. Readers
trust that record alone, so a chunk cut short is never seen. HDF5 changes the index of an array's chunks in place, which
a machine that goes down can leave half done; the places of the chunks are therefore also written down where nothing is
ever changed, in ``chunks``, and readers go by these where the index is damaged. The record never crosses the border of
two sectors of a disk. The state that a simulation continues from is kept twice
and written in turns; the number of appends says which of the two belongs to the frames. Files have neither
compression nor object types.

Other programs open a file whose writer was killed with ``h5py.File(path, swmr=True)``.

What is promised: a kill, a full disk or a machine that goes down at any moment costs no frame that an append has
returned for; the file can be read while it is written; one file holds everything; a stranger's file neither hangs nor
fills the memory. Why not with less:

- *HDF5 as it is opened by default* writes metadata in place and in any order: a kill can leave a file that nothing
  opens.
- *Its single-writer multiple-reader mode alone* orders writes, but a metadata block half on disk still takes all frames
  with it (hence ``chunks``); it leaves a mark that keeps others from opening the file, waits for ever on a damaged one
  (hence `superblock`), and crashes where it cannot write (hence the reserved space and the sink of `_let_go`).
- *A folder with a file for each append*, complete or not there, would need neither index nor mark nor surgery. But it
  is another format: files of today must go on opening, so reader and `superblock`, more than half of the lines, stay
  beside the new ones, and data would no longer be one file that is copied, hashed and handed on.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..core.errors import ConfigurationError, FileFormatError
from ..core.files import require_free, require_in_place
from ..runs.locks import lock_descriptor
from .frames import BLOCK, COLUMNS, Frames
from .frames_reader import FORMAT, HDF5_ERRORS, PLACES, SCHEMA, UNITS, FramesReader, State, import_h5py
from .superblock import cleared_start

__all__ = ["FramesReader", "FramesWriter", "State", "describe_frames", "read_frames", "write_blocks", "write_frames"]

OTHER_FORMATS = frozenset(
    (
        *(".xyz", ".extxyz", ".npz", ".pdb", ".ent", ".cif", ".sdf", ".smi"),
        *(".xtc", ".dcd", ".trr", ".nc", ".csv", ".json", ".yaml", ".html", ".safetensors", ".pt2", ".xml"),
    )
)
"""Suffixes of what is not HDF5: whoever names a file so would be misled by it."""

COMMIT_BYTES = 16

MAX_PLACES = 2**13
"""Chunks of a column whose places are written down: 2 GiB of it, 8 million frames of a small molecule."""

CHUNK_BYTES = 2**18
"""Size of the pieces in which HDF5 stores arrays."""

PAGE_BYTES = 2**12

SPARE_BYTES = 2**18
"""Disk space kept free for HDF5's own records."""


class FramesWriter:
    """Appends frames to a file; `create` and `resume` make one, and only one at a time exists per file."""

    def __init__(self, path: Path, kind: Frames, state: State) -> None:
        h5py = import_h5py()
        self.path = path
        self._kind = kind[:0]
        self._n_frames = self._n_commits = 0
        self._closed = self._published = False
        try:
            self._descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        except OSError as error:
            raise FileFormatError(f'"{path}" cannot be written: {error.strerror}.') from error
        self._temporary = Path(name)
        try:
            umask = os.umask(0)
            os.umask(umask)
            os.fchmod(self._descriptor, 0o666 & ~umask)
            lock_descriptor(self._descriptor, f'"{path}"')
            self._file: Any = None
            self._reserve(SPARE_BYTES)
            _write_sparsely(self._descriptor, _lay_out(kind, state))
            self._file = h5py.File(name, "r+", libver="latest", locking=False)
            self._file.swmr_mode = True
            os.fsync(self._descriptor)
        except BaseException as error:
            self._let_go()
            os.close(self._descriptor)
            self._temporary.unlink(missing_ok=True)
            if isinstance(error, HDF5_ERRORS):
                raise FileFormatError(f'"{path}" cannot be written: {_reason(error)}.') from error
            raise

    @classmethod
    def create(cls, path: str | Path, kind: Frames, state: State | None = None) -> FramesWriter:
        """Start a file under its final name.

        Args:
            path: A name that is free.
            kind: Frames of the kind to be written (none of them is): molecule, temperature, columns, provenance.
            state: What a simulation would continue from now.

        Raises:
            ConfigurationError: If the file exists, or its name is that of a file of another format.
            FileFormatError: If it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() in OTHER_FORMATS:
            raise ConfigurationError(
                f'Frames files are HDF5, and "{path}" has the suffix of another format. Call it '
                f'"{path.with_suffix(".h5").name}"; smoothflow convert writes others of it.'
            )
        with _turn_in(path.parent):
            _sweep(path)
            require_free(path)
            writer = cls(path, kind, state or {})
            writer.publish()
        return writer

    @classmethod
    def resume(cls, path: str | Path, n_frames: int | None = None) -> FramesWriter:
        """Go on with a file, whether its writer closed it or was killed.

        The committed frames are copied to a new file that takes the old one's place, so what was cut short is gone.

        Args:
            path: The file.
            n_frames: Keep only so many of its frames, the first ones.

        Raises:
            FileFormatError: If the file is missing, damaged or has fewer frames.
            ConfigurationError: If another process writes it.
        """
        path = Path(path)
        if not path.is_file():
            raise FileFormatError(f'There is no file "{path}" to go on with.')
        if path.is_symlink():
            raise FileFormatError(f'"{path}" is a symbolic link, which a run cannot go on with: name the file itself.')
        with _turn_in(path.parent), path.open("rb") as old:
            lock_descriptor(old.fileno(), f'"{path}"')
            _sweep(path)
            with FramesReader(path) as reader:
                end = len(reader) if n_frames is None else n_frames
                if end > len(reader):
                    raise FileFormatError(f'"{path}" has {len(reader)} frames; {end} were expected.')
                writer = cls(path, reader.read(0, 0), reader.state())
                try:
                    for start in range(0, end, BLOCK):
                        writer.append(reader.read(start, min(start + BLOCK, end)), reader.state())
                except BaseException:
                    writer.abandon()
                    raise
            writer.publish()
        return writer

    def __len__(self) -> int:
        return self._n_frames

    def __enter__(self) -> FramesWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except FileFormatError:
            # what made the writer give up says more
            if error is None:
                raise

    def append(self, frames: Frames, state: State | None = None) -> None:
        """Add frames; they and the state are in the file when this returns, or not at all.

        Raises:
            FileFormatError: If they do not fit the file, or the disk is full; the file stays as it was.
        """
        if frames.topology != self._kind.topology or frames.temperature != self._kind.temperature:
            raise FileFormatError(f'"{self.path}" holds frames of another molecule or temperature.')
        for name in COLUMNS:
            if (getattr(frames, name) is None) != (getattr(self._kind, name) is None):
                raise FileFormatError(f'Either all frames in "{self.path}" have {name}, or none; these differ.')
        if self._file is None:
            raise FileFormatError(f'"{self.path}" could not be written before. Resume it.')
        end = self._n_frames + len(frames)
        n_commits = self._n_commits + 1
        try:
            self._require_place()
            self._require_space(end)
        except OSError as error:
            raise self._unwritten(error) from error
        try:
            for name in COLUMNS:
                values = getattr(frames, name)
                if values is not None:
                    dataset = self._file[name]
                    dataset.resize(end, axis=0)
                    dataset[self._n_frames : end] = values
                    dataset.flush()
                    self._note_chunks(name, end)
            for name, values in (state or {}).items():
                dataset = self._file[f"state/{name}"]
                dataset[n_commits % 2] = values
                dataset.flush()
            os.fsync(self._descriptor)
            commit = self._file["commit"]
            commit[:] = (end, n_commits)
            commit.flush()
            os.fsync(self._descriptor)
        except HDF5_ERRORS as error:
            self._let_go()
            raise self._unwritten(error) from error
        self._n_frames, self._n_commits = end, n_commits

    def _require_place(self) -> None:
        """Raise a `FileFormatError` if the file's name is no longer its own."""
        require_in_place(self.path if self._published else self._temporary, self._descriptor)

    def _unwritten(self, error: BaseException) -> FileFormatError:
        return FileFormatError(
            f'"{self.path}" cannot be written: {_reason(error)}. The {self._n_frames} frames in it are safe; '
            "make room and resume."
        )

    def _note_chunks(self, name: str, end: int) -> None:
        """Write down where the chunks of a column are, beside HDF5's own index, which it changes in place."""
        chunks, places = self._file[name], self._file[f"{PLACES}/{name}"]
        rows = chunks.chunks[0]
        first, last = self._n_frames // rows, min(-(-end // rows), len(places))
        if first < last:
            tail = (0,) * (chunks.ndim - 1)
            found = [chunks.id.get_chunk_info_by_coord((i * rows, *tail)).byte_offset for i in range(first, last)]
            places[first:last] = found
            places.flush()

    def _let_go(self) -> None:
        """Close the file in memory, where no write fails: HDF5 crashes if it closes a file that it cannot write."""
        if self._file is None:
            return
        sink = os.memfd_create("frames") if hasattr(os, "memfd_create") else os.open(os.devnull, os.O_RDWR)
        os.dup2(sink, self._file.id.get_vfd_handle())
        os.close(sink)
        # a limit on the size of files holds there, too
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (usual[1], usual[1]))
        try:
            with suppress(*HDF5_ERRORS):
                self._file.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        self._file = None

    def _require_space(self, n_frames: int) -> None:
        """Raise `OSError` unless the disk has room for so many frames, so that HDF5 need not find it out."""
        needed = SPARE_BYTES
        for name in COLUMNS:
            if name in self._file:
                dataset = self._file[name]
                n_chunks = -(-n_frames // dataset.chunks[0]) - dataset.id.get_num_chunks()
                needed += n_chunks * int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
        self._reserve(needed)

    def _reserve(self, needed: int) -> None:
        if not hasattr(os, "posix_fallocate"):
            return
        size = os.fstat(self._descriptor).st_size
        try:
            os.posix_fallocate(self._descriptor, size, needed)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            # other errors: this file system cannot reserve space
        finally:
            os.ftruncate(self._descriptor, size)

    def publish(self) -> None:
        """Give the file its final name."""
        try:
            self._temporary.replace(self.path)
        except OSError as error:
            self.abandon()
            raise FileFormatError(f'"{self.path}" cannot be written: {_reason(error)}.') from error
        self._published = True

    def abandon(self) -> None:
        """Close a file that has no final name yet, and remove it."""
        try:
            self.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file and let others write it."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._published:
                self._require_place()
            if self._file is not None:
                self._file.flush()
                size = max(self._file.id.get_filesize(), os.fstat(self._descriptor).st_size)
                self._let_go()
                os.ftruncate(self._descriptor, size)
                os.pwrite(self._descriptor, cleared_start(self._descriptor), 0)
                os.fsync(self._descriptor)
        except HDF5_ERRORS as error:
            raise FileFormatError(f'"{self.path}" cannot be closed: {_reason(error)}.') from error
        finally:
            self._let_go()
            os.close(self._descriptor)


def read_frames(path: str | Path) -> Frames:
    """All frames of a file; raises as `FramesReader` does."""
    with FramesReader(path) as reader:
        return reader.read()


def describe_frames(path: str | Path) -> dict[str, Any]:
    """What a file holds, in JSON types; raises as `FramesReader` does."""
    with FramesReader(path) as reader:
        return {
            "frames": len(reader),
            "atoms": len(reader.topology),
            "elements": " ".join(reader.topology.elements),
            "temperature": f"{reader.temperature} K",
            "columns": {name: UNITS[name] for name in reader.columns},
            "provenance": reader.provenance,
        }


def write_frames(path: str | Path, frames: Frames) -> None:
    """Write frames to a file, complete or not at all; a file of that name is replaced.

    Raises:
        FileFormatError: If it cannot be written.
    """
    write_blocks(path, (frames[start : start + BLOCK] for start in range(0, max(1, len(frames)), BLOCK)))


def write_blocks(path: str | Path, blocks: Iterator[Frames]) -> None:
    """Write frames that come in blocks, of which one is in memory at a time; otherwise as `write_frames`."""
    first = next(blocks)
    writer = FramesWriter(Path(path), first, {})
    try:
        for block in chain((first,), blocks):
            writer.append(block)
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    writer.publish()


def _lay_out(kind: Frames, state: State) -> bytes:
    """A file of everything but frames: nothing can be added to one in single-writer multiple-reader mode.

    It is made in memory, where no write fails: HDF5 crashes where it cannot write.
    """
    h5py = import_h5py()
    with h5py.File(
        # no file of this name is made
        *("layout.h5", "w"),
        libver="latest",
        driver="core",
        backing_store=False,
        # so that 16 bytes never cross the border of two sectors, and the record is there or not
        alignment_threshold=COMMIT_BYTES,
        alignment_interval=COMMIT_BYTES,
    ) as file:
        _fill(file, kind, state)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _write_sparsely(descriptor: int, content: bytes) -> None:
    """Write a file from its start; pages of zeros take no space."""
    for start in range(0, len(content), PAGE_BYTES):
        page = content[start : start + PAGE_BYTES]
        done = 0
        while any(page) and done < len(page):
            done += os.pwrite(descriptor, page[done:], start + done)
    os.ftruncate(descriptor, len(content))


def _fill(file: Any, kind: Frames, state: State) -> None:
    h5py = import_h5py()
    file.attrs["format"] = np.bytes_(FORMAT)
    file.attrs["schema"] = SCHEMA
    file.attrs["temperature"] = kind.temperature
    file.attrs["temperature_units"] = np.bytes_("K")
    for name, content in (("topology", kind.topology.to_dict()), ("provenance", dict(kind.provenance))):
        file.create_dataset(name, data=np.bytes_(json.dumps(content)))
    # space that is neither written nor taken on disk before it is used
    later = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    later.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    later.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    places = file.create_group(PLACES)
    for name, (dtype, is_vector) in COLUMNS.items():
        if getattr(kind, name) is None:
            continue
        tail = (len(kind.topology), 3) if is_vector else ()
        n_bytes = np.dtype(dtype).itemsize * int(np.prod(tail))
        n_frames = max(1, min(BLOCK, CHUNK_BYTES // n_bytes))
        dataset = file.create_dataset(
            name, shape=(0, *tail), maxshape=(None, *tail), chunks=(n_frames, *tail), dtype=dtype
        )
        h5py.h5d.create(places.id, name.encode(), h5py.h5t.STD_I64LE, h5py.h5s.create_simple((MAX_PLACES,)), later)
        places[name].attrs["frames_per_chunk"] = n_frames
        dataset.attrs["units"] = np.bytes_(UNITS[name])
    group = file.create_group("state")
    for name, values in state.items():
        group.create_dataset(name, data=np.stack([values, values]))
    file.create_dataset("commit", data=np.zeros(2, dtype=np.int64))
    file.flush()


def _reason(error: BaseException) -> str:
    """What went wrong in a few words: HDF5's own are several lines of names and numbers."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split())


def _sweep(path: Path) -> None:
    """Remove what processes that were killed before they published left in a folder; its turn is held."""
    for stale in path.parent.glob(f".{escape(path.name)}.*.part"):
        stale.unlink(missing_ok=True)


@contextmanager
def _turn_in(folder: Path) -> Iterator[None]:
    """One process at a time creates or replaces files in a folder; a matter of milliseconds."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FileFormatError(f'The folder "{folder}" cannot be opened: {error.strerror}.') from error
    try:
        lock_descriptor(descriptor, f'The folder "{folder}"', wait=True)
        yield
    finally:
        os.close(descriptor)
