"""What is measured of a device: operations that are counted, floors, sizes that fit, a file that is always whole."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import smoothflow
import torch
from smoothflow.core.errors import FileFormatError
from smoothflow.studies import device_benchmark, device_run
from smoothflow.studies.device_benchmark import measure_device
from smoothflow.studies.device_report import COLUMNS, describe_run, device_tables, read_device
from smoothflow.studies.device_run import DeviceRun, Timing, operations

ROOT = Path(smoothflow.__file__).parent
CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> DeviceRun:
    found = DeviceRun(CPU, 3600.0, tmp_path / "device.json", "ala2-smooth")
    found.begin("energy and forces")
    return found


def test_operations_are_those_of_products_and_one_for_each_element() -> None:
    a, b = torch.rand(5, 7), torch.rand(7, 11)
    assert operations(lambda: a @ b) == 2 * 5 * 7 * 11
    assert operations(lambda: torch.sin(a) + a) == 2 * 35
    # views and copies are none
    assert operations(lambda: a.t().contiguous()) == 0


def test_operations_of_forces_hold_the_way_back() -> None:
    a, b = torch.rand(5, 7, requires_grad=True), torch.rand(7, 11)
    forward = operations(lambda: a @ b)
    assert operations(lambda: torch.autograd.grad((a @ b).sum(), a)) == 2 * forward


def test_a_floor_is_the_larger_of_operations_and_bytes(run: DeviceRun) -> None:
    run.peaks[torch.float32], run.bandwidth = 1e9, 1e8
    for n_bytes in (10, 10**6):
        run.figure("samples", "x", "eager", torch.float32, 10, Timing(0.5, 0.4, 3), operations=2e6, bytes=n_bytes)
    first, second = run.content["figures"]
    assert (first["floor"], first["bound"]) == (pytest.approx(2e-3), "operations")
    assert (second["floor"], second["bound"]) == (pytest.approx(1e-2), "bytes")
    assert first["per_second"] == 20
    row = device_tables(run.content)[2].rows[0]
    assert row[3:8] == ("10", "500", "20", "2 (operations)", "250")


def test_sizes_beyond_the_time_are_left_out_with_a_reason(run: DeviceRun) -> None:
    run.section_end = time.monotonic() + 10.0
    seen = []

    def measure(size: int) -> tuple[float, float]:
        seen.append(size)
        return 0.01 * size, 0.0

    run.sizes("something", (1, 10, 100, 1000), measure)
    # a hundred would take four seconds, a thousand forty
    assert seen == [1, 10, 100]
    (left_out,) = run.content["left_out"]
    assert left_out["what"] == "something, 1000"
    assert "would take 40 s of" in left_out["why"]


def test_sizes_beyond_the_memory_are_left_out_with_a_reason(run: DeviceRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_run, "total_memory", lambda device: 1e9)
    seen = []

    def measure(size: int) -> tuple[float, float]:
        if size == 100:
            raise torch.OutOfMemoryError
        seen.append(size)
        return 0.0, 1e7 * size

    run.sizes("something", (1, 50, 1000), measure)
    run.sizes("another", (1, 100, 1000), lambda size: (measure(size)[0], 0.0))
    assert seen == [1, 50, 1]
    assert [row["why"] for row in run.content["left_out"]] == [
        "would take 9 GiB of memory",
        "does not fit into the device's memory",
    ]


def test_a_wrong_number_is_shown(run: DeviceRun) -> None:
    run.compare("forces", torch.float32, 0.5)
    run.compare("energies", torch.float32, math.nan)
    assert [row["holds"] for row in run.content["correctness"]] == [False, False]
    assert [row[-1] for row in device_tables(run.content)[0].rows] == ["NO", "NO"]


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_device(path)
    path.write_text("{")
    with pytest.raises(FileFormatError, match="is not JSON"):
        read_device(path)
    path.write_text("{}")
    with pytest.raises(FileFormatError, match="is not a file of benchmarks"):
        read_device(path)


@pytest.mark.slow
def test_a_short_run_measures_every_section_and_numbers_hold(tmp_path: Path) -> None:
    content = measure_device(CPU, 20.0, tmp_path / "device.json")
    assert read_device(tmp_path / "device.json") == json.loads(json.dumps(content))
    assert content["finished"]
    assert content["correctness"]
    assert all(row["holds"] for row in content["correctness"])
    assert {row["section"] for row in content["figures"]} == set(COLUMNS)
    for row in content["figures"]:
        # nothing is faster than its floor
        assert row["median"] > row.get("floor", 0.0)


@pytest.mark.slow
def test_a_run_that_is_killed_leaves_what_it_had(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    script = [
        sys.executable,
        str(ROOT / "benchmarks" / "gpu.py"),
        "--device",
        "cpu",
        "--minutes",
        "5",
        "--out",
        str(path),
    ]
    with subprocess.Popen(script, stdout=subprocess.DEVNULL, cwd=tmp_path) as process:
        try:
            while process.poll() is None and not (path.exists() and _figures(path)):
                time.sleep(0.1)
        finally:
            process.kill()
    content = read_device(path)
    assert content["figures"]
    assert not content["finished"]
    assert "was stopped early" in describe_run(content)
    assert device_tables(content)


def _figures(path: Path) -> list[Any]:
    found: list[Any] = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return found


def test_a_missing_device_is_reported_in_one_line(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    script = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path / "gpu.json")]
    found = subprocess.run(script, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert "The device cuda cannot be used here" in found.stderr
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.slow
def test_recorded_work_is_measured_beside_eager_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # on the CPU records are traced graphs: no faster, but what a GPU would do
    monkeypatch.setattr(device_benchmark, "captures", lambda device: True)
    monkeypatch.setattr(device_benchmark, "BATCHES", (1, 4))
    monkeypatch.setattr(device_benchmark, "TRAINING_BATCHES", (4,))
    monkeypatch.setattr(device_benchmark, "REPLICAS", (2,))
    content = measure_device(CPU, 40.0, tmp_path / "device.json", "ala2-affine")
    ways = {(row["section"], row["way"]) for row in content["figures"]}
    for section in ("energy and forces", "samples", "training step", "dynamics"):
        assert {(section, "eager"), (section, "captured")} <= ways
    assert ("weighted samples", "captured") in ways


def test_measuring_a_device_needs_no_optional_package() -> None:
    blocked = [
        "lightning",
        "jinja2",
        "matplotlib",
        "h5py",
        "mdtraj",
        "yaml",
        "pytest",
        "zuko",
        "pydantic",
        "ase",
        "openmm",
    ]
    program = f"""
import sys
for name in {blocked}:
    sys.modules[name] = None
import smoothflow.studies.device_benchmark
"""
    subprocess.run([sys.executable, "-c", program], check=True)
