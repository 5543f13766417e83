"""Many roots: every transform that inverts numerically, in float32 and in float64.

    python tools/soak/many_roots.py --json docs/reliability/many-roots.json

Of the elements of each dtype, a third have normally distributed parameters, a third parameters 4 to 50 times as far
from the initial ones, and a third those that the conditioners of a model that ships give for its own samples, each
moved by 1 %; the thirds are split evenly among transforms and manifolds, and couplings. Targets are uniform, but one in
four lies next to the image of the point 0, where a circle is cut open and an interval ends. On circles, one chunk in
ten is solved without the lift, as for a transform that does not give it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from record import keep
from smoothflow.core.errors import InversionError
from smoothflow.core.inversion import DEFAULT_SOLVER
from smoothflow.core.layers import Coupling
from smoothflow.core.manifolds import UNIT_MANIFOLDS, Circle
from smoothflow.core.plugins import registry
from smoothflow.core.solvers import RootProblem, RootResult, Solver
from smoothflow.core.transforms import Transform
from smoothflow.potentials.shipped import load
from torch import Tensor

CHUNK = 50_000

NUMERICAL = (
    ("smooth", "circle"),
    ("smooth", "interval"),
    ("moebius-mixture", "circle"),
    ("bspline", "circle"),
    ("bspline", "interval"),
    ("bernstein", "interval"),
)
"""Transforms that invert numerically, and their manifolds."""

SPREADS = ((1.0,), (4.0, 12.0, 50.0))
"""Standard deviations of ordinary and of extreme parameters."""

NEAR = 1000.0
"""How near to the image of the point 0 every fourth target is, in units of epsilon."""

MOVED = 0.01
"""Relative standard deviation by which trained parameters are moved."""

WITHOUT_LIFT = 10
"""On circles, one chunk of so many is solved without the lift."""

Parameters = Callable[[int, torch.dtype, torch.Generator], Tensor]
"""Draws so many vectors of parameters."""


class Recorded(Solver):
    """The default solver, with a memory of the last problem and its result."""

    last: tuple[RootProblem, RootResult]

    def solve(self, problem: RootProblem) -> RootResult:
        self.last = problem, DEFAULT_SOLVER.solve(problem)
        return self.last[1]


@dataclass
class Tally:
    """What was found so far in one dtype."""

    solved: int = 0
    failed: int = 0
    without_lift: int = 0
    largest: float = 0.0
    where: str = ""


def random_parameters(transform: Transform, spreads: tuple[float, ...]) -> Parameters:
    """Normal around the initial ones, with these standard deviations in turn."""

    def draw(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        noise = torch.randn((n, transform.n_params), generator=generator, dtype=dtype)
        width = torch.tensor(spreads, dtype=dtype).repeat(-(-n // len(spreads)))[:n, None]
        return transform.initial_params().to(dtype) + width * noise

    return draw


def trained_parameters(rows: Tensor) -> Parameters:
    """Some of these, each moved a little, so that no two elements are the same."""

    def draw(n: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
        chosen = rows[torch.randint(len(rows), (n,), generator=generator)].to(dtype)
        return chosen * (1 + MOVED * torch.randn(chosen.shape, generator=generator, dtype=dtype))

    return draw


def of_model(name: str) -> Iterator[tuple[Transform, Tensor]]:
    """For each coupling that inverts numerically, what its conditioner gives for samples of the model."""
    model = load(name)
    couplings = [module for module in model.flow.modules() if isinstance(module, Coupling)]
    outputs: dict[int, Tensor] = {}
    for i, coupling in enumerate(couplings):
        coupling.conditioner.register_forward_hook(lambda _, __, out, i=i: outputs.__setitem__(i, out.detach()))
    with torch.no_grad():
        model.sample(2000, torch.Generator().manual_seed(0))
    for i, coupling in enumerate(couplings):
        widths = [group.n_columns * group.n_outputs for group in coupling.groups]
        for group, flat in zip(coupling.groups, torch.split(outputs[i], widths, dim=-1), strict=True):
            transform = group.transform
            # an arc's affine step has a closed inverse
            if (transform.name, transform.manifold.name) in NUMERICAL:
                yield transform, flat.reshape(-1, transform.n_params)


def targets(transform: Transform, params: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform targets, one in four next to the image of 0."""
    n, dtype = len(params), params.dtype
    y = torch.rand(n, generator=generator, dtype=dtype)
    near, _ = transform.forward(torch.zeros(n // 4, dtype=dtype), params[: n // 4])
    y[: n // 4] = near + NEAR * torch.finfo(dtype).eps * (2 * torch.rand(n // 4, generator=generator, dtype=dtype) - 1)
    return Circle().wrap(y) if isinstance(transform.manifold, Circle) else y.clamp(0, 1)


def solve(transform: Transform, params: Tensor, lifted: bool, generator: torch.Generator, tally: Tally) -> None:
    """One chunk of targets, solved and counted."""
    n, manifold = len(params), transform.manifold
    y = targets(transform, params, generator)
    transform.solver = recorded = Recorded()
    if lifted:
        # what failed is counted below
        with contextlib.suppress(InversionError):
            transform.inverse(y, params)
        problem, result = recorded.last
    else:
        problem = RootProblem.start(transform.forward, y, params, manifold)
        result = recorded.solve(problem)
    residual = (result.residual / problem.rounding(result.x, result.log_dydx)).nan_to_num(nan=torch.inf)
    place = int(residual.argmax())
    tally.solved += n
    tally.without_lift += 0 if lifted else n
    tally.failed += int((~result.converged).sum())
    if float(residual[place]) > tally.largest:
        tally.largest = float(residual[place])
        tally.where = f"{transform.name} on the {manifold.name}, y = {y[place].item():.9g}"


def jobs(model: str) -> list[list[tuple[Transform, Parameters]]]:
    """The three thirds: ordinary, extreme and trained parameters."""
    made = [registry().transform(name)(UNIT_MANIFOLDS[manifold]) for name, manifold in NUMERICAL]
    trained = [(transform, trained_parameters(rows)) for transform, rows in of_model(model)]
    thirds = [[(transform, random_parameters(transform, spreads)) for transform in made] for spreads in SPREADS]
    return [*thirds, trained]


def soak(thirds: list[list[tuple[Transform, Parameters]]], n_elements: int, dtype: torch.dtype) -> Tally:
    """So many elements of one dtype; a line a minute."""
    tally, generator = Tally(), torch.Generator().manual_seed(0)
    told, chunk = time.monotonic(), 0
    while tally.solved < n_elements:
        # whole rounds of three chunks, one of each third, every job of a third in turn
        for third in thirds:
            transform, draw = third[chunk % len(third)]
            n = min(CHUNK, max(4, -(-n_elements // 3)))
            lifted = not isinstance(transform.manifold, Circle) or (chunk // len(third) + 1) % WITHOUT_LIFT > 0
            solve(transform, draw(n, dtype, generator), lifted, generator, tally)
        chunk += 1
        if time.monotonic() - told > 60:
            told = time.monotonic()
            print(f"{dtype}: {tally.solved} of {n_elements} elements, {tally.failed} failures", flush=True)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=300_000_000, help="in each dtype")
    parser.add_argument("--model", default="ala2-smooth", help="gives trained parameters")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    thirds = jobs(arguments.model)
    figures: dict[str, object] = {
        "transforms with random parameters": ", ".join(f"{name} ({manifold})" for name, manifold in NUMERICAL),
        "couplings with trained parameters": f"{len(thirds[2])} of {arguments.model}",
    }
    failed = 0
    for dtype in (torch.float32, torch.float64):
        name = str(dtype)[6:]
        tally = soak(thirds, arguments.elements, dtype)
        failed += tally.failed
        figures |= {
            f"{name}: elements": tally.solved,
            f"{name}: of them with ordinary / extreme / trained parameters": "a third each",
            f"{name}: of them on circles without the lift": tally.without_lift,
            f"{name}: not converged": tally.failed,
            f"{name}: largest residual, in roundings of x and F(x) (eps)": round(tally.largest, 2),
            f"{name}: there": tally.where,
        }
    keep(arguments.json, "Many roots", figures, began)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    main()
