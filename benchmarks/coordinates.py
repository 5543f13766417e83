"""Times internal coordinates both ways, on one thread.

Run ``python benchmarks/coordinates.py`` (one minute on one core). Processor time in milliseconds, the best of several
calls: encode, encode with the gradient of everything it returns, decode; and the worst change of a distance in a round
trip.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from smoothflow.coordinates.internal import InternalCoordinates
from smoothflow.molecules.shipped import molecule_path
from smoothflow.molecules.topologies import topology_from_pdb

MOLECULES = ("capped-alanine", "alanine-tetrapeptide", "chignolin")
BATCHES = (1, 100, 10_000)


def best_of(call: Callable[[], object], min_seconds: float = 0.5, min_calls: int = 3) -> float:
    """The shortest processor time of a call, ms, after one to warm up."""
    call()
    durations: list[float] = []
    while len(durations) < min_calls or sum(durations) < min_seconds:
        begin = time.process_time()
        call()
        durations.append(time.process_time() - begin)
    return 1e3 * min(durations)


def encode_with_gradient(coordinates: InternalCoordinates, positions: torch.Tensor) -> None:
    positions = positions.detach().requires_grad_(True)
    q, log_abs_det = coordinates.encode(positions)
    torch.autograd.grad(q.sum() + log_abs_det.sum(), positions)


def round_trip_error(coordinates: InternalCoordinates, positions: torch.Tensor) -> float:
    """The largest change of a distance between two atoms, nm."""
    back, _ = coordinates.decode(coordinates.encode(positions)[0])
    before, after = (torch.linalg.norm(x[:, :, None] - x[:, None], dim=-1) for x in (positions.double(), back.double()))
    return float((before - after).abs().max())


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    print(f"{'molecule':22s} atoms levels dtype    batch    encode  +gradient    decode  round trip/nm")
    for name in MOLECULES:
        topology, reference = topology_from_pdb(molecule_path(name))
        coordinates = InternalCoordinates(topology)
        size = f"{name:22s} {len(topology):5d} {len(coordinates.zmatrix.levels):6d}"
        for dtype in (torch.float32, torch.float64):
            for batch in BATCHES:
                noise = torch.randn((batch, len(topology), 3), generator=generator, dtype=dtype)
                positions = reference.to(dtype) + 0.002 * noise
                q, _ = coordinates.encode(positions)
                calls = (
                    partial(coordinates.encode, positions),
                    partial(encode_with_gradient, coordinates, positions),
                    partial(coordinates.decode, q),
                )
                encode, gradient, decode = (best_of(call) for call in calls)
                error = round_trip_error(coordinates, positions[:100])
                kind = str(dtype).removeprefix("torch.")
                print(f"{size} {kind} {batch:5d} {encode:9.3f} {gradient:10.3f} {decode:9.3f} {error:14.1e}")


if __name__ == "__main__":
    main()
