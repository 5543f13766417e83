"""Energies and forces of a batch: the torch force field against an OpenMM Context, one frame after the other.

Run ``python benchmarks/force_field.py`` (two minutes on one core). Capped alanine in implicit solvent, 22 atoms; the
best of several calls, in microseconds per frame. ``OMP_NUM_THREADS=1`` gives one thread to both.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import openmm
import torch
from openmm import app
from smoothflow.core.torch_internals import traced
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb
from smoothflow.potentials.force_field import ForceField

BATCHES = (1, 100, 1000, 10_000)


def best_of(call: Callable[[], object], min_seconds: float = 2.0, min_calls: int = 3) -> float:
    """The shortest duration of a call, s, after one to warm up."""
    call()
    durations: list[float] = []
    while len(durations) < min_calls or sum(durations) < min_seconds:
        begin = time.perf_counter()
        call()
        durations.append(time.perf_counter() - begin)
    return min(durations)


def with_openmm(system: openmm.System, name: str) -> Callable[[torch.Tensor], object]:
    """Energies and forces of every frame from one Context."""
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName(name))

    def evaluate(positions: torch.Tensor) -> object:
        results = []
        for frame in positions.numpy():
            context.setPositions(frame)
            state = context.getState(energy=True, forces=True)
            results.append((state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value))
        return results

    return evaluate


def with_torch(potential: ForceField, dtype: torch.dtype, device: str) -> Callable[[torch.Tensor], object]:
    """Energies and forces of the batch at once; results come back to the host."""
    potential = potential.to(device=device, dtype=dtype)

    def evaluate(positions: torch.Tensor) -> object:
        energy, forces = potential.energy_and_forces(positions.to(device=device, dtype=dtype))
        return energy.cpu(), forces.cpu()

    return evaluate


def with_compiler(potential: ForceField, chunk: int) -> Callable[[torch.Tensor], object]:
    """The graph of energies and forces, compiled for one size of batch; larger ones go through it in pieces."""
    compiled: dict[int, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]] = {}

    def energy_and_forces(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        positions = positions.detach().requires_grad_(True)
        energy = potential.energy(positions)
        (gradient,) = torch.autograd.grad(energy.sum(), positions)
        return energy.detach(), -gradient

    def evaluate(positions: torch.Tensor) -> object:
        size = min(chunk, len(positions))
        if size not in compiled:
            compiled[size] = torch.compile(traced(energy_and_forces, [positions[:size].clone()], symbolic=False))
            torch.testing.assert_close(
                compiled[size](positions[:size]), potential.energy_and_forces(positions[:size]), rtol=1e-9, atol=1e-7
            )
        return [compiled[size](piece) for piece in positions.split(size)]

    return evaluate


def main() -> None:
    """Print the table."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    path = molecule_path("capped-alanine")
    pdb = app.PDBFile(str(path))
    system = app.ForceField("amber99sbildn.xml", "amber99_obc.xml").createSystem(pdb.topology)
    topology, start = topology_from_pdb(path)
    noise = np.random.default_rng(0).normal(scale=0.005, size=(max(BATCHES), len(topology), 3))
    positions = start + torch.from_numpy(noise)

    contenders: dict[str, Callable[[], Callable[[torch.Tensor], object]]] = {
        "OpenMM Reference, float64": lambda: with_openmm(system, "Reference"),
        "OpenMM CPU, float32": lambda: with_openmm(system, "CPU"),
    }
    if shutil.which("g++"):
        contenders["torch cpu, float64, compiled"] = lambda: with_compiler(
            ForceField.from_system(system, topology), chunk=100
        )
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        for dtype in (torch.float64, torch.float32):
            name = f"torch {device}, {str(dtype).removeprefix('torch.')}"
            contenders[name] = lambda dtype=dtype, device=device: with_torch(
                ForceField.from_system(system, topology), dtype, device
            )

    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} torch threads, ", end="")
    print(f"load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, OpenMM {openmm.__version__}")
    print(f"{'energy and forces, us per frame':<32}" + "".join(f"{f'batch {batch}':>14}" for batch in BATCHES))
    for name, make in contenders.items():
        evaluate = make()
        times = [best_of(partial(evaluate, positions[:batch])) / batch for batch in BATCHES]
        print(f"{name:<32}" + "".join(f"{1e6 * t:>14.1f}" for t in times))


if __name__ == "__main__":
    main()
