"""How many steps of the root finder leave how many elements that have not converged, in float32 and in float64.

    python tools/soak/newton_steps.py --json docs/reliability/newton-steps.json

Where nobody may be asked which elements are finished, on a GPU above all, the root finder makes a fixed number of steps
(`QUEUED_STEPS`), and solves apart what has not converged then. Problems are those of ``many_roots.py``: a third with
ordinary parameters, a third with extreme ones, a third with those of a model that ships.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from many_roots import CHUNK, Parameters, jobs, targets
from record import keep
from smoothflow.core.inversion import without_waiting
from smoothflow.core.solvers import QUEUED_STEPS, RootProblem, RootResult, SafeguardedNewton, Solver
from smoothflow.core.transforms import Transform

STEPS = tuple(range(4, 21))
"""Numbers of steps that are tried; with the last one none may be left."""

THIRDS = ("ordinary", "extreme", "trained")


class Noted(Solver):
    """Remembers the problem that it was given, and does not solve it."""

    problem: RootProblem

    def solve(self, problem: RootProblem) -> RootResult:
        self.problem = problem
        return SafeguardedNewton(queued_steps=1).solve_without_waiting(problem)


def left(problem: RootProblem) -> Iterator[tuple[int, int]]:
    """For each number of steps, how many elements have not converged."""
    for n_steps in STEPS:
        if len(problem.y):
            result = SafeguardedNewton(queued_steps=n_steps).solve_without_waiting(problem)
            # those that have converged are the same with more steps
            problem = problem.select(torch.nonzero(~result.converged).squeeze(-1))
        yield n_steps, len(problem.y)


def count(
    third: list[tuple[Transform, Parameters]], n_elements: int, dtype: torch.dtype, generator: torch.Generator
) -> dict[int, int]:
    """Elements that are left after each number of steps."""
    total, chunk, done = dict.fromkeys(STEPS, 0), 0, 0
    while done < n_elements:
        transform, draw = third[chunk % len(third)]
        n = min(CHUNK, max(4, n_elements - done))
        params = draw(n, dtype, generator)
        transform.solver = noted = Noted()
        with without_waiting():
            transform.inverse(targets(transform, params, generator), params)
        for n_steps, n_left in left(noted.problem):
            total[n_steps] += n_left
        done, chunk = done + n, chunk + 1
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=30_000_000, help="in each dtype")
    parser.add_argument("--model", default="ala2-smooth", help="gives trained parameters")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    figures: dict[str, object] = {"model": arguments.model}
    for dtype in (torch.float32, torch.float64):
        name = str(dtype)[6:]
        figures[f"{name}: steps that are made"] = QUEUED_STEPS[dtype]
        for kind, third in zip(THIRDS, jobs(arguments.model), strict=True):
            n_elements = arguments.elements // len(THIRDS)
            total = count(third, n_elements, dtype, torch.Generator().manual_seed(0))
            shown = ", ".join(f"{n_steps}: {n_left}" for n_steps, n_left in total.items() if n_left)
            last = next(n_steps for n_steps, n_left in total.items() if not n_left)
            figures[f"{name}, {kind} parameters: left of {n_elements} after so many steps"] = shown
            figures[f"{name}, {kind} parameters: steps that left none"] = last
            print(f"{name}, {kind}, of {n_elements}: {total}", flush=True)
    keep(arguments.json, "Newton steps", figures, began)


if __name__ == "__main__":
    main()
