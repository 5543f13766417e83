"""Throughput and accuracy of root finders on random smooth transforms.

Run ``python benchmarks/inversion.py``; every solver inverts the same transforms of the circle and the interval at the
same random points. The solvers take turns, so that a busy machine is busy for all, and the best time of each counts.
"""

from __future__ import annotations

import argparse
import time

import torch
from smoothflow.core.errors import InversionError
from smoothflow.core.inversion import find_root
from smoothflow.core.manifolds import UNIT_MANIFOLDS
from smoothflow.core.plugins import registry
from smoothflow.core.solvers import Bisection, MultiBinBisection, SafeguardedNewton, Solver

SOLVERS: dict[str, Solver] = {
    "safeguarded Newton": SafeguardedNewton(),
    "multi-bin bisection (100 bins, 1e-6)": MultiBinBisection(100, 1e-6),
    "bisection": Bisection(),
}


def random_case(
    n_elements: int, n_params: int, dtype: torch.dtype, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uniform targets and standard normal parameters."""
    y = torch.rand(n_elements, dtype=dtype, generator=generator)
    return y, torch.randn((n_elements, n_params), dtype=dtype, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transform", default="smooth")
    parser.add_argument("--elements", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--accuracy-elements", type=int, default=1_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for manifold_name in ("circle", "interval"):
        manifold = UNIT_MANIFOLDS[manifold_name]
        transform = registry().transform(arguments.transform)(manifold)
        for dtype in (torch.float64, torch.float32):
            generator = torch.Generator().manual_seed(0)
            y, params = random_case(arguments.elements, transform.n_params, dtype, generator)
            best = dict.fromkeys(SOLVERS, float("inf"))
            residuals = dict.fromkeys(SOLVERS, float("nan"))
            for _ in range(arguments.repeats):
                for name, solver in SOLVERS.items():
                    start = time.perf_counter()
                    try:
                        result = find_root(transform.forward, y, params, manifold, solver)
                    except InversionError as error:
                        print(f"{name}: {error}")
                        continue
                    best[name] = min(best[name], time.perf_counter() - start)
                    residuals[name] = float(result.residual.max())
            for name in SOLVERS:
                ratio = best["multi-bin bisection (100 bins, 1e-6)"] / best[name]
                print(
                    f"{arguments.transform:8s} {manifold_name:8s} {str(dtype)[6:]:8s} {name:36s} "
                    f"{arguments.elements / best[name]:12.0f} /s   {ratio:6.1f} x   max|F(x)-y| {residuals[name]:.1e}"
                )
            if arguments.accuracy_elements:
                y, params = random_case(arguments.accuracy_elements, transform.n_params, dtype, generator)
                result = find_root(transform.forward, y, params, manifold)
                print(f"    {len(y)} random cases, max|F(x)-y| {float(result.residual.max()):.2e}; {result.reason}")


if __name__ == "__main__":
    main()
