"""Change ``core/`` in one small way at a time, and count the changes that its tests notice.

    python tools/soak/mutants.py --n 300 --seed 2 --json docs/reliability/mutants.json

The changes are the classical ones: a comparison, an operator or a number exchanged, a condition negated, a statement or
a returned value left out; a seeded random sample of all that there are. Each is made in a copy of the tree and tried
against the tests of its module until one fails. Survivors that change nothing observable count as survivors too. Tests
were written for survivors of seeds 0 to 2: the next score is one of another seed.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import scipy.stats  # noqa: F401 (slow to load, and loaded once for all forks)
import torch

ROOT = Path(__file__).resolve().parents[2]
TITLE = "Mutation testing of core"

TESTS = {
    "engine": "core/test_engine.py integrators/test_simulation.py",
    "errors": "core/test_errors.py core/test_plugins.py",
    "flow": "core/test_flow.py core/test_layers.py",
    "integrator": "core/test_integrator.py integrators/test_langevin.py",
    "layers": "core/test_layers.py core/test_architecture.py",
    "manifolds": "core/test_manifolds.py core/test_inversion.py",
    "solvers": "core/test_solvers.py core/test_inversion.py",
}
"""The tests that decide about a module, the fastest first, where there is more than ``core/test_MODULE.py``."""

EXCHANGED: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div,),
    ast.Div: (ast.Mult,),
    ast.Pow: (ast.Mult,),
    ast.Mod: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Break: (ast.Continue,),
    ast.Continue: (ast.Break,),
}
NEVER_RUN = {"annotation", "returns", "decorator_list"}
REMOVED = (ast.Assign, ast.AugAssign, ast.Raise)


@dataclass(frozen=True)
class Mutant:
    """One change: where, what, the line as it was, and the module's text with the change."""

    module: str
    line: int
    source: str
    before: str
    after: str
    text: str

    def __str__(self) -> str:
        return f"core/{self.module}.py:{self.line}: {self.before} -> {self.after}, in: {self.source}"


def places(node: ast.AST, in_function: bool = False) -> Iterator[tuple[ast.AST, str, int | None, bool]]:
    """Every node that runs, by its parent, the field it is in, and its index if that is a list."""
    in_function |= isinstance(node, ast.FunctionDef)
    for field, value in ast.iter_fields(node):
        if field in NEVER_RUN:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                yield node, field, index, in_function
                yield from places(child, in_function)


def changes(node: ast.AST, in_function: bool) -> Iterator[ast.AST]:
    """What a node is exchanged for."""
    for other in EXCHANGED.get(type(node), ()):
        yield other()
    if isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Return) and node.value is not None:
        yield ast.Return(None)
    elif isinstance(node, ast.If | ast.While):
        yield type(node)(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.IfExp):
        yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    call = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    if in_function and (call or isinstance(node, REMOVED)):
        yield ast.Pass()


def mutants(module: str) -> list[Mutant]:
    """All changes of one module."""
    source = (ROOT / "core" / f"{module}.py").read_text(encoding="utf-8")
    lines, tree, found = source.splitlines(), ast.parse(source), []
    for parent, field, index, in_function in list(places(tree)):
        container = getattr(parent, field)
        node = container if index is None else container[index]
        # operators have neither a line nor a text of their own
        shown = node if isinstance(node, ast.stmt | ast.expr) else parent
        before = ast.unparse(node).splitlines()[0] if shown is node else ast.unparse(parent)
        for change in changes(node, in_function):
            line: int = shown.lineno  # type: ignore[attr-defined]
            exchange(parent, field, index, change)
            after = ast.unparse(change).splitlines()[0] if shown is node else ast.unparse(parent)
            found.append(Mutant(module, line, lines[line - 1].strip(), before, after, ast.unparse(tree)))
            exchange(parent, field, index, node)
    return found


def exchange(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    """Put a node into its place."""
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def tests_of(module: str) -> list[str]:
    return [f"tests/{name}" for name in TESTS.get(module, f"core/test_{module}.py").split()]


def outcome(tree: Path, tests: Sequence[str], seconds: float) -> str:
    """``passed``, ``failed`` or ``timeout`` of tests of a tree, in a fork of this process that has torch loaded."""
    pid = os.fork()
    if pid == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))
        silence = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(silence, descriptor)
        os.chdir(tree)
        sys.path.insert(0, str(tree.parent))
        options = ["-x", "-q", "-m", "not slow", "-p", "no:randomly", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
        code = pytest.main([*options, *tests])
        # a mutant that was not what the tests saw must not count
        seen = "smoothflow" not in sys.modules or Path(sys.modules["smoothflow"].__file__ or "").parent == tree
        os._exit(int(code) if seen else 100)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            if code == 100:
                raise SystemExit("The tests imported another smoothflow than the copy.")
            return "passed" if code == 0 else "failed"
        time.sleep(0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "timeout"


def main() -> None:
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--n", type=int, default=150, help="mutants to try")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--module", action="append", help="of core; all without it")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()

    modules = options.module or sorted(path.stem for path in (ROOT / "core").glob("[!_]*.py"))
    everything = [mutant for module in modules for mutant in mutants(module)]
    sample = random.Random(options.seed).sample(everything, min(options.n, len(everything)))
    # loads the compiler, once for all forks
    torch.compiler.disable(len)
    # compiled files are not renewed by a change within a second
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.dont_write_bytecode = True
    found: dict[str, list[Mutant]] = {"passed": [], "failed": [], "timeout": []}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "smoothflow"
        for name in subprocess.run(
            ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.split():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
        limits = {}
        for module in sorted({mutant.module for mutant in sample}):
            start = time.monotonic()
            if outcome(tree, tests_of(module), 600) != "passed":
                raise SystemExit(
                    f"The tests of core/{module}.py fail without any change: {', '.join(tests_of(module))}."
                )
            limits[module] = 30 + 5 * (time.monotonic() - start)
        for mutant in sample:
            path = tree / "core" / f"{mutant.module}.py"
            original = path.read_text(encoding="utf-8")
            path.write_text(mutant.text, encoding="utf-8")
            result = outcome(tree, tests_of(mutant.module), limits[mutant.module])
            path.write_text(original, encoding="utf-8")
            found[result].append(mutant)
            print(f"{result:7} {mutant}", flush=True)

    # imported when no fork follows, which would have it from here and not from the copy
    from record import keep

    n, survivors = len(sample), found["passed"]
    score = 1 - len(survivors) / n
    figures: dict[str, object] = {
        "changes possible": len(everything),
        "changes tried": n,
        "found by a failing test": len(found["failed"]),
        "found by a test that no longer ends": len(found["timeout"]),
        "survivors": len(survivors),
        "score, %": f"{100 * score:.1f} ± {100 * math.sqrt(score * (1 - score) / n):.1f}",
    }
    for i, mutant in enumerate(sorted(survivors, key=lambda mutant: (mutant.module, mutant.line)), 1):
        where, change = str(mutant).split(": ", 1)
        figures[f"survivor {i}: {where}"] = f"`{change}`"
    keep(options.json, TITLE, figures, began)


if __name__ == "__main__":
    main()
