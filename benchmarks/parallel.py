"""Energies and forces of a batch from OpenMM: in one process, and spread over several.

Run ``python benchmarks/parallel.py`` (a minute on two cores). Capped alanine in implicit solvent, 22 atoms, Reference
platform: among the cheapest force fields there are, so what is seen is the price of sending frames to and fro. The best
of several calls, in microseconds per frame, with warm workers.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from functools import partial

import openmm
import torch
from smoothflow.backends.engines.openmm import OpenMMPotential
from smoothflow.core.plugins import registry
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.parallel import ParallelPotential

BATCHES = (1, 100, 1_000, 10_000)


def best_of(call: Callable[[], object], min_seconds: float = 2.0, min_calls: int = 3) -> float:
    """The shortest duration of a call, s."""
    durations: list[float] = []
    while len(durations) < min_calls or sum(durations) < min_seconds:
        begin = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begin)
    return min(durations)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of worker processes")
    numbers = parser.parse_args().workers
    path = molecule_path("capped-alanine")
    amber = registry().provider("openmm")("amber99sbildn.xml,amber99_obc.xml", path)
    potential = OpenMMPotential(amber.system, amber.topology, "Reference")  # type: ignore[attr-defined]
    topology, start = topology_from_pdb(path)
    noise = torch.randn(max(BATCHES), len(topology), 3, generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    positions = start + 0.005 * noise

    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, ", end=""
    )
    print(f"torch {torch.__version__}, OpenMM {openmm.__version__}")
    print(f"{'us per frame':<16}" + "".join(f"{f'batch {batch}':>14}" for batch in BATCHES) + f"{'start, s':>14}")
    expected = potential.energy_and_forces(positions)
    times = [best_of(partial(potential.energy_and_forces, positions[:batch])) / batch for batch in BATCHES]
    print(f"{'one process':<16}" + "".join(f"{1e6 * t:>14.1f}" for t in times))
    for n_workers in numbers:
        with ParallelPotential(potential, n_workers=n_workers) as parallel:
            begin = time.perf_counter()
            found = parallel.energy_and_forces(positions)
            start_up = time.perf_counter() - begin
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
            times = [best_of(partial(parallel.energy_and_forces, positions[:batch])) / batch for batch in BATCHES]
        print(f"{f'{n_workers} workers':<16}" + "".join(f"{1e6 * t:>14.1f}" for t in times) + f"{start_up:>14.1f}")


if __name__ == "__main__":
    main()
