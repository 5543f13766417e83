"""Every transform on every toy target at one budget: divergences from the exact answer.

Run ``python benchmarks/toy_targets.py OUT``; each target gets a folder in OUT with a table, figures and a report, and
the table of divergences is printed. Only numbers of one target may be compared: the targets differ in their budgets.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from smoothflow.runs.progress import Progress
from smoothflow.studies.toys.comparison import ToyResult, compare_on_target
from smoothflow.studies.toys.training import ToySettings

STEPS = {
    "rings": 3000,
    "rings-kinked": 3000,
    "rings-periodic": 3000,
    "torus-unimodal": 1000,
    "torus-multimodal": 1000,
    "torus-correlated": 1000,
}
"""The targets, and the training steps of every flow on each."""

TRANSFORMS = "smooth,spline,affine"


def show(progress: Progress) -> None:
    """The end of each stage, to standard error."""
    if progress.done == progress.total:
        print(progress.stage, dict(progress.values), file=sys.stderr, flush=True)


def line(target: str, result: ToyResult) -> str:
    """One row of the table."""
    e = result.evaluation
    if e is None:
        return f"{target:18s} {result.transform:16s} broke down: {result.breakdown}"
    return (
        f"{target:18s} {result.transform:16s} {result.n_parameters:6d} {result.training_seconds:6.0f} s  "
        f"KL {e.forward_kl!s:20s} reverse {e.reverse_kl!s:20s} ESS {e.ess!s:18s} "
        f"force MSE {e.force_mse!s:16s} gradient {e.largest_force_gradient:9.3g}  jump {e.largest_force_jump:8.2g}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--targets", default=",".join(STEPS))
    parser.add_argument("--transforms", default=TRANSFORMS)
    parser.add_argument("--steps", type=int, help="instead of each target's own")
    parser.add_argument("--force-weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for target in arguments.targets.split(","):
        steps = arguments.steps or STEPS.get(target, ToySettings.steps)
        settings = ToySettings(steps=steps, force_weight=arguments.force_weight, seed=arguments.seed)
        folder = arguments.out / target
        for result in compare_on_target(target, arguments.transforms.split(","), settings, folder, show):
            print(line(target, result), flush=True)


if __name__ == "__main__":
    main()
