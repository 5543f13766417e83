"""Measure which branches of the code its tests take.

    python tools/soak/branches.py --json docs/reliability/branches.json

Runs the tests of ``core``, ``coordinates`` and ``backends``, with those of what stands directly on them, and processes
that they start; ends with an error if less than 95 % of the branches of one of the three are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from record import keep

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("core", "coordinates", "backends")
TESTS = ("core", "coordinates", "backends", "testing", "integrators", "potentials")
REQUIRED = 95.0
"""Per cent."""
NEEDS_PYTHON_3_12 = "torchsim*.py"
TIMED = "tests/potentials/test_hostile_models.py"
"""Opens files within a second, for which code that is watched is too slow."""


def measure(packages: list[str], tests: list[str]) -> dict[str, Counter[str]]:
    """What was counted in each package."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "settings"
        omitted = "" if sys.version_info >= (3, 12) else f"omit = {ROOT}/backends/engines/{NEEDS_PYTHON_3_12}\n"
        settings.write_text(
            f"[run]\nbranch = true\nparallel = true\npatch = subprocess\ndata_file = {folder}/data\n"
            f"source = {','.join(str(ROOT / package) for package in packages)}\n{omitted}"
        )
        coverage = [sys.executable, "-m", "coverage"]
        options = ["-q", "-n", "auto", "--dist", "worksteal", "-m", "not slow", f"--ignore={TIMED}"]
        command = [*coverage, "run", f"--rcfile={settings}", "-m", "pytest", *options, *tests]
        subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=True)
        report = Path(folder) / "report.json"
        for step in (["combine", "-q"], ["json", "-q", "-o", str(report)]):
            subprocess.run([*coverage, step[0], f"--rcfile={settings}", *step[1:]], cwd=ROOT, check=True)
        files = json.loads(report.read_text())["files"]
    totals: dict[str, Counter[str]] = {package: Counter() for package in packages}
    for name, found in sorted(files.items()):
        totals[Path(name).parts[0]].update({key: n for key, n in found["summary"].items() if isinstance(n, int)})
        if found["missing_branches"]:
            print(f"{name}: branches never taken, from line to line: {found['missing_branches']}")
    return totals


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--package", action="append", help=f"{', '.join(PACKAGES)} without it")
    parser.add_argument("--tests", action="append", help="files or folders with the tests to run")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    totals = measure(options.package or list(PACKAGES), options.tests or [f"tests/{name}" for name in TESTS])
    figures: dict[str, object] = {}
    shares = {}
    for package, n in totals.items():
        shares[package] = 100 * n["covered_branches"] / n["num_branches"]
        figures[f"{package}: branches taken"] = f"{n['covered_branches']} of {n['num_branches']}"
        figures[f"{package}: branches taken, %"] = f"{shares[package]:.1f}"
        figures[f"{package}: statements run, %"] = f"{100 * n['covered_lines'] / n['num_statements']:.1f}"
    keep(options.json, "Branches that the tests take", figures, began)
    low = [package for package, share in shares.items() if share < REQUIRED]
    if low:
        raise SystemExit(f"Less than {REQUIRED:g} % of the branches are taken in {', '.join(low)}.")


if __name__ == "__main__":
    main()
