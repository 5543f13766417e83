"""Batches spread over processes: the same numbers, and nothing lost or left behind when something fails."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dask
import distributed
import openmm
import psutil
import pytest
import torch
from smoothflow.core.errors import ConfigurationError, GeometryError, SimulationError
from smoothflow.core.plugins import registry
from smoothflow.core.potential import Potential
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.parallel import ParallelPotential
from torch import Tensor

pytestmark = pytest.mark.skipif(not hasattr(os, "killpg"), reason="processes are ended by POSIX signals")

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def amber() -> Potential:
    """Capped alanine in implicit solvent, evaluated by OpenMM."""
    potential = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", molecule_path("capped-alanine"))
    potential.platform = "Reference"  # type: ignore[attr-defined]  # the only one that is exact on any machine
    return potential


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """150 configurations of capped alanine, nm."""
    pdb = openmm.app.PDBFile(str(molecule_path("capped-alanine")))
    x = torch.tensor(pdb.getPositions(asNumpy=True)._value, dtype=torch.float64)
    return x + 0.003 * torch.randn(150, *x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Two processes that stay for all tests of this file that do not harm them."""
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        yield executor


@pytest.fixture
def fragile(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of potentials that fail, where workers find it too."""
    monkeypatch.syspath_prepend(HERE)
    import fragile

    return fragile


@pytest.fixture
def well(fragile: Any, tmp_path: Path) -> Potential:
    """A harmonic well with configurations at which something happens."""
    potential: Potential = fragile.Fragile(tmp_path)
    return potential


def quiet(n_frames: int) -> Tensor:
    """Configurations at which nothing happens."""
    return torch.randn(n_frames, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def wait_for(happened: Callable[[], bool]) -> None:
    """Return as soon as something has happened, or a minute has passed."""
    deadline = time.monotonic() + 60
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.parametrize("chunk_size", [None, 1, 7, 1000])
def test_numbers_are_those_of_the_potential_itself(
    amber: Potential, frames: Tensor, processes: ProcessPoolExecutor, chunk_size: int | None
) -> None:
    parallel = ParallelPotential(amber, processes, chunk_size=chunk_size)
    # the same program with the same input: the same bits
    torch.testing.assert_close(parallel.energy_and_forces(frames), amber.energy_and_forces(frames), rtol=0, atol=0)
    assert parallel.shape == amber.shape
    assert parallel.topology == amber.topology


def test_numbers_do_not_depend_on_the_order_of_frames(
    amber: Potential, frames: Tensor, processes: ProcessPoolExecutor
) -> None:
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(1))
    parallel = ParallelPotential(amber, processes)
    energy, forces = parallel.energy_and_forces(frames)
    torch.testing.assert_close(
        parallel.energy_and_forces(frames[order]), (energy[order], forces[order]), rtol=0, atol=0
    )


def test_numbers_do_not_depend_on_the_number_of_workers(
    make_potential: Any, frames: Tensor, processes: ProcessPoolExecutor
) -> None:
    # a network's sums depend on how many rows it is given at once, so this would show chunks that follow the workers
    flow, x = make_potential("smooth"), frames[:20]
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(3) as three:
        results = [ParallelPotential(flow, e).energy_and_forces(x) for e in (one, three, processes)]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=0)
    # sums of hundreds of terms in another order, and forces of 1e4
    torch.testing.assert_close(results[0], flow.energy_and_forces(x), rtol=1e-9, atol=1e-7)


def test_precision_of_the_positions_is_kept(amber: Potential, frames: Tensor, processes: ProcessPoolExecutor) -> None:
    energy, forces = ParallelPotential(amber, processes).energy_and_forces(frames[:5].float())
    assert energy.dtype == forces.dtype == torch.float32
    torch.testing.assert_close((energy, forces), amber.energy_and_forces(frames[:5].float()), rtol=0, atol=0)


def test_gradient_is_minus_the_forces(amber: Potential, frames: Tensor, processes: ProcessPoolExecutor) -> None:
    parallel = ParallelPotential(amber, processes)
    x = frames[:5].clone().requires_grad_(True)
    weights = torch.arange(1.0, 6.0, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * parallel.energy(x)).sum(), x, create_graph=True)
    torch.testing.assert_close(gradient, -weights[:, None, None] * amber.energy_and_forces(x)[1], rtol=1e-15, atol=0)
    with pytest.raises(ConfigurationError, match="Second derivatives"):
        torch.autograd.grad(gradient.sum(), x)


def test_shapes_other_than_molecules_work(well: Potential, processes: ProcessPoolExecutor) -> None:
    # in threads, since the two processes started without this module on their path
    with ThreadPoolExecutor(2) as threads:
        parallel = ParallelPotential(well, threads)
        x = quiet(300).requires_grad_(True)
        (gradient,) = torch.autograd.grad(parallel.energy(x).sum(), x)
    torch.testing.assert_close(gradient, x.detach(), rtol=1e-15, atol=0)


def test_batch_of_nothing_gives_nothing(amber: Potential, frames: Tensor) -> None:
    energy, forces = ParallelPotential(amber).energy_and_forces(frames[:0])
    assert energy.shape == (0,)
    assert forces.shape == (0, 22, 3)


def test_threads_have_a_context_each_and_keep_it(
    amber: Potential, frames: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smoothflow.backends.engines.openmm import potential as openmm_potential

    made: list[Any] = []
    original = openmm_potential.make_context

    def make_context(*arguments: Any) -> Any:
        made.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(openmm_potential, "make_context", make_context)
    expected = amber.energy_and_forces(frames)
    made.clear()
    with ThreadPoolExecutor(3) as threads:
        parallel = ParallelPotential(amber, threads, chunk_size=2)
        for _ in range(5):
            torch.testing.assert_close(parallel.energy_and_forces(frames), expected, rtol=0, atol=0)
    # one for the first evaluation, and one for each thread at most
    assert 2 <= len(made) <= 4


def test_all_workers_take_the_platform_that_one_has_chosen(frames: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from smoothflow.backends.engines.openmm import potential as openmm_potential

    potential = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", molecule_path("capped-alanine"))
    choices = ["Reference"]
    monkeypatch.setattr(openmm_potential, "fastest_platform", lambda *_: choices.pop())  # a second choice would raise
    with ThreadPoolExecutor(3) as threads:
        parallel = ParallelPotential(potential, threads, chunk_size=2)
        for _ in range(3):
            parallel.energy_and_forces(frames)
    assert choices == []


def test_an_error_carries_the_index_of_its_frame(
    amber: Potential, frames: Tensor, processes: ProcessPoolExecutor
) -> None:
    parallel = ParallelPotential(amber, processes, chunk_size=20)
    bad = frames.clone()
    bad[97, 3, 1] = bad[133, 0, 0] = float("nan")
    with pytest.raises(GeometryError, match=r"In configuration 97 the position of atom 3 \(ACE1-.*\) is not finite"):
        parallel.energy_and_forces(bad)
    assert torch.isfinite(parallel.energy(frames)).all()


def test_wrong_shapes_and_numbers_are_refused(amber: Potential, frames: Tensor, processes: ProcessPoolExecutor) -> None:
    with pytest.raises(ConfigurationError, match=r"have shape \(150, 21, 3\); the potential needs \(batch, 22, 3\)"):
        ParallelPotential(amber).energy(frames[:, :21])
    with pytest.raises(ConfigurationError, match="chunk_size is 0"):
        ParallelPotential(amber, chunk_size=0)
    with pytest.raises(ConfigurationError, match="leave n_workers out"):
        ParallelPotential(amber, processes, n_workers=2)


def test_potential_that_cannot_be_sent_is_refused_at_once(fragile: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Unsendable cannot be sent to a worker: TypeError"):
        ParallelPotential(fragile.Unsendable())


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(fragile: Any, well: Potential, tmp_path: Path) -> None:
    x = quiet(40)
    others = psutil.Process().children()
    with ParallelPotential(well, n_workers=2, chunk_size=4) as parallel:
        parallel.energy(x)
        x[17, 0] = fragile.DIES
        (tmp_path / "once").touch()
        torch.testing.assert_close(parallel.energy(x), 0.5 * x.square().sum(-1), rtol=1e-15, atol=0)
        for child in set(psutil.Process().children()) - set(others):
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()  # between two calls
        torch.testing.assert_close(parallel.energy(x), 0.5 * x.square().sum(-1), rtol=1e-15, atol=0)


@pytest.mark.parametrize("n_workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_frame_that_kills_every_worker_is_named(fragile: Any, well: Potential, n_workers: int) -> None:
    x = quiet(40)
    x[17, 0] = fragile.DIES
    with ParallelPotential(well, n_workers=n_workers, chunk_size=4) as parallel:
        with pytest.raises(SimulationError, match="evaluates frame 17 dies"):
            parallel.energy(x)
        if n_workers > 1:
            assert parallel.energy(x[:17]).shape == (17,)


@pytest.mark.slow
def test_after_an_interrupt_the_workers_are_gone_and_new_ones_come(
    fragile: Any, well: Potential, tmp_path: Path
) -> None:
    x = quiet(8)
    with ParallelPotential(well, n_workers=2, chunk_size=1) as parallel:
        parallel.energy(x)

        def interrupt() -> None:
            wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            parallel.energy(torch.full((8, 2), fragile.WAITS, dtype=torch.float64))
        thread.join()
        assert not any(psutil.pid_exists(int(path.name)) for path in tmp_path.iterdir())
        assert parallel.energy(x).shape == (8,)


def test_an_executor_that_breaks_is_reported_with_its_frames(fragile: Any, well: Potential) -> None:
    x = quiet(4)
    x[2, 0] = fragile.DIES
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        parallel = ParallelPotential(well, executor, chunk_size=2)
        with pytest.raises(SimulationError, match=r"The executor broke while frames \d to 3"):
            parallel.energy(x)
    threads = ThreadPoolExecutor(1)
    threads.shutdown()
    with pytest.raises(SimulationError, match="cannot schedule new futures after shutdown"):
        ParallelPotential(well, threads).energy(x)


@pytest.mark.slow
def test_copies_start_their_own_workers(well: Potential) -> None:
    with ParallelPotential(well, n_workers=1) as parallel:
        parallel.energy(quiet(1))
        twin = copy.deepcopy(parallel)
        parallel.close()
        with pickle.loads(pickle.dumps(twin)) as read:
            torch.testing.assert_close(read.energy(quiet(3)), 0.5 * quiet(3).square().sum(-1), rtol=1e-15, atol=0)


SCRIPT = """
import sys
from pathlib import Path

import torch

sys.path.insert(0, {here!r})
from fragile import WAITS, Fragile
from smoothflow.potentials.parallel import ParallelPotential

{guard}
    x = torch.full((8, 2), WAITS, dtype=torch.float64)
    x[0] = 0.0
    potential = ParallelPotential(Fragile(Path({record!r})), n_workers=2, chunk_size=1)
    potential.energy(x)
"""


@pytest.mark.parametrize(
    "end",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
    ],
    ids=lambda end: end.name,
)
def test_no_process_outlives_its_parent(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "script.py"
    record = tmp_path / "record"
    record.mkdir()
    script.write_text(SCRIPT.format(here=str(HERE), record=str(record), guard='if __name__ == "__main__":'))
    parent = subprocess.Popen([sys.executable, script], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: len(list(record.iterdir())) == 2)  # both are in their long evaluation
    children = psutil.Process(parent.pid).children(recursive=True)
    assert {int(path.name) for path in record.iterdir()} <= {child.pid for child in children}
    if end is signal.SIGINT:
        os.killpg(parent.pid, end)  # as a terminal does
    else:
        parent.send_signal(end)
    _, printed = parent.communicate(timeout=20)
    _, alive = psutil.wait_procs(children, timeout=20)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    assert parent.returncode == -end
    if end is signal.SIGINT:
        assert printed.count("Traceback") == 1  # the script's own, none from the workers


@pytest.mark.slow
def test_a_script_without_a_guard_gets_an_error_that_names_it(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(here=str(HERE), record=str(tmp_path), guard="if True:"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert '`if __name__ == "__main__":`' in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_dask_distributes_the_frames(amber: Potential, frames: Tensor) -> None:
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        parallel = ParallelPotential(amber, client.get_executor())
        torch.testing.assert_close(parallel.energy_and_forces(frames), amber.energy_and_forces(frames), rtol=0, atol=0)
        bad = frames.clone()
        bad[97, 3, 1] = float("nan")
        with pytest.raises(GeometryError, match="In configuration 97 the position of atom 3"):
            parallel.energy_and_forces(bad)


@pytest.mark.slow
def test_a_frame_that_kills_workers_of_dask_is_named(fragile: Any, well: Potential) -> None:
    x = quiet(12)
    x[6, 0] = fragile.DIES
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),  # Dask's own retries take time
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_worker_callbacks(partial(sys.path.insert, 0, str(HERE)))
        parallel = ParallelPotential(well, client.get_executor(), chunk_size=4)
        with pytest.raises(SimulationError, match="evaluates frame 6 dies"):
            parallel.energy(x)
