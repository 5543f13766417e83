"""Benchmarks: run the suites of a clone, and compare their figures with yardsticks and earlier runs.

A figure belongs to one contender in a group; each group has yardsticks, measured in the same process with as many
threads.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from ..core.errors import BenchmarkError, ConfigurationError, FileFormatError, MissingDependencyError, UnknownNameError
from ..runs.progress import OnProgress, Progress, silent
from .report import Table

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
"""The suites, which are in a clone of the repository and not in the installed package."""

NEEDED = {"pytest_benchmark": "pytest-benchmark", "zuko": "zuko"}
PYTEST = (
    *("-v", "--no-header", "-o", "console_output_style=count", "-p", "no:randomly", "-p", "no:cacheprovider"),
    *("--benchmark-quiet", "--benchmark-disable-gc"),
    *("--benchmark-min-rounds=5", "--benchmark-max-time=0.5"),
    # an older name that some library still uses is not a failure of a benchmark
    *("-W", "default"),
)


COUNT = re.compile(r"\[\s*(\d+)/(\d+)\]$")
"""How pytest ends the line of a test."""


@dataclass(frozen=True)
class Figure:
    """Time or memory of one contender in one group.

    Attributes:
        suite: The suite that measured it.
        group: The task; figures of one group can be divided by one another.
        contender: The program that did it.
        unit: ``ms`` or ``MiB``.
        minimum: Over rounds; the figure that ratios are made of, since other programs on the machine only add to it.
        median: Over rounds.
        yardstick: Whether the others of the group are divided by it.
        facts: Further figures: ``parameters``, ``atoms``.
    """

    suite: str
    group: str
    contender: str
    unit: str
    minimum: float
    median: float
    yardstick: bool
    facts: Mapping[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        """Key by which it is found in another run."""
        return self.suite, self.group, self.contender

    def over(self, other: Figure) -> float:
        """The ratio of minima; nan without a yardstick."""
        return _divided(self.minimum, other.minimum)


@dataclass(frozen=True)
class BenchmarkRun:
    """All figures of one run, and the machine that it ran on."""

    machine: Mapping[str, Any]
    figures: tuple[Figure, ...]

    def groups(self) -> dict[tuple[str, str], list[Figure]]:
        """The figures by suite and group, in the order of measurement."""
        found: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            found.setdefault((figure.suite, figure.group), []).append(figure)
        return found

    def __str__(self) -> str:
        m = self.machine
        return (
            f"{m['cpu']}, {m['threads']} thread{'s' if m['threads'] != 1 else ''}, load {m['load']:.1f} at the start, "
            f"torch {m['torch']}, model: {m['model']}, commit {m['commit']}"
        )


def suite_names(folder: Path = FOLDER) -> list[str]:
    """The benchmark suites in a folder.

    Raises:
        ConfigurationError: If there is none: the package was installed without its repository.
    """
    names = sorted(path.stem.removeprefix("test_") for path in folder.glob("test_*.py"))
    if not names:
        raise ConfigurationError(
            f'There are no benchmarks in "{folder}": they come with the repository, not with the installed package. '
            "Clone it, and install it with: pip install -e '.[all,bench]'."
        )
    return names


def run_benchmarks(
    suites: Sequence[str],
    output: Path,
    model: Path | None = None,
    threads: int = 1,
    folder: Path = FOLDER,
    on_progress: OnProgress = silent,
) -> None:
    """Run suites one after another in a process of their own, and write pytest-benchmark's JSON.

    Args:
        suites: Names; all if empty.
        output: The JSON file.
        model: A model file of capped alanine, instead of an untrained flow.
        threads: Threads of torch and OpenMM.
        folder: Where the suites are.
        on_progress: Called after each figure.

    Raises:
        MissingDependencyError: If a package that the suites need is not installed.
        UnknownNameError: If there is no such suite.
        BenchmarkError: If one fails; the results of the others are written nevertheless.
    """
    for module, package in NEEDED.items():
        if find_spec(module) is None:
            raise MissingDependencyError("smoothflow bench", package, "bench")
    known = suite_names(folder)
    for name in suites:
        if name not in known:
            raise UnknownNameError("benchmark suite", name, known)
    files = [str(folder / f"test_{name}.py") for name in suites or known]
    options = [f"--benchmark-json={output.resolve()}", f"--threads={threads}"]
    if model is not None:
        options.append(f"--model={model.resolve()}")
    count = str(threads)
    environment = os.environ | {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENMM_CPU_THREADS": count}
    command = [sys.executable, "-m", "pytest", *PYTEST, *options, *files]
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder.parent) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := COUNT.search(line.rstrip()):
                    on_progress(Progress("Benchmarks", int(found[1]), int(found[2])))
                else:
                    said.append(line)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        # to standard error, so that results can be piped
        sys.stderr.writelines(said)
        raise BenchmarkError(
            f'Benchmarks failed (pytest ended with {process.returncode}); their errors are above. "{output}" has what '
            "the others measured, if anything."
        )


def read_benchmarks(path: Path) -> BenchmarkRun:
    """What a run measured.

    Raises:
        FileFormatError: If the file is missing or was not written by `run_benchmarks`.
    """
    try:
        data = json.loads(path.read_text())
        machine = {
            "cpu": data["machine_info"]["cpu"].get("brand_raw", "?"),
            "commit": data["commit_info"]["id"] + ("-dirty" if data["commit_info"]["dirty"] else ""),
            **data["machine_info"]["smoothflow"],
        }
        return BenchmarkRun(machine, tuple(_figure(entry) for entry in data["benchmarks"]))
    except OSError as error:
        raise FileFormatError(f'"{path}" cannot be read: {error.strerror}. Give a file of smoothflow bench.') from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileFormatError(
            f'"{path}" is not a file of smoothflow bench ({type(error).__name__}: {error}). Give one that it wrote.'
        ) from error


def _figure(entry: Mapping[str, Any]) -> Figure:
    info, stats = entry["extra_info"], entry["stats"]
    facts = {name: info[name] for name in ("parameters", "atoms") if name in info}
    if "MiB" in info:
        unit, minimum, median = "MiB", info["MiB"], info["MiB"]
    else:
        unit, minimum, median = "ms", *(1e3 * stats[name] / info["per"] for name in ("min", "median"))
    return Figure(
        info["suite"], entry["group"], info["contender"], unit, minimum, median, bool(info["yardstick"]), facts
    )


def growth_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    r"""The exponent of a power law fitted to logarithms.

    .. math:: v \propto s^a, \qquad \log v = a \log s + b \text{ by least squares}
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def benchmark_tables(run: BenchmarkRun) -> list[Table]:
    """One table for each group: figures, and their ratios to every yardstick."""
    return [_table(suite, figures) for (suite, _), figures in run.groups().items()]


def _table(suite: str, figures: Sequence[Figure]) -> Table:
    yardsticks = _lettered(figures)
    unit = figures[0].unit
    is_time = unit == "ms"
    with_parameters = any("parameters" in figure.facts for figure in figures)
    rows = []
    for figure in figures:
        row = [_label(figure.contender, yardsticks), _digits(figure.minimum)]
        if is_time:
            row += [_digits(figure.median), _digits(1e3 / figure.minimum)]
        row += [_digits(figure.over(yardstick)) for yardstick in yardsticks.values()]
        if with_parameters:
            row.append(str(figure.facts.get("parameters", "")))
        rows.append(tuple(row))
    times = ("minimum, ms", "median, ms", "per second") if is_time else (unit,)
    ratios = tuple(f"/ {letter}" for letter in yardsticks)
    columns = ("contender", *times, *ratios, *(("parameters",) if with_parameters else ()))
    return Table(f"{suite}: {figures[0].group}", columns, rows, _growth(figures))


def _lettered(figures: Sequence[Figure]) -> dict[str, Figure]:
    """The yardsticks of a group by the letters that stand for them in the heads of columns."""
    return dict(zip(ascii_lowercase, (figure for figure in figures if figure.yardstick), strict=False))


def _label(contender: str, yardsticks: Mapping[str, Figure]) -> str:
    """A contender's name, with its letter if it is a yardstick."""
    letters = [letter for letter, yardstick in yardsticks.items() if yardstick.contender == contender]
    return f"{letters[0]} = {contender}" if letters else contender


def _growth(figures: Sequence[Figure]) -> str:
    """How figures grow with the number of atoms, where that varies."""
    sizes = [figure.facts["atoms"] for figure in figures if "atoms" in figure.facts]
    if len(set(sizes)) < 2:
        return ""
    time = growth_exponent(sizes, [figure.minimum for figure in figures])
    parameters = growth_exponent(sizes, [figure.facts["parameters"] for figure in figures])
    return f"Fitted over all n: the minimum grows as atoms^{time:.2f}, parameters as atoms^{parameters:.2f}."


def comparison_tables(now: BenchmarkRun, earlier: BenchmarkRun) -> list[Table]:
    """One table for each group: minima of both runs, their ratio, and the same ratio with each yardstick divided out.

    A figure that one of the runs lacks has no row.
    """
    before = {figure.key: figure for figure in earlier.figures}
    tables = []
    for (suite, group), figures in now.groups().items():
        both = [(figure, before[figure.key]) for figure in figures if figure.key in before]
        if not both:
            continue
        changes = {new.contender: new.over(old) for new, old in both}
        yardsticks = _lettered([new for new, _ in both])
        rows = []
        for new, old in both:
            change = changes[new.contender]
            relative = [_digits(_divided(change, changes[yardstick.contender])) for yardstick in yardsticks.values()]
            label = _label(new.contender, yardsticks)
            rows.append((label, _digits(old.minimum), _digits(new.minimum), _digits(change), *relative))
        unit = figures[0].unit
        columns = ("contender", f"earlier, {unit}", f"now, {unit}", "now / earlier")
        tables.append(Table(f"{suite}: {group}", (*columns, *(f"over {letter}" for letter in yardsticks)), rows))
    return tables


def benchmark_dict(run: BenchmarkRun) -> dict[str, Any]:
    """The figures and their ratios in plain JSON types."""
    figures = [
        {
            "suite": figure.suite,
            "group": figure.group,
            "contender": figure.contender,
            "unit": figure.unit,
            "minimum": figure.minimum,
            "median": figure.median,
            "ratios": {other.contender: figure.over(other) for other in group if other.yardstick},
            **figure.facts,
        }
        for group in run.groups().values()
        for figure in group
    ]
    return {"machine": dict(run.machine), "figures": figures}


def _divided(a: float, b: float) -> float:
    return a / b if b else math.nan


def _digits(value: float) -> str:
    """Three digits or more, without an exponent."""
    if value == 0 or not math.isfinite(value):
        return str(value)
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
