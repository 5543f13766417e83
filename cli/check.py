"""``smoothflow check``: does a transform keep the contract."""

from __future__ import annotations

from typing import Annotated

import typer

from ..core.plugins import registry
from ..testing.transforms import examine_transform
from .console import print_json, print_table
from .options import AsJson, Seed


def run(
    name: Annotated[str, typer.Argument(help="Name of a transform; see smoothflow plugins.")],
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Check a transform against every clause of the contract; exit code 2 if one is broken.

    Example: smoothflow check smooth
    """
    report = examine_transform(registry().transform(name), seed=seed)
    rows = [
        {
            "manifold": result.where,
            "clause": result.clause,
            "holds": result.error is None,
            "measured": {measure: float(value) for measure, value in result.numbers.items()},
        }
        for result in report.results
    ]
    if as_json:
        print_json({"subject": report.subject, "passed": report.passed, "clauses": rows})
    else:
        print_table(
            report.subject,
            ["manifold", "clause", "", "measured"],
            [
                [
                    result.where,
                    result.clause,
                    "ok" if result.error is None else "BROKEN",
                    ", ".join(f"{measure} {value:.3g}" for measure, value in result.numbers.items()),
                ]
                for result in report.results
            ],
        )
    report.raise_first()
