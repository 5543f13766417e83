"""Figures of benchmarks against the durations that pytest-benchmark wrote down; a small suite is really run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from smoothflow.core.errors import BenchmarkError, ConfigurationError, FileFormatError, UnknownNameError
from smoothflow.runs.progress import Progress
from smoothflow.studies.benchmarks import (
    BenchmarkRun,
    Figure,
    benchmark_dict,
    benchmark_tables,
    comparison_tables,
    growth_exponent,
    read_benchmarks,
    run_benchmarks,
    suite_names,
)

CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--model")
    parser.addoption("--threads", type=int)

def pytest_benchmark_update_machine_info(config, machine_info):
    threads = config.getoption("threads")
    machine_info["smoothflow"] = {"threads": threads, "load": 0.5, "torch": "none", "model": config.getoption("model")}
"""

SUITE = """
import pytest

@pytest.mark.parametrize("size", [1000, 2000, 4000])
def test_sum(benchmark, size):
    benchmark.group = "sum"
    benchmark.extra_info.update(
        suite="sums", contender=f"{size} numbers", per=size, yardstick=size == 1000, atoms=size, parameters=size**2
    )
    benchmark(lambda: sum(range(size)))

def test_memory(benchmark):
    benchmark.group = "memory"
    benchmark.extra_info.update(suite="sums", contender="a list", per=1, yardstick=False, MiB=12.5)
    benchmark(lambda: None)
"""

SEEN: list[Progress] = []
"""What the run of the suite that works told of."""


@pytest.fixture(scope="module", autouse=True)
def measuring() -> Iterator[None]:
    """Nothing is measured by one worker among several, and by this sign it is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        yield


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a suite that works and one that fails."""
    folder = tmp_path_factory.mktemp("clone") / "benchmarks"
    folder.mkdir()
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_sums.py").write_text(SUITE)
    (folder / "test_broken.py").write_text("def test_broken(benchmark):\n    raise OSError('no compiler')\n")
    return folder


@pytest.fixture(scope="module")
def file(suites: Path) -> Path:
    """What the suite that works measured."""
    path = suites.parent / "sums.json"
    run_benchmarks(["sums"], path, Path("some.safetensors"), threads=2, folder=suites, on_progress=SEEN.append)
    return path


def test_progress_counts_what_is_measured(file: Path) -> None:
    assert [(moment.done, moment.total) for moment in SEEN] == [(i, 4) for i in range(1, 5)]


def test_figures_are_those_of_the_recorded_durations(file: Path) -> None:
    run = read_benchmarks(file)
    entries = json.loads(file.read_text())["benchmarks"]
    assert [figure.key for figure in run.figures[:3]] == [("sums", "sum", f"{n} numbers") for n in (1000, 2000, 4000)]
    for figure, entry, per in zip(run.figures[:3], entries[:3], (1000, 2000, 4000), strict=True):
        durations = sorted(entry["stats"]["data"])
        assert figure.minimum == pytest.approx(1e3 * durations[0] / per, rel=1e-12)
        assert figure.minimum <= figure.median <= 1e3 * durations[-1] / per
    assert (run.figures[3].unit, run.figures[3].minimum) == ("MiB", 12.5)
    assert run.machine["threads"] == 2
    assert "2 threads" in str(run)


def test_tables_divide_by_the_yardstick(file: Path) -> None:
    run = read_benchmarks(file)
    times, memory = benchmark_tables(run)
    assert times.columns == ("contender", "minimum, ms", "median, ms", "per second", "/ a", "parameters")
    assert [row[0] for row in times.rows] == ["a = 1000 numbers", "2000 numbers", "4000 numbers"]
    yardstick = run.figures[0].minimum
    for row, figure in zip(times.rows, run.figures[:3], strict=True):
        assert float(row[4]) == pytest.approx(figure.minimum / yardstick, rel=0.006)  # three digits are shown
    assert "parameters as atoms^2.00" in times.note
    assert memory.columns == ("contender", "MiB")
    ratios = [figure["ratios"] for figure in benchmark_dict(run)["figures"]]
    assert ratios[0] == {"1000 numbers": 1.0}
    assert ratios[3] == {}


def test_a_comparison_divides_the_yardsticks_change_out() -> None:
    def figure(contender: str, minimum: float) -> Figure:
        return Figure("forces", "batch 1", contender, "ms", minimum, 2 * minimum, contender == "Amber", {})

    earlier = BenchmarkRun({}, (figure("flow", 8.0), figure("Amber", 1.0), figure("gone", 1.0)))
    now = BenchmarkRun({}, (figure("flow", 4.0), figure("Amber", 2.0), figure("new", 1.0)))
    (table,) = comparison_tables(now, earlier)
    assert table.columns == ("contender", "earlier, ms", "now, ms", "now / earlier", "over a")
    assert table.rows == [("flow", "8.00", "4.00", "0.500", "0.250"), ("a = Amber", "1.00", "2.00", "2.00", "1.00")]
    other = replace(now, figures=(replace(now.figures[0], group="batch 10"),))
    assert comparison_tables(other, earlier) == []


def test_growth_exponent_of_a_power_law() -> None:
    sizes = [22.0, 32.0, 52.0, 112.0]
    # rounding of a fit to four logarithms
    assert growth_exponent(sizes, [0.3 * size**1.37 for size in sizes]) == pytest.approx(1.37, abs=1e-12)


def test_a_benchmark_that_fails_does_not_take_the_others_along(
    suites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "all.json"
    with pytest.raises(BenchmarkError, match=r"all\.json"):
        run_benchmarks([], path, folder=suites)
    assert "no compiler" in capsys.readouterr().err
    assert len(read_benchmarks(path).figures) == 4


def test_unknown_suites_are_refused(suites: Path, tmp_path: Path) -> None:
    assert suite_names(suites) == ["broken", "sums"]
    with pytest.raises(UnknownNameError, match=r'No benchmark suite is called "sum"\. Did you mean "sums"'):
        run_benchmarks(["sum"], tmp_path / "none.json", folder=suites)
    with pytest.raises(ConfigurationError, match=r"Clone it"):
        suite_names(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "[1, 2]", "{}", '{"machine_info": {"cpu": {}}}', '{"machine_info": 3}'])
def test_files_of_other_programs_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=r"not a file of smoothflow bench"):
        read_benchmarks(path)
    with pytest.raises(FileFormatError, match=r"cannot be read"):
        read_benchmarks(tmp_path / "missing.json")
