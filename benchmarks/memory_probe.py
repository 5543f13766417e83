"""Prints how many MiB one call needs at its peak, beyond the memory resident before it, after a call at batch 1.

Asks Linux; elsewhere there is no such figure.

python benchmarks/memory_probe.py CONTENDER forces|training [MODEL]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from contenders import PEERS, untrained_potential
from measuring import jittered
from peptides import capped_polyalanine
from smoothflow.core.potential import Potential
from smoothflow.potentials.model_file import read_model
from torch import Tensor

BATCHES = {"forces": 1000, "training": 128}


def make(contender: str, model: str) -> tuple[Potential, Tensor]:
    """A contender in float32, and more configurations than are needed."""
    topology, start = capped_polyalanine(1)
    if contender != "flow":
        peer = PEERS[contender](3 * len(topology) - 6)
        return peer, 0.25 + 0.5 * torch.rand(max(BATCHES.values()), *peer.shape)
    potential = read_model(Path(model), torch.float32) if model else untrained_potential(topology, start).float()
    return potential, jittered(start, max(BATCHES.values()), torch.float32)


def forces(potential: Potential, x: Tensor) -> None:
    potential.requires_grad_(False).energy_and_forces(x)


def training(potential: Potential, x: Tensor) -> None:
    """Gradients of energies and of forces with respect to the weights."""
    x = x.clone().requires_grad_(True)
    energy = potential.requires_grad_(True).energy(x)
    (gradient,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
    (energy.mean() + gradient.square().mean()).backward()


def resident(field: str) -> float:
    """``VmRSS``, the memory in use, or ``VmHWM``, its peak, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10


def main(contender: str, task: str, model: str = "") -> None:
    torch.set_num_threads(1)
    potential, x = make(contender, model)
    call = {"forces": forces, "training": training}[task]
    call(potential, x[:1])
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far, of imports, is forgotten
    call(potential, x[: BATCHES[task]])
    print(resident("VmHWM") - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
