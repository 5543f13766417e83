"""Kill a worker process of a Dask cluster half way through a batch; every frame must arrive, bit for bit as without.

    python tools/soak/dask_worker_killed.py --frames 20000 --kills 10 --json docs/reliability/dask-worker-killed.json

Capped alanine in OpenMM; each round evaluates all frames and kills one of the two workers after half of the tasks.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import dask.config
import torch
from dask.distributed import Client, LocalCluster
from record import keep
from smoothflow.core.plugins import registry
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.parallel import ParallelPotential

AMBER = "amber99sbildn.xml,amber99_obc.xml"

PATIENCE = "5 minutes"
"""A local cluster gives a worker up that is not back after 15 s, which on a busy machine is too soon."""


class Counting(Executor):
    """Hands everything to another executor, and calls a function once when so many tasks have been done."""

    def __init__(self, executor: Executor, n_done: int, function: Callable[[], None]) -> None:
        self.executor = executor
        self.left = n_done
        self.function = function
        self.lock = threading.Lock()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        future: Future[Any] = self.executor.submit(function, *arguments, **named)
        future.add_done_callback(self.count)
        return future

    def count(self, _: Future[Any]) -> None:
        with self.lock:
            self.left -= 1
            now = self.left == 0
        if now:
            self.function()


def main(frames: int, kills: int, json: Path | None) -> None:
    began = time.monotonic()
    structure = molecule_path("capped-alanine")
    _, start = topology_from_pdb(structure)
    noise = torch.randn((frames, *start.shape[-2:]), generator=torch.Generator().manual_seed(0), dtype=start.dtype)
    positions = start + 0.005 * noise
    amber = registry().provider("openmm")(AMBER, structure)
    rng = random.Random(0)
    energies_differ = forces_differ = missing = 0
    killed: list[int] = []
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": PATIENCE}),
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=logging.CRITICAL
        ) as cluster,
        Client(cluster) as client,
    ):
        undisturbed = Counting(client.get_executor(), 0, lambda: None)
        energies, forces = ParallelPotential(amber, undisturbed).energy_and_forces(positions)
        n_tasks = -undisturbed.left
        for number in range(1, kills + 1):
            client.wait_for_workers(2, timeout=PATIENCE)
            workers = sorted(client.run(os.getpid).values())
            victim = rng.choice(workers)

            def end(victim: int = victim) -> None:
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

            executor = Counting(client.get_executor(), n_tasks // 2, end)
            found, found_forces = ParallelPotential(amber, executor).energy_and_forces(positions)
            missing += frames - len(found)
            energies_differ += int((found != energies).sum())
            forces_differ += int((found_forces != forces).sum())
            print(f"kill {number}: {len(found)} of {frames} frames", flush=True)
    figures: dict[str, object] = {
        "frames of each batch": frames,
        "tasks of each batch": n_tasks,
        "worker processes": 2,
        "workers killed half way": len(killed),
        "frames missing": missing,
        "energies that differ in any bit": energies_differ,
        "force components that differ in any bit": forces_differ,
    }
    keep(json, "A worker of a Dask cluster is killed", figures, began)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--json", type=Path)
    main(**vars(parser.parse_args()))
