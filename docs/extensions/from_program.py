"""Pages that are made from the program itself: its modules, its commands, and the figures that it measured."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import smoothflow
import typer
from docutils import nodes
from smoothflow.cli.app import app as program
from smoothflow.studies.benchmarks import benchmark_tables, read_benchmarks
from smoothflow.studies.comparison.report import markdown
from smoothflow.studies.device_report import describe_run, device_tables, read_device
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode
from typer.cli import get_docs_for_click

PACKAGE = Path(smoothflow.__file__).parent
CONTENTS = {
    "Begin": [
        "installation",
        *(f"tutorials/{name}" for name in ("ase", "openmm", "molecule", "transform")),
        "tutorials/*",
    ],
    "How to": ["how-to/*"],
    "Explanation": [
        *("explanation/smoothness", "explanation/mixture-transform", "explanation/inverse", "explanation/charts"),
        *("explanation/z-matrix", "explanation/densities", "explanation/effective-sample-size", "explanation/limits"),
        "explanation/*",
    ],
    "Results": ["results/*", "reliability", "generated/benchmarks/*"],
    "Reference": ["generated/python", "generated/commands", "reference/*", "changelog"],
}
"""The sections of the site and their pages; a pattern stands for those that are not named before it."""

BENCHMARK_LEAD = """\
Written by `smoothflow bench`; [how to measure](../../how-to/benchmarks.md) says what each suite measures, and on what.
A column `/ a` is the figure divided by that of yardstick a: below one is faster, or smaller.
"""

DEVICE = "device-"
"""What the files of ``benchmarks/gpu.py`` are called, and then after the device."""

DEVICE_LEAD = """\
Written by `benchmarks/gpu.py`; [how to measure](../../how-to/benchmarks.md#measure-a-device) says how.
Numbers on the device were compared with float64 on the CPU first. Times are medians over calls, waited for, after one
to warm up.
"""

ROOMS = (
    "core",
    "runs",
    "molecules",
    "coordinates",
    "backends.flows",
    "backends.engines",
    *(f"backends.engines.{engine}" for engine in ("openmm", "ase", "ipi", "lammps", "torchsim", "metatomic")),
    "potentials",
    "integrators",
    "sampling",
    "training",
    "analysis",
    "studies",
    *(f"studies.{study}" for study in ("comparison", "demo", "physics", "toys")),
    "testing",
)


def generate(app: Sphinx) -> None:
    """Write all of them below ``docs/generated``."""
    source = Path(app.srcdir)
    write(source / "generated" / "commands.md", commands())
    write(source / "generated" / "extras.inc", extras())
    for name, text in (*module_pages(), *benchmark_pages(source / "benchmarks")):
        write(source / "generated" / name, text)
    write(source / "generated" / "contents.inc", contents(source))


def write(path: Path, text: str) -> None:
    """Write a page; an unchanged one is left alone, and not built again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def contents(source: Path) -> str:
    """The tables of contents, of the pages that there are."""
    parts = []
    for caption, patterns in CONTENTS.items():
        found = [path for pattern in patterns for path in sorted(source.glob(f"{pattern}.*"))]
        pages = dict.fromkeys(
            path.relative_to(source).with_suffix("").as_posix() for path in found if path.suffix in (".md", ".rst")
        )
        if pages:
            parts += ["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```", ""]
    return "\n".join(parts)


def module_pages() -> Iterator[tuple[str, str]]:
    """One page for each module, one for each room, and the public names."""
    names = "\n".join(f"   ~{home_of(name)}.{name}" for name in smoothflow.__all__)
    rooms = "\n".join(f"   modules/{room}" for room in ROOMS)
    yield (
        "python.rst",
        f"{heading('Python')}\nThese names are in ``smoothflow`` itself. Everything else is imported from its module.\n"
        f"\n.. autosummary::\n   :nosignatures:\n\n{names}\n\n"
        f"{heading('Modules', '-')}\n.. toctree::\n   :maxdepth: 1\n\n{rooms}\n",
    )
    for room in ROOMS:
        paths = sorted(PACKAGE.joinpath(*room.split(".")).glob("*.py"))
        modules = [f"{room}.{path.stem}" for path in paths if path.stem != "__init__"]
        entries = "\n".join(f"   {module} <{module}-module>" for module in modules)
        # the folder of an engine is its plug-in; what other rooms gather at their door stands in their modules
        members = "   :members:\n" if room.startswith("backends.engines.") else ""
        toctree = f".. toctree::\n   :maxdepth: 1\n\n{entries}\n"
        yield (
            f"modules/{room}.rst",
            f"{heading(room)}\n.. automodule:: smoothflow.{room}\n{members}\n{toctree}",
        )
        for module in modules:
            yield (
                f"modules/{module}-module.rst",
                f"{heading(module)}\n.. automodule:: smoothflow.{module}\n   :members:\n",
            )


def home_of(name: str) -> str:
    """The module that defines a public name; what is neither a class nor a function does not say it."""
    home = getattr(getattr(smoothflow, name), "__module__", "")
    return home if home.startswith("smoothflow.") else f"smoothflow{smoothflow._HOMES[name]}"


def heading(title: str, line: str = "=") -> str:
    """A title in reStructuredText."""
    return f"{title}\n{line * len(title)}\n"


def commands() -> str:
    """The commands, as Typer itself documents them; each example in a block of its own."""
    group = typer.main.get_command(program)
    context = typer.Context(group, info_name="smoothflow")
    parts = ["# Commands\n", mark_options(f"{group.help} {group.epilog}\n")]
    for name, command in group.commands.items():
        text = get_docs_for_click(obj=command, ctx=context, name=name, call_prefix="smoothflow", indent=1)
        text = re.sub(r"^\* .*$", lambda entry: mark_options(entry[0]), text, flags=re.MULTILINE)
        parts.append(re.sub(r"^Example: (.*)$", r"```bash\n\1\n```", text, flags=re.MULTILINE))
    return "\n".join(parts)


def mark_options(text: str) -> str:
    """Text with its options as code, or their two dashes would become one."""
    return re.sub(r"`[^`]*`|(?<!\S)--[a-z][\w-]*", lambda found: f"`{found[0].strip('`')}`", text)


def extras() -> str:
    """The optional dependencies, as ``pyproject.toml`` has them."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = [f"| `{name}` | {', '.join(packages)} |" for name, packages in project["optional-dependencies"].items()]
    return "\n".join(["| extra | installs |", "| --- | --- |", *rows, ""])


def benchmark_pages(folder: Path) -> Iterator[tuple[str, str]]:
    """One page for each JSON file of ``smoothflow bench`` and of ``benchmarks/gpu.py``."""
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith(DEVICE):
            device = read_device(path)
            parts = [f"# {device['device']}\n", DEVICE_LEAD, f"{describe_run(device)}\n", f"{device['floors']}\n"]
            tables = device_tables(device)
        else:
            run = read_benchmarks(path)
            parts = [f"# Benchmarks: {path.stem.replace('-', ' ')}\n", BENCHMARK_LEAD, f"{run}.\n"]
            tables = benchmark_tables(run)
        for table in tables:
            parts += [f"## {table.title}\n", markdown(table)]
        yield f"benchmarks/{path.stem}.md", "\n".join(parts)


def find_by_short_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: nodes.TextElement
) -> nodes.Element | None:
    """Link a name that its own module does not define to the only thing in the package that is called so."""
    if node.get("refdomain") != "py":
        return None
    module, _, attribute = node["reftarget"].rpartition(".")
    if isinstance(getattr(sys.modules.get(module), attribute, None), TypeVar):
        # it stands for itself
        return shown
    name = node["reftarget"].removeprefix("smoothflow.")
    found = [
        entry
        for full, entry in env.domains.python_domain.objects.items()
        if full.endswith(f".{name}") and not entry.aliased
    ]
    if len(found) != 1:
        return None
    return make_refnode(app.builder, node["refdoc"], found[0].docname, found[0].node_id, shown, name)


def keep_colons(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Begin what is said about an attribute with an empty comment: napoleon takes words before a colon for a type."""
    if what in ("attribute", "data", "property") and ":" in lines[0]:
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", generate)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("missing-reference", find_by_short_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
