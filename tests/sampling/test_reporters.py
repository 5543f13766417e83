"""Files of a run: what is in them is what the run visited, and kills leave no trace."""

from __future__ import annotations

import csv
import random
import resource
import runpy
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
import pytest
import torch
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.core.integrator import State
from smoothflow.core.reporter import Reporter, reporting
from smoothflow.core.units import BOLTZMANN
from smoothflow.molecules.frames_file import read_frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.runs.appended import AppendedFile
from smoothflow.sampling.reporters import CSVReporter, FramesReporter, TrajectoryReporter

PROGRAM = Path(__file__).parent / "tethered.py"
tethered: dict[str, Any] = runpy.run_path(str(PROGRAM))
COLUMNS = ("time_ps", "potential_energy_kJ_per_mol", "kinetic_energy_kJ_per_mol", "temperature_K")


class Visited(Reporter):
    """All states, in memory."""

    def __init__(self) -> None:
        self.states: dict[int, State] = {}

    def report(self, step: int, state: State) -> None:
        self.states[step] = state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    tethered["run"](folder)
    return folder


def assert_same_files(folder: Path, whole: Path) -> None:
    for name in ("run.csv", "run-0.xtc", "run-1.xtc"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    for name in ("run-0.dcd", "run-1.dcd"):
        # between them the header tells the date
        for part in (slice(0, 92), slice(276, None)):
            assert (folder / name).read_bytes()[part] == (whole / name).read_bytes()[part], name
    ours, theirs = read_frames(folder / "run.h5"), read_frames(whole / "run.h5")
    assert ours.digest() == theirs.digest()


def test_a_run_killed_at_random_moments_leaves_the_files_of_one_that_was_not(tmp_path: Path, whole: Path) -> None:
    rng = random.Random(0)
    for _ in range(2):
        n_evaluations = rng.randrange(60, 160)
        command = [sys.executable, str(PROGRAM), str(tmp_path), str(n_evaluations)]
        assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
        # complete lines, and frames that are those of the other run
        lines = (tmp_path / "run.csv").read_text()
        assert (whole / "run.csv").read_text().startswith(lines)
        assert lines.endswith("\n")
        frames = read_frames(tmp_path / "run.h5")
        np.testing.assert_array_equal(frames.positions, read_frames(whole / "run.h5").positions[: len(frames)])
    tethered["run"](tmp_path)
    assert_same_files(tmp_path, whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in whole.iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_files_hold_what_the_run_visited(tmp_path: Path, dtype: torch.dtype) -> None:
    visited = Visited()
    settings = tethered["SETTINGS"]
    simulation = tethered["Simulation"](
        tethered["Tethered"](),
        "langevin",
        tethered["start"](dtype),
        settings,
        [*tethered["reporters"](tmp_path), visited],
    )
    simulation.run()
    states = list(visited.states.values())
    assert [*visited.states] == [*range(0, 400, 6), 400]

    def column(name: str) -> np.ndarray:
        return np.stack([getattr(state, name).double().numpy() for state in states])

    frames = read_frames(tmp_path / "run.h5")
    positions = column("positions")
    np.testing.assert_array_equal(frames.positions.reshape(positions.shape), positions.astype(np.float32))
    assert frames.forces is not None
    assert frames.energies is not None
    np.testing.assert_array_equal(frames.forces.reshape(positions.shape), column("forces").astype(np.float32))
    np.testing.assert_array_equal(frames.energies.reshape(-1, 2), column("potential_energy"))
    np.testing.assert_array_equal(frames.times, np.repeat([state.time for state in states], 2))
    np.testing.assert_array_equal(frames.replica, np.tile([0, 1], len(states)))
    assert frames.provenance == {"potential": "tethers"}

    with (tmp_path / "run.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["step"]), int(row["replica"])) for row in rows] == [(s, r) for s in visited.states for r in (0, 1)]
    found = np.array([[float(row[name]) for name in COLUMNS] for row in rows])
    weights = states[0].masses.double().numpy()[:, None]
    kinetic = 0.5 * (weights * column("velocities") ** 2).sum((-2, -1))
    expected = [frames.times, column("potential_energy"), kinetic, 2 * kinetic / (66 * BOLTZMANN)]
    # printed with 6 to 10 digits; float32 sums of 66 squares
    np.testing.assert_allclose(found, np.stack([x.reshape(-1) for x in expected], axis=1), rtol=1e-5)

    for replica in (0, 1):
        xtc = mdtraj.load_xtc(str(tmp_path / f"run-{replica}.xtc"), top=str(molecule_path("capped-alanine")))
        dcd = mdtraj.load_dcd(str(tmp_path / f"run-{replica}.dcd"), top=str(molecule_path("capped-alanine")))
        # XTC rounds to 0.001 nm; DCD is float32 in Å
        np.testing.assert_allclose(xtc.xyz, positions[:, replica], atol=5.1e-4)
        np.testing.assert_allclose(dcd.xyz, positions[:, replica], atol=1e-6)
        np.testing.assert_allclose(xtc.time, [state.time for state in states], rtol=1e-6)


@pytest.mark.parametrize("n_atoms", [3, 9, 10, 22])
def test_an_xtc_file_is_cut_between_frames(tmp_path: Path, n_atoms: int) -> None:
    # nine atoms and less are stored uncompressed
    generator = torch.Generator().manual_seed(n_atoms)
    path = tmp_path / "run.xtc"

    def state(i: int) -> State:
        x = torch.randn(1, n_atoms, 3, generator=generator)
        return State(x, x, x, x[:, 0, 0], x[0, :, 0], float(i))

    states = [state(i) for i in range(6)]
    for n_kept, part in ((None, states[:4]), (2, states[2:5]), (5, states[5:]), (0, states), (3, states[3:])):
        with reporting([reporter := TrajectoryReporter(path)], n_kept, states[0]):
            for i, each in enumerate(part):
                reporter.report(i, each)
    with mdtraj.formats.XTCTrajectoryFile(str(path)) as file:
        xyz, time, _, _ = file.read()
    np.testing.assert_allclose(xyz, np.concatenate([each.positions.numpy() for each in states]), atol=5.1e-4)
    np.testing.assert_array_equal(time, np.arange(6))


def test_the_header_of_a_dcd_file_counts_its_frames(whole: Path) -> None:
    content = (whole / "run-0.dcd").read_bytes()
    assert struct.unpack_from("=i", content, 8) == (68,)
    assert len(content) == 276 + 68 * 3 * (4 * 22 + 8)


@pytest.mark.parametrize("name", ["run.csv", "run.xtc", "run.dcd", "run.h5"])
def test_an_existing_file_is_not_touched_and_a_missing_one_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / (f"{Path(name).stem}-1{Path(name).suffix}" if name.endswith(("xtc", "dcd")) else name)
    path.write_text("precious")
    (reporter,) = (r for r in tethered["reporters"](tmp_path) if r.path.name == name)
    with pytest.raises(ConfigurationError, match="exists"), reporting([reporter], None, tethered["start"]()):
        pass
    assert path.read_text() == "precious"
    path.unlink()
    with pytest.raises(FileFormatError, match=name.replace(".", ".*")), reporting([reporter], 3, tethered["start"]()):
        pass


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"Known: \.xtc, \.dcd"):
        TrajectoryReporter(tmp_path / "run.trr")


@contextmanager
def full_disk(n_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond so many bytes."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_and_pieces_stay_whole(tmp_path: Path) -> None:
    file = AppendedFile(tmp_path / "f")
    file.append(b"0123456\n")
    with full_disk(1000), pytest.raises(FileFormatError, match="make room"):
        file.append(b"a line that does not fit" * 100)
    assert (tmp_path / "f").read_bytes() == b"0123456\n"
    file.append(b"more\n")
    file.close()
    assert (tmp_path / "f").read_bytes().endswith(b"0123456\nmore\n")


@pytest.mark.parametrize("kind", [CSVReporter, TrajectoryReporter, FramesReporter])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path, whole: Path, kind: type[Reporter]) -> None:
    def one(folder: Path) -> Any:
        return next(r for r in tethered["reporters"](folder) if isinstance(r, kind))

    name = {CSVReporter: "run.csv", TrajectoryReporter: "run-0.xtc", FramesReporter: "run.h5"}[kind]
    path = tmp_path / "run.checkpoint"
    simulation = tethered["Simulation"](
        tethered["Tethered"](), "langevin", tethered["start"](), tethered["SETTINGS"], [one(tmp_path)]
    )
    simulation.run(path, stopped=lambda: simulation.step >= 100)
    with full_disk((whole / name).stat().st_size * 2 // 3), pytest.raises(FileFormatError, match="cannot be written"):
        simulation.run()
    tethered["Simulation"].load(path, tethered["Tethered"](), [one(tmp_path)]).run(path)
    if kind is FramesReporter:
        assert read_frames(tmp_path / name).digest() == read_frames(whole / name).digest()
    else:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
