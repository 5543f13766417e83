"""Energies, with and without forces, of a batch: the torch force field against an OpenMM Context, frame by frame.

Run ``python benchmarks/force_field.py`` (three minutes on one core). Capped alanine in implicit solvent, 22 atoms; the
best of several calls, in microseconds per frame: of the clock, and with ``--cpu`` of processor time, which other
programs on the machine change less. The contenders take turns. ``OMP_NUM_THREADS=1`` gives one thread to all.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import openmm
import torch
from openmm import app
from smoothflow.core.potential import Potential
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.force_field import CompiledForceField, ForceField

BATCHES = (1, 100, 1000, 10_000)
ROUNDS = 3
ROUND_SECONDS = 0.5

Evaluate = Callable[[torch.Tensor], object]


def duration(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """The shortest of several calls, s, after one to warm up."""
    call()
    durations: list[float] = []
    while len(durations) < 2 or sum(durations) < ROUND_SECONDS:
        begin = clock()
        call()
        durations.append(clock() - begin)
    return min(durations)


def with_openmm(system: openmm.System, name: str, forces: bool) -> Evaluate:
    """Energies, and forces, of every frame from one Context."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(name))

    def evaluate(positions: torch.Tensor) -> object:
        results = []
        for frame in positions.numpy():
            context.setPositions(frame)
            state = context.getState(energy=True, forces=forces)
            found = state.getPotentialEnergy()._value
            results.append((found, state.getForces(asNumpy=True)._value) if forces else found)
        return results

    return evaluate


def with_torch(potential: Potential, dtype: torch.dtype, device: str, forces: bool) -> Evaluate:
    """Energies, and forces, of the batch at once; results come back to the host."""
    potential = potential.to(device=device, dtype=dtype)

    def evaluate(positions: torch.Tensor) -> object:
        x = positions.to(device=device, dtype=dtype)
        if forces:
            return [found.cpu() for found in potential.energy_and_forces(x)]
        with torch.no_grad():
            return potential.energy(x).cpu()

    return evaluate


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="processor time")
    clock = time.process_time if parser.parse_args().cpu else time.perf_counter
    path = molecule_path("capped-alanine")
    pdb = app.PDBFile(str(path))
    system = app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(pdb.topology)
    topology, start = topology_from_pdb(path)
    noise = np.random.default_rng(0).normal(scale=0.005, size=(max(BATCHES), len(topology), 3))
    positions = start + torch.from_numpy(noise)

    def force_field() -> ForceField:
        return ForceField.from_system(system, topology)

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} torch threads, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, OpenMM {openmm.__version__}")
    for forces in (False, True):
        contenders: dict[str, Evaluate] = {
            "OpenMM Reference, float64": with_openmm(system, "Reference", forces),
            "OpenMM CPU, float32": with_openmm(system, "CPU", forces),
            "torch cpu, float64, compiled": with_torch(CompiledForceField(force_field()), torch.float64, "cpu", forces),
        }
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            for dtype in (torch.float64, torch.float32):
                name = f"torch {device}, {str(dtype).removeprefix('torch.')}"
                contenders[name] = with_torch(force_field(), dtype, device, forces)
        best = dict.fromkeys(((name, batch) for name in contenders for batch in BATCHES), float("inf"))
        for _ in range(ROUNDS):
            for (name, batch), so_far in best.items():
                x = positions[:batch]
                best[name, batch] = min(so_far, duration(lambda f=contenders[name], x=x: f(x), clock) / batch)
        title = f"{'energy and forces' if forces else 'energy'}, us per frame"
        print(f"{title:<32}" + "".join(f"{f'batch {batch}':>14}" for batch in BATCHES))
        for name in contenders:
            print(f"{name:<32}" + "".join(f"{1e6 * best[name, batch]:>14.1f}" for batch in BATCHES))


if __name__ == "__main__":
    main()
