"""Reporters that write files: frames (HDF5), a table (CSV), and trajectories of other programs (XTC, DCD).

All take any number of replicas on any device, and go on where a checkpoint was written.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from ..core.errors import ConfigurationError, FileFormatError
from ..core.integrator import State
from ..core.reporter import Reporter
from ..core.topology import Topology
from ..core.units import ANGSTROM
from ..molecules.frames import Frames, concatenate
from ..molecules.frames_file import FramesWriter
from ..molecules.trajectories import import_mdtraj
from ..runs.appended import AppendedFile
from .trust import Trust

BUFFER_BYTES = 2**22
"""Positions that are held back before they are written."""


class FramesReporter(Reporter):
    """A frames file (HDF5): positions, forces, energies, times and replicas; readable after a kill.

    Energies and forces are those of the positions before they are rounded to float32.

    Args:
        path: A name that is free, unless the run goes on.
        topology: The molecule.
        temperature: In K.
        provenance: How the frames come to be, in JSON types.
    """

    def __init__(
        self, path: str | Path, topology: Topology, temperature: float, provenance: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.topology = topology
        self.temperature = temperature
        self.provenance = dict(provenance or {})
        self._waiting: list[Frames] = []
        self._writer: FramesWriter | None = None

    def open(self, n_kept: int | None, state: State) -> None:
        self._waiting = []
        if n_kept is not None and self.path.exists():
            self._writer = FramesWriter.resume(self.path, n_kept * len(state.positions))
        elif n_kept:
            raise FileFormatError(f'"{self.path}" is missing: the run that is to go on wrote it. Start that run anew.')
        else:
            self._writer = FramesWriter.create(self.path, self._frames(state)[:0])

    def report(self, step: int, state: State) -> None:
        self._waiting.append(self._frames(state))
        if len(self._waiting) * self._waiting[0].positions.nbytes > BUFFER_BYTES:
            self.sync()

    def sync(self) -> None:
        if self._writer is not None and self._waiting:
            self._writer.append(concatenate(self._waiting))
            self._waiting = []

    def close(self) -> None:
        if self._writer is not None:
            try:
                self.sync()
            finally:
                self._writer.close()
                self._writer = None

    def _frames(self, state: State) -> Frames:
        n_replicas = len(state.positions)
        return Frames(
            topology=self.topology,
            temperature=self.temperature,
            positions=_array(state.positions, np.float32),
            forces=_array(state.forces, np.float32),
            energies=_array(state.potential_energy, np.float64),
            replica=np.arange(n_replicas, dtype=np.int32),
            times=np.full(n_replicas, state.time),
            provenance=self.provenance,
        )


class CSVReporter(Reporter):
    """A table of energies and temperatures, one line for each report and replica; complete lines at any moment.

    Args:
        path: A name that is free, unless the run goes on.
        trust: What is measured of each frame, in further columns.
    """

    HEADER = "step,time_ps,replica,potential_energy_kJ_per_mol,kinetic_energy_kJ_per_mol,temperature_K"

    def __init__(self, path: str | Path, trust: Trust | None = None) -> None:
        self.path = Path(path)
        self.trust = trust
        self._header = ",".join([self.HEADER, *([] if trust is None else trust.columns)]) + "\n"
        self._file: AppendedFile | None = None

    def open(self, n_kept: int | None, state: State) -> None:
        n_bytes = None if n_kept is None else self._end(1 + n_kept * len(state.positions) if n_kept else 0)
        self._file = AppendedFile(self.path, n_bytes)
        if self._file.n_bytes == 0:
            self._file.append(self._header.encode())

    def report(self, step: int, state: State) -> None:
        measured = {} if self.trust is None else self.trust.measure(state)
        columns = [state.potential_energy, state.kinetic_energy, state.temperature, *measured.values()]
        digits = [10, 10, 6, *[10] * len(measured)]
        lines = []
        for replica, values in enumerate(zip(*(_array(x, np.float64) for x in columns), strict=True)):
            numbers = ",".join(f"{value:.{n}g}" for value, n in zip(values, digits, strict=True))
            lines.append(f"{step},{state.time:.9g},{replica},{numbers}\n")
        if self._file is not None:
            self._file.append("".join(lines).encode())

    def sync(self) -> None:
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _end(self, n_lines: int) -> int:
        """The number of bytes of the first lines."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        if lines and lines[0] != self._header.encode():
            raise ConfigurationError(
                f'"{self.path}" is not the table of a run with the columns {self._header.strip()}. Give another name.'
            )
        if len(lines) < n_lines:
            raise FileFormatError(f'"{self.path}" is shorter than the run that it is to go on with. Start it anew.')
        return sum(map(len, lines[:n_lines]))


class TrajectoryReporter(Reporter):
    """A trajectory that MDTraj, VMD and others read, XTC or DCD by its suffix: positions alone.

    Several replicas get a file each: ``run.xtc`` becomes ``run-0.xtc``, ``run-1.xtc``, ...

    Args:
        path: A name that is free, unless the run goes on.

    Raises:
        ConfigurationError: If the suffix is another one.
        MissingDependencyError: If mdtraj is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".xtc", ".dcd"):
            raise ConfigurationError(f'"{path}" is not a trajectory by its suffix. Known: .xtc, .dcd.')
        import_mdtraj()
        self._files: list[AppendedFile] = []
        self._waiting: list[tuple[int, float, ndarray]] = []

    def open(self, n_kept: int | None, state: State) -> None:
        self._waiting = []
        self._files = []
        for path in replica_paths(self.path, len(state.positions)):
            n_bytes = None if n_kept is None else self._end(path, n_kept, state.positions.shape[1])
            self._files.append(AppendedFile(path, n_bytes))

    def report(self, step: int, state: State) -> None:
        self._waiting.append((step, state.time, _array(state.positions, np.float32)))
        if len(self._waiting) * self._waiting[0][2].nbytes > BUFFER_BYTES:
            self.sync()

    def sync(self) -> None:
        if not self._waiting:
            return
        steps, times, positions = zip(*self._waiting, strict=True)
        for replica, file in enumerate(self._files):
            xyz = np.stack([x[replica] for x in positions])
            if self.path.suffix == ".xtc":
                file.append(_encoded(".xtc", xyz, time=np.array(times, "f4"), step=np.array(steps, "i4")))
            else:
                self._append_dcd(file, xyz)
            file.sync()
        self._waiting = []

    def close(self) -> None:
        try:
            self.sync()
        finally:
            for file in self._files:
                file.close()
            self._files = []

    def _append_dcd(self, file: AppendedFile, xyz: ndarray) -> None:
        content = _encoded(".dcd", xyz / np.float32(ANGSTROM))
        frame = _dcd_frame_bytes(xyz.shape[1])
        n_header = len(content) - len(xyz) * frame
        file.append(content[n_header:] if file.n_bytes else content)
        # the header counts frames twice
        count = struct.pack("=i", (file.n_bytes - n_header) // frame)
        for place in (8, 20):
            file.overwrite(place, count)

    def _end(self, path: Path, n_frames: int, n_atoms: int) -> int:
        """The number of bytes of the first frames."""
        if n_frames == 0:
            return 0
        if not path.exists():
            raise FileFormatError(f'"{path}" is missing: the run that is to go on wrote it. Start that run anew.')
        if self.path.suffix == ".dcd":
            header = len(_encoded(".dcd", np.zeros((1, n_atoms, 3), "f4"))) - _dcd_frame_bytes(n_atoms)
            return header + n_frames * _dcd_frame_bytes(n_atoms)
        return _xtc_end(path, n_frames)


def replica_paths(path: Path, n_replicas: int) -> list[Path]:
    """The file of each replica."""
    return [path] if n_replicas == 1 else [path.with_stem(f"{path.stem}-{i}") for i in range(n_replicas)]


def _array(values: Any, dtype: Any) -> ndarray:
    return values.detach().cpu().numpy().astype(dtype)  # type: ignore[no-any-return]


def _encoded(suffix: str, xyz: ndarray, **columns: ndarray) -> bytes:
    """A file as mdtraj writes it."""
    formats = import_mdtraj().formats
    kind = formats.XTCTrajectoryFile if suffix == ".xtc" else formats.DCDTrajectoryFile
    # mdtraj writes to a name, and holds back what it writes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"part{suffix}"
        try:
            with kind(str(path), "w") as file:
                file.write(np.ascontiguousarray(xyz), **columns)
        except (OSError, RuntimeError) as error:
            raise FileFormatError(f'"{path}" cannot be written: {error}. Make room and go on.') from error
        return path.read_bytes()


def _dcd_frame_bytes(n_atoms: int) -> int:
    """Three records of floats, each between two lengths."""
    return 3 * (4 * n_atoms + 8)


def _xtc_end(path: Path, n_frames: int) -> int:
    """The number of bytes of the first frames of an XTC file; each says how long its compressed positions are.

    The file may end within a frame, where the run was killed. MDTraj's ``offsets`` count such a frame as there, so that
    a file that is too short would pass, and fail with an AssertionError where there are nine atoms or fewer.
    """
    content = path.read_bytes()
    end = 0
    for _ in range(n_frames):
        # magic number, atoms, step, time and box; then the number of atoms again
        (n_atoms,) = struct.unpack_from(">i", content, end + 52) if end + 56 <= len(content) else (0,)
        if n_atoms <= 9:
            # few atoms are not compressed
            end += 56 + 12 * n_atoms
        else:
            # precision, bounds, a size, and the number of bytes, which are padded to a multiple of four
            (n_bytes,) = struct.unpack_from(">i", content, end + 88) if end + 92 <= len(content) else (0,)
            end += 92 + -(-n_bytes // 4) * 4
    return end
