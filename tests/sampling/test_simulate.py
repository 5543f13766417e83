"""Simulations: what is in the file is OpenMM's, and interruptions leave no trace."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from openmm import app
from smoothflow import FlowPotential, TemperatureRange, build_flow, save_model
from smoothflow.core.errors import ConfigurationError, FileFormatError, SimulationError, TopologyError, UnknownNameError
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.core.units import thermal_energy
from smoothflow.molecules.elements import masses
from smoothflow.molecules.frames_file import FramesWriter, read_frames, write_frames
from smoothflow.molecules.label_checks import check_labels
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.shipped import load_flow
from smoothflow.runs.progress import Progress
from smoothflow.sampling.simulate import SimulateSettings, _proposing, frames_at, simulate
from smoothflow.sampling.walkers import Protocol, Walker, advance_walker, exchange, relax

ALANINE = molecule_path("capped-alanine")
SHORT = SimulateSettings(ALANINE, n_frames=300, frame_interval=0.02, walkers=2, equilibration=0.5, seed=11, workers=1)
LADDER = replace(SHORT, ladder=(400.0, 500.0), exchange_interval=0.1, n_frames=60)

# kills itself when the file has as many frames as the last argument says
KILLED = """
import os, signal, sys
from pathlib import Path
from smoothflow.potentials.shipped import load_flow
from smoothflow.runs.progress import Progress
from smoothflow.sampling.simulate import SimulateSettings, _proposing, frames_at, simulate
def main():
    def on_progress(progress):
        if progress.stage == "Simulation" and progress.done >= int(sys.argv[3]):
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
            print(children, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    simulate(eval(sys.argv[1]), sys.argv[2], on_progress)
if __name__ == "__main__":
    main()
"""


def kill_at(settings: SimulateSettings, path: Path, n_frames: int) -> list[int]:
    script = path.parent / "killed.py"
    script.write_text("from pathlib import PosixPath\n" + KILLED)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), repr(settings), str(path), str(n_frames)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL
    return [int(pid) for pid in done.stdout.split()]


def runs(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "f.h5"
    simulate(replace(SHORT, n_frames=4000), path)
    return path


def test_frames_hold_openmms_energies_and_forces(whole: Path) -> None:
    frames = read_frames(whole)
    pdb = app.PDBFile(str(ALANINE))
    system = app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(
        pdb.topology, nonbondedMethod=app.NoCutoff, constraints=None
    )
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    for i in (0, 1234, 3999):
        context.setPositions(frames.positions[i].astype(np.float64))
        state = context.getState(energy=True, forces=True)
        assert frames.energies is not None
        # the platform that evaluated them may be one in mixed precision
        assert frames.energies[i] == pytest.approx(state.getPotentialEnergy()._value, abs=1e-3)
        np.testing.assert_allclose(frames.require_forces()[i], state.getForces(asNumpy=True)._value, atol=0.05)
    assert frames.provenance["potential"] == SHORT.potential
    assert "openmm" in frames.provenance["versions"]
    np.testing.assert_array_equal(np.bincount(frames.replica), [2000, 2000])


def test_walkers_are_at_their_temperature_and_different(whole: Path) -> None:
    frames = read_frames(whole)
    assert frames.energies is not None
    first, second = (frames.energies[frames.replica == walker] for walker in (0, 1))
    assert not np.array_equal(first, second)
    # -23.8 kT is the reference; 80 ps have an error of about 1 kT
    assert float(frames.energies[1000:].mean()) / thermal_energy(300.0) == pytest.approx(-23.8, abs=5.0)
    steps = np.linalg.norm(np.diff(frames.positions[frames.replica == 0], axis=0), axis=-1).max(axis=(1,))
    assert steps.min() > 1e-4  # no frame is there twice
    assert steps.max() < 0.2  # 0.02 ps apart, none is missing


def assert_same(path: Path, other: Path) -> None:
    found, expected = read_frames(path), read_frames(other)
    for name in ("positions", "forces", "energies", "replica"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_killed_simulation_goes_on_without_a_trace(tmp_path: Path, whole: Path) -> None:
    settings, path = replace(SHORT, n_frames=4000), tmp_path / "f.h5"
    children = kill_at(replace(settings, workers=2), path, 1)
    assert len(children) >= 2
    deadline = time.monotonic() + 20
    while any(runs(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(runs(pid) for pid in children)
    assert len(read_frames(path)) == 2000
    seen: list[Progress] = []
    report = simulate(settings, path, seen.append)  # in one process now
    assert (report.resumed_from, report.n_frames) == (2000, 4000)
    assert (seen[0].done, seen[-1].done, seen[-1].total) == (2000, 4000, 4000)
    assert_same(path, whole)


def test_killed_replica_exchange_with_jumps_goes_on_without_a_trace(tmp_path: Path) -> None:
    settings = replace(LADDER, walkers=1, n_frames=350, proposals="ala2-smooth", jumps=3)
    report = simulate(settings, tmp_path / "whole.h5")
    attempted, accepted = report.jumps
    assert attempted == 3 * 70
    # 20 % and more of the flow's proposals are made at 300 K
    assert 0.2 * attempted < accepted < attempted
    kill_at(settings, tmp_path / "f.h5", 1)
    again = simulate(settings, tmp_path / "f.h5")
    assert 0 < again.resumed_from < again.n_frames
    assert all(0 < made < tried for made, tried in zip(again.accepted, again.attempted, strict=True))
    assert_same(tmp_path / "f.h5", tmp_path / "whole.h5")
    assert again.jumps == report.jumps
    assert again.evaluations == report.evaluations
    # three temperatures for 0.5 ps of equilibration and 70 rounds of 0.1 ps
    assert report.evaluations == 3 * (500 + 70 * 100) + attempted


def test_simulation_with_jumps_is_another_one_than_without(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(ConfigurationError, match="is of another run: proposals_sha256 is nothing there"):
        simulate(replace(SHORT, n_frames=5000, proposals="ala2-affine"), whole)
    path = tmp_path / "f.h5"
    settings = replace(SHORT, n_frames=20, proposals="ala2-affine", jumps=1)
    simulate(settings, path)
    with pytest.raises(ConfigurationError, match=r"proposals_sha256 is .* there and nothing here"):
        simulate(replace(settings, proposals=None, n_frames=40), path)


def test_proposals_of_another_molecule_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    settings = replace(SHORT, structure=molecule_path("proline-dipeptide"), proposals="ala2-affine")
    with pytest.raises(TopologyError, match='the model "ala2-affine"'):
        simulate(settings, tmp_path / "f.h5")
    assert list(tmp_path.iterdir()) == []


def test_kill_between_creation_and_first_frames_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    simulate(LADDER, tmp_path / "whole.h5")
    with monkeypatch.context() as patch:
        patch.setattr(FramesWriter, "append", kill)
        with pytest.raises(Killed):
            simulate(LADDER, tmp_path / "f.h5")
    assert len(read_frames(tmp_path / "f.h5")) == 0
    simulate(LADDER, tmp_path / "f.h5")
    assert_same(tmp_path / "f.h5", tmp_path / "whole.h5")


ALL = replace(LADDER, keep="all", n_frames=700)


def test_frames_of_all_temperatures_are_those_of_their_own(tmp_path: Path) -> None:
    simulate(replace(ALL, n_frames=2000), tmp_path / "all.h5")
    means = []
    for kelvin in ALL.temperatures:
        frames = read_frames(tmp_path / "all.h5" if kelvin == 300 else frames_at(tmp_path / "all.h5", kelvin))
        assert (frames.temperature, len(frames)) == (kelvin, 2000)
        np.testing.assert_array_equal(np.bincount(frames.replica), [1000, 1000])
        check_labels(frames, "the frames")
        means.append(float(frames.energies[500:].mean()))
    # 60 internal coordinates have some 30 kT: 25 kJ/mol for 100 K, with an error of 1 kT of such short walks
    assert 10 < means[1] - means[0] < 45
    assert 10 < means[2] - means[1] < 45


def test_killed_simulation_of_all_temperatures_goes_on_without_a_trace(tmp_path: Path) -> None:
    simulate(ALL, tmp_path / "whole.h5")
    kill_at(ALL, tmp_path / "f.h5", 1)
    report = simulate(ALL, tmp_path / "f.h5")
    assert 0 < report.resumed_from < report.n_frames
    assert_same(tmp_path / "f.h5", tmp_path / "whole.h5")
    for kelvin in ALL.ladder:
        assert_same(frames_at(tmp_path / "f.h5", kelvin), frames_at(tmp_path / "whole.h5", kelvin))


@pytest.mark.parametrize("n_appends", range(7))
def test_a_kill_between_the_files_of_the_temperatures_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_appends: int
) -> None:
    class Killed(BaseException):
        pass

    settings = replace(ALL, n_frames=60)
    # the frames of a round are written together, one file after the other
    monkeypatch.setattr("smoothflow.sampling.simulate.CHUNK", 0.3)
    simulate(settings, tmp_path / "whole.h5")
    append = FramesWriter.append
    calls: list[str] = []

    def kill(writer: FramesWriter, *given: object) -> None:
        if len(calls) == n_appends:
            raise Killed
        calls.append(writer.path.name)
        append(writer, *given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(FramesWriter, "append", kill)
        with pytest.raises(Killed):
            simulate(settings, tmp_path / "f.h5")
    simulate(settings, tmp_path / "f.h5")
    assert_same(tmp_path / "f.h5", tmp_path / "whole.h5")
    for kelvin in ALL.ladder:
        assert_same(frames_at(tmp_path / "f.h5", kelvin), frames_at(tmp_path / "whole.h5", kelvin))


def test_files_of_higher_temperatures_are_not_replaced_and_must_be_there(tmp_path: Path) -> None:
    settings = replace(ALL, n_frames=20)
    hot = frames_at(tmp_path / "f.h5", 500.0)
    assert hot.name == "f-500K.h5"
    hot.write_text("mine")
    with pytest.raises(ConfigurationError, match=r"f-500K\.h5.* exists already"):
        simulate(settings, tmp_path / "f.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["f-500K.h5"]
    hot.unlink()
    simulate(settings, tmp_path / "f.h5")
    with pytest.raises(ConfigurationError, match="keep is all there and nothing here"):
        simulate(replace(settings, keep="lowest", n_frames=60), tmp_path / "f.h5")
    hot.unlink()
    with pytest.raises(FileFormatError, match=r"no file .*f-500K\.h5"):
        simulate(replace(settings, n_frames=60), tmp_path / "f.h5")


def test_more_frames_can_be_asked_for_later(tmp_path: Path) -> None:
    simulate(LADDER, tmp_path / "f.h5")
    report = simulate(replace(LADDER, n_frames=120), tmp_path / "f.h5")
    assert (report.resumed_from, report.n_frames) == (60, 120)
    assert len(report.accepted) == len(report.attempted) == 2
    simulate(replace(LADDER, n_frames=120), tmp_path / "g.h5")
    for walker in (0, 1):
        one, other = (read_frames(tmp_path / name) for name in ("f.h5", "g.h5"))
        np.testing.assert_array_equal(one.positions[one.replica == walker], other.positions[other.replica == walker])


def test_exchange_keeps_every_temperature_canonical() -> None:
    # d harmonic degrees of freedom have U / kT distributed as Gamma(d / 2): exchanges must not change that
    temperatures, n_freedoms, n_walkers = (300.0, 360.0, 430.0), 20, 10_000
    protocol = Protocol(temperatures, 0.001, 1.0, 1, 1, 0, 0.0, 0, 5)
    kT = np.array([thermal_energy(t) for t in temperatures])
    energies = np.random.default_rng(0).gamma(n_freedoms / 2, kT, size=(n_walkers, 3))
    after = np.empty_like(energies)
    accepted = np.zeros(2)
    for i in range(n_walkers):
        # energies in the place of positions show which replica went where
        places = np.broadcast_to(energies[i, :, None, None], (3, 1, 3))
        zeros = np.zeros(2, dtype=np.int64)
        walker = exchange(
            Walker(i, i % 2, places, np.ones((3, 1, 3)), zeros, zeros, np.zeros(2)), energies[i], protocol
        )
        after[i] = walker.positions[:, 0, 0]
        accepted += walker.accepted
        moved = after[i] != energies[i]
        if moved.any():
            low = int(moved.argmax())
            ratio = math.sqrt(temperatures[low] / temperatures[low + 1])
            np.testing.assert_allclose(walker.velocities[low], ratio)
            np.testing.assert_allclose(walker.velocities[low + 1], 1 / ratio)
    assert (accepted > 500).all()
    error = kT * math.sqrt(n_freedoms / 2 / n_walkers)
    np.testing.assert_array_less(np.abs(after.mean(0) - kT * n_freedoms / 2), 5 * error)
    # the variance of a Gamma variable's square: 5 standard errors again, of (k + 3) 2 k (kT)^4 / n
    spread = kT**2 * math.sqrt(2 * 10 * (10 + 3) / n_walkers)
    np.testing.assert_array_less(np.abs(after.var(0) - kT**2 * n_freedoms / 2), 5 * spread)


def test_relaxation_goes_downhill() -> None:
    potential = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", ALANINE)
    positions = app.PDBFile(str(ALANINE)).getPositions(asNumpy=True)._value
    strained = positions + 0.01 * np.random.default_rng(1).normal(size=positions.shape)
    relaxed = relax(potential, strained)
    before, _ = potential.energy_and_forces(torch.from_numpy(strained)[None])
    after, forces = potential.energy_and_forces(torch.from_numpy(relaxed)[None])
    assert float(after) < float(before) - 100
    assert float(forces.abs().max()) < 1000  # the rms of thermal forces at 300 K


def test_any_engine_and_potential(force_field: Potential) -> None:
    protocol = Protocol((300.0,), 0.001, 1.0, 5, 2, 0, 0.0, 0, 5)
    q = torch.tensor([[0.12, 0.12, 0.12, 1.8, 1.8, 1.0]], dtype=torch.float64)
    positions = force_field.coordinates.decode(q)[0].numpy()  # type: ignore[union-attr, operator]
    none = np.zeros(0, dtype=np.int64)
    walker = Walker(0, 0, positions, np.zeros_like(positions), none, none, np.zeros(2, dtype=np.int64))
    assert force_field.topology is not None
    weights = masses(force_field.topology)
    for engine in ("native", "ase", "openmm"):
        moved, [found] = advance_walker(walker, 3, force_field, registry().engine(engine)(), weights, protocol)
        assert found.positions.shape == (6, 4, 3)
        np.testing.assert_array_equal(found.positions[-1], moved.positions[0].astype(np.float32))
        energy, forces = force_field.energy_and_forces(torch.from_numpy(found.positions).double())
        np.testing.assert_array_equal(found.energies, energy)
        np.testing.assert_array_equal(found.forces, forces.float())


def test_bad_settings_are_refused() -> None:
    for change, message in (
        ({"timestep": 0.0}, "timestep must be positive"),
        ({"walkers": 0}, "walkers must be at least 1"),
        ({"ladder": (290.0,)}, "must rise"),
        ({"frame_interval": 0.0015}, "multiple of timestep"),
        ({"ladder": (400.0,), "exchange_interval": 0.03}, "multiple of frame_interval"),
        ({"equilibration": -1.0}, "must not be negative"),
        ({"temperature": math.inf}, "temperature must be positive"),
        ({"keep": "all"}, "with a ladder"),
        ({"keep": "some"}, 'must be "lowest"'),
    ):
        with pytest.raises(ConfigurationError, match=message):
            replace(SHORT, **change)  # type: ignore[arg-type]


def test_bad_input_leaves_no_file(tmp_path: Path) -> None:
    for change, error in (
        ({"structure": tmp_path / "none.pdb"}, FileFormatError),
        ({"engine": "opnmm"}, UnknownNameError),
        ({"potential": "opnmm:x.xml"}, UnknownNameError),
        ({"potential": "openmm:no-such-file.xml"}, ConfigurationError),
        # the temperature of a star
        ({"temperature": 1e9, "timestep": 0.02}, SimulationError),
    ):
        with pytest.raises(error):
            simulate(replace(SHORT, **change), tmp_path / "f.h5")  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []


def test_file_of_another_simulation_is_refused(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(ConfigurationError, match="seed is 11 there and 12 here"):
        simulate(replace(SHORT, seed=12), whole)
    frames = read_frames(whole)[:50]
    write_frames(tmp_path / "f.h5", frames)
    with pytest.raises(ConfigurationError, match="nothing to go on from"):
        simulate(SHORT, tmp_path / "f.h5")
    write_frames(tmp_path / "f.h5", replace(frames, provenance={}))
    with pytest.raises(ConfigurationError, match="of another run"):
        simulate(SHORT, tmp_path / "f.h5")


def test_provenance_says_what_made_the_frames(tmp_path: Path) -> None:
    settings = SimulateSettings(
        molecule_path("water"),
        "ase:tblite:GFN2-xTB",
        "ase",
        n_frames=4,
        frame_interval=0.002,
        ladder=(350.0,),
        exchange_interval=0.004,
        timestep=0.0005,
        walkers=1,
        equilibration=0.001,
        workers=1,
    )
    simulate(settings, tmp_path / "f.h5")
    provenance = read_frames(tmp_path / "f.h5").provenance
    assert provenance["integrator"] == "Langevin, Vanden-Eijnden and Ciccotti"
    assert {"smoothflow", "ase", "tblite"} <= set(provenance["versions"])


def test_a_changed_force_field_file_is_another_simulation(tmp_path: Path) -> None:
    pdb = app.PDBFile(str(ALANINE))
    system = app.ForceField("amber99sbildn.xml").createSystem(pdb.topology, constraints=None)
    xml = tmp_path / "system.xml"
    xml.write_text(openmm.XmlSerializer.serialize(system))
    settings = replace(LADDER, potential=f"openmm:{xml}", n_frames=10, walkers=1, equilibration=0.01)
    assert simulate(settings, tmp_path / "f.h5").n_frames == 10
    xml.write_text(xml.read_text() + "\n")
    with pytest.raises(ConfigurationError, match="potential_sha256"):
        simulate(settings, tmp_path / "f.h5")


def test_a_model_of_a_range_proposes_at_the_temperature_of_the_frames(tmp_path: Path) -> None:
    one = load_flow("ala2-affine")
    assert one.flow.settings is not None
    assert one.chart is not None
    flow = build_flow(replace(one.flow.settings, context=1), one.chart)
    path = tmp_path / "model.safetensors"
    save_model(FlowPotential(flow, one.coordinates, 300.0, TemperatureRange(300.0, 500.0)), path)
    found = [_proposing(str(path), kelvin).temperature for kelvin in (300.0, 400.0, 600.0)]
    # beyond its range it proposes what it can: acceptance suffers, and frames do not
    assert found == [300.0, 400.0, 300.0]
