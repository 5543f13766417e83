"""``smoothflow bench``: speed and memory, compared with yardsticks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import BenchmarkError
from . import completion
from .console import print_json, print_table, results, say, task_progress
from .options import AsJson

if TYPE_CHECKING:
    from ..studies.benchmarks import BenchmarkRun


def run(
    suite: Annotated[
        list[str] | None,
        typer.Option(help="A suite to run; may be repeated: dynamics, forces, growth, memory, ..."),
    ] = None,
    output: Annotated[Path, typer.Option("--out", help="JSON file to write.")] = Path("smoothflow-bench.json"),
    compare: Annotated[
        Path | None, typer.Option(help="The JSON file of an earlier run.", autocompletion=completion.MEASUREMENTS)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model of capped alanine, by name or file; an untrained flow by default.",
            autocompletion=completion.MODELS,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of all that is measured.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Run the benchmarks of a clone of the repository, tabulate them, and compare them with an earlier run.

    Example: smoothflow bench --suite forces --out forces.json
    """
    from ..core.files import require_free
    from ..core.plugins import registry
    from ..studies.benchmarks import benchmark_dict, read_benchmarks, run_benchmarks

    require_free(output)
    earlier = None if compare is None else read_benchmarks(compare)
    model_path = None if model is None else registry().model_path(model)
    failure = None
    try:
        with task_progress() as report:
            run_benchmarks(suite or [], output, model_path, threads, on_progress=report)
    except BenchmarkError as error:
        if not output.exists():
            raise
        # what was measured is shown first
        failure = error
    found = read_benchmarks(output)
    if as_json:
        print_json(benchmark_dict(found))
    else:
        _print(found, earlier)
    if failure is not None:
        raise failure


def _print(found: BenchmarkRun, earlier: BenchmarkRun | None) -> None:
    from ..studies.benchmarks import benchmark_tables, comparison_tables

    tables = benchmark_tables(found)
    # ratios to several yardsticks do not fit into the 80 columns that a pipe gets
    results.width = max(results.width, 120)
    say(str(found))
    if earlier is not None:
        tables = comparison_tables(found, earlier)
        say(f"earlier: {earlier}")
    for table in tables:
        print_table(table.title, table.columns, table.rows)
        if table.note:
            say(table.note)
