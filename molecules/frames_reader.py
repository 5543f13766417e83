"""Reading frames files; `frames_file` says how they are written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from ..core.errors import FileFormatError, SmoothflowError, TopologyError
from ..core.files import parse_json
from ..core.optional import import_optional
from ..core.topology import Topology
from .frames import BLOCK, COLUMNS, Frames
from .superblock import ClearedFile, is_marked, require_chunk_index, require_no_extension, require_plain_heaps

FORMAT = "smoothflow-frames"
SCHEMA = 1
UNITS = {
    "positions": "nm",
    "forces": "kJ/mol/nm",
    "energies": "kJ/mol",
    "log_weights": "1",
    "replica": "1",
    "times": "ps",
}
MAX_JSON_BYTES = 2 * 2**20
"""Largest JSON attribute: enough for twenty thousand atoms, and parsed in a fraction of a second."""

PLACES = "chunks"
"""Where the offsets of each column's chunks are written down."""

MAX_STATE_ARRAYS = 64
MAX_ATTRIBUTE_BYTES = 256

LARGEST_SHRINKAGE = 100
"""File systems compress frames by a factor of two at best; what takes a hundredth of its size on disk has no data."""

HDF5_ERRORS = (OSError, RuntimeError, OverflowError)
"""What HDF5 raises for a damaged file or a full disk."""

State = Mapping[str, ndarray]
"""Arrays that a simulation continues from; their names, shapes and types are fixed when the file is created."""


def import_h5py() -> Any:
    """h5py, or a `MissingDependencyError` that names the extra."""
    return import_optional("h5py", "Reading and writing frames", "train")


class FramesReader:
    """Reads a frames file in parts, also while another process appends to it.

    Args:
        path: A frames file.

    Raises:
        FileFormatError: If the file is missing, truncated, of another format or of a newer schema.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = _open_for_reading(self.path)
        try:
            self._check()
        except SmoothflowError:
            self.close()
            raise
        except (*HDF5_ERRORS, KeyError, ValueError, TypeError, AttributeError) as error:
            self.close()
            raise FileFormatError(
                f'"{self.path}" is damaged, or not a frames file ({type(error).__name__}: {error}). '
                'Give a file written by "smoothflow simulate", or import it with "smoothflow convert".'
            ) from error

    def __len__(self) -> int:
        return self._n_frames

    def __enter__(self) -> FramesReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, start: int = 0, stop: int | None = None) -> Frames:
        """The frames from ``start`` up to ``stop``, which need not exist.

        Raises:
            FileFormatError: If the data cannot be read.
            GeometryError: If they are not finite.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        try:
            columns = {name: self._column(name, start, stop) for name in self.columns}
        except HDF5_ERRORS as error:
            self._damaged(str(error))
        except MemoryError as error:
            raise FileFormatError(
                f'{stop - start} frames of "{self.path}" do not fit into the memory. Split the file, or use a larger '
                "machine."
            ) from error
        try:
            return Frames(topology=self.topology, temperature=self.temperature, provenance=self.provenance, **columns)
        except SmoothflowError as error:
            raise type(error)(f'In "{self.path}", frames from {start}: {error}') from error

    def blocks(self, size: int = BLOCK) -> Iterator[Frames]:
        """All frames, ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.read(start, start + size)

    def state(self) -> dict[str, ndarray]:
        """What a simulation continues from after the last frame; empty if the writer kept nothing."""
        try:
            return {name: dataset[self._n_commits % 2] for name, dataset in self._file["state"].items()}
        except HDF5_ERRORS as error:
            self._damaged(str(error))

    def _check(self) -> None:
        # before HDF5 looks for a name in them
        require_no_extension(self.path)
        self._require_plain_heaps(self._file)
        if "format" not in self._file.attrs or _text(self._attribute(self._file, "format")) != FORMAT:
            raise FileFormatError(
                f'"{self.path}" is an HDF5 file, but not a frames file. Give a file written by "smoothflow simulate", '
                'or import it with "smoothflow convert".'
            )
        schema = int(self._attribute(self._file, "schema"))
        if schema > SCHEMA:
            raise FileFormatError(
                f'"{self.path}" has schema {schema}; this version reads up to {SCHEMA}. Update smoothflow.'
            )
        status = self.path.stat()
        if 0 < 512 * status.st_blocks < status.st_size // LARGEST_SHRINKAGE:
            self._damaged(f"of its {status.st_size} bytes, {512 * status.st_blocks} are there")
        self.temperature = float(self._attribute(self._file, "temperature"))
        try:
            self.topology = Topology.from_dict(self._json("topology"))
        except TopologyError as error:
            raise FileFormatError(f'The topology in "{self.path}" is damaged: {error}') from error
        self.provenance: dict[str, Any] = dict(self._json("provenance"))
        commit = self._stored("commit", (2,), np.int64)[:]
        self._n_frames, self._n_commits = (int(value) for value in commit)
        if self._n_frames < 0 or self._n_commits < 0:
            self._damaged(f"it claims {self._n_frames} frames")
        self.columns = [name for name in COLUMNS if self._file.get(name, getlink=True) is not None]
        if "positions" not in self.columns:
            self._damaged("it holds no positions")
        self._places: dict[str, Int[ndarray, "chunks"]] = {}
        for name in self.columns:
            try:
                self._check_column(name)
            except (*HDF5_ERRORS, KeyError, ValueError) as error:
                # the machine went down while HDF5 changed its index
                if self._file.get(PLACES, getlink=True) is None:
                    self._damaged(str(error))
                self._places[name] = self._read_places(name)
        group = self._own("state")
        if not isinstance(group, import_h5py().Group) or len(group) > MAX_STATE_ARRAYS:
            self._damaged('"state" is not a group of few arrays')
        self._require_plain_heaps(group)
        n_bytes = 0
        for name in group:
            dataset = self._stored(f"state/{name}", None, None)
            if dataset.ndim == 0 or dataset.shape[0] != 2 or dataset.dtype.kind not in "fiu":
                self._damaged(f'its state "{name}" has shape {dataset.shape}')
            n_bytes += dataset.size * dataset.dtype.itemsize
            self._require_bytes(dataset.id.get_offset() or 0, dataset.size * dataset.dtype.itemsize, dataset.name)
        # the arrays may not share their place in the file
        self._require_bytes(0, n_bytes, "state")

    def _column(self, name: str, start: int, stop: int) -> ndarray:
        """The values of some frames."""
        if name not in self._places:
            values: ndarray = self._file[name][start:stop]
            return values
        dtype, is_vector = COLUMNS[name]
        tail = (len(self.topology), 3) if is_vector else ()
        rows = int(self._attribute(self._file[f"{PLACES}/{name}"], "frames_per_chunk"))
        first, last = start // rows, -(-stop // rows)
        with self.path.open("rb") as file:
            parts = [np.zeros((0, *tail), dtype)]
            for place in self._places[name][first:last]:
                file.seek(place)
                part = np.frombuffer(file.read(rows * int(np.prod(tail)) * np.dtype(dtype).itemsize), dtype)
                parts.append(part.reshape(rows, *tail))
        return np.concatenate(parts)[start - first * rows : stop - first * rows]

    def _read_places(self, name: str) -> Int[ndarray, "chunks"]:
        """Where the chunks of a column are, as the writer wrote it down."""
        dtype, is_vector = COLUMNS[name]
        n_values = len(self.topology) * 3 if is_vector else 1
        dataset = self._dataset(f"{PLACES}/{name}", None, np.int64)
        rows = int(self._attribute(dataset, "frames_per_chunk"))
        n_needed = -(-self._n_frames // max(rows, 1))
        if dataset.ndim != 1 or dataset.chunks is not None or rows < 1 or n_needed > len(dataset):
            self._damaged(f"its {name} have no index")
        places: Int[ndarray, "chunks"] = dataset[:n_needed]
        for place in places:
            if place <= 0:
                self._damaged(f"its {name} have no index")
            self._require_bytes(int(place), rows * n_values * np.dtype(dtype).itemsize, name)
        return places

    def _check_column(self, name: str) -> None:
        dtype, is_vector = COLUMNS[name]
        tail = (len(self.topology), 3) if is_vector else ()
        dataset = self._dataset(name, None, dtype)
        if dataset.shape[1:] != tail:
            self._damaged(f"its {name} have shape {dataset.shape} for {self._n_frames} frames")
        if dataset.chunks is None or dataset.chunks[1:] != tail or dataset.id.get_create_plist().get_nfilters():
            self._damaged(f"its {name} are stored in an unknown way")
        self._require_plain_heaps(dataset)
        unit = _text(self._attribute(dataset, "units"))
        if unit != UNITS[name]:
            self._damaged(f"its {name} are in {unit}, not {UNITS[name]}")
        # before HDF5 makes use of it
        require_chunk_index(self.path, import_h5py().h5o.get_info(dataset.id).addr)
        # HDF5 reads zeros where a file in this mode was cut off, so that has to be found here
        n_needed = -(-self._n_frames // dataset.chunks[0])
        n_chunks = dataset.id.get_num_chunks()
        if n_chunks < n_needed or dataset.shape[0] < self._n_frames:
            raise ValueError(
                f"its {name} have shape {dataset.shape} for {self._n_frames} frames, and of {n_needed} chunks "
                f"{n_chunks} are there"
            )
        ends = [0]
        dataset.id.chunk_iter(
            lambda chunk: (
                ends.append(chunk.byte_offset + chunk.size) if chunk.chunk_offset[0] < self._n_frames else None
            )
        )
        self._require_bytes(0, max(max(ends), int(np.prod(dataset.chunks)) * dataset.dtype.itemsize * n_needed), name)

    def _require_bytes(self, offset: int, size: int, name: str) -> None:
        n_bytes = self.path.stat().st_size
        if offset + size > n_bytes:
            self._damaged(f"it is truncated: {name} should end at byte {offset + size}, and the file has {n_bytes}")

    def _dataset(self, name: str, shape: tuple[int, ...] | None, dtype: Any) -> Any:
        dataset = self._own(name)
        if not isinstance(dataset, import_h5py().Dataset) or dataset.is_virtual or dataset.external:
            self._damaged(f'"{name}" is not stored in it')
        if (shape is not None and dataset.shape != shape) or (dtype is not None and dataset.dtype != np.dtype(dtype)):
            self._damaged(f'"{name}" has shape {dataset.shape} and type {dataset.dtype}')
        return dataset

    def _stored(self, name: str, shape: tuple[int, ...] | None, dtype: Any) -> Any:
        """A dataset that is stored in one piece as it is: none that a filter would make a thousand times larger."""
        dataset = self._dataset(name, shape, dtype)
        plist = dataset.id.get_create_plist()
        h5d = import_h5py().h5d
        if plist.get_layout() not in (h5d.COMPACT, h5d.CONTIGUOUS) or plist.get_nfilters():
            self._damaged(f'"{name}" is stored in an unknown way')
        return dataset

    def _require_plain_heaps(self, owner: Any) -> None:
        require_plain_heaps(self.path, import_h5py().h5o.get_info(owner.id).addr)

    def _attribute(self, owner: Any, name: str) -> Any:
        """A single number or word that is an attribute."""
        attribute = owner.attrs.get_id(name)
        if attribute.shape != () or attribute.dtype.itemsize > MAX_ATTRIBUTE_BYTES:
            self._damaged(f'its attribute "{name}" has shape {attribute.shape} and type {attribute.dtype}')
        return owner.attrs[name]

    def _own(self, name: str) -> Any:
        """What is stored under a name in this file; links to elsewhere are not followed."""
        if not isinstance(self._file.get(name, getlink=True), import_h5py().HardLink):
            self._damaged(f'"{name}" is not stored in it')
        return self._file[name]

    def _json(self, name: str) -> Any:
        dataset = self._stored(name, (), None)
        if dataset.dtype.kind != "S" or dataset.dtype.itemsize > MAX_JSON_BYTES:
            self._damaged(f'"{name}" has type {dataset.dtype}')
        self._require_bytes(dataset.id.get_offset() or 0, dataset.dtype.itemsize, name)
        return parse_json(dataset[()])

    def _damaged(self, how: str) -> NoReturn:
        raise FileFormatError(f'"{self.path}" is damaged: {how}. Get the file again, or make it anew.')


def _open_for_reading(path: Path) -> Any:
    h5py = import_h5py()
    try:
        if path.exists() and not path.is_file():
            what = "a folder" if path.is_dir() else "not a regular file"
            raise FileFormatError(f'"{path}" is {what}, and not a frames file.')
        if not path.is_file():
            raise FileFormatError(
                f'There is no file "{path}". Give the path of a file written by "smoothflow simulate".'
            )
        if not h5py.is_hdf5(path):
            raise FileFormatError(
                f'"{path}" is not a frames file (HDF5). Import XYZ, npz and trajectories with "smoothflow convert".'
            )
        if is_marked(path):
            # its writer was killed, or is at work
            return h5py.File(ClearedFile(path), "r")
        return h5py.File(path, "r", locking=False)
    except HDF5_ERRORS as error:
        raise FileFormatError(f'"{path}" cannot be read, or it is truncated: {error}.') from error


def _text(value: Any) -> str:
    return bytes(value).decode() if isinstance(value, bytes) else str(value)
