"""What the deprecation policy (docs/reference/compatibility.md) protects is listed, so that a removal is noticed.

Write the list anew when something was added, or when what was deprecated goes:

    python tests/test_public_api.py
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import smoothflow
import smoothflow.testing
import typer
from smoothflow.cli.app import app
from smoothflow.core.files import write_atomically
from smoothflow.core.plugins import GROUP, KINDS

LIST = Path(__file__).parent / "data" / "public_api.txt"
OF_TYPER = {"--install-completion", "--show-completion", "--help"}


def public_names() -> Iterator[str]:
    """Names that can be imported, hooks of plug-ins, and commands with their arguments and options."""
    for module in (smoothflow, smoothflow.testing):
        for name in module.__all__:
            yield f"{module.__name__}.{name}"
    for name in smoothflow.DEPRECATED:
        yield f"smoothflow.{name}"
    for hook in KINDS.values():
        yield f"hook {hook} of the entry points {GROUP}"
    program = typer.main.get_command(app)
    for command, parameters in [("", program.params), *((f" {n}", c.params) for n, c in program.commands.items())]:
        yield f"smoothflow{command}"
        for parameter in parameters:
            spellings = [*parameter.opts, *parameter.secondary_opts]
            if parameter.param_type_name == "argument":
                yield f"smoothflow{command} {parameter.name.upper()}"
            elif not OF_TYPER.intersection(spellings):
                yield f"smoothflow{command} {'/'.join(spellings)}"


def test_what_is_public_is_what_is_listed() -> None:
    listed, found = LIST.read_text(encoding="utf-8").splitlines(), sorted(public_names())
    gone, new = sorted(set(listed) - set(found)), sorted(set(found) - set(listed))
    assert not gone, "removed without two minor releases of a DeprecationWarning: docs/reference/compatibility.md"
    assert not new, "public from now on: python tests/test_public_api.py"


def test_names_at_the_top_are_those_of_their_modules() -> None:
    assert list(smoothflow.__all__) == sorted(smoothflow._HOMES)
    for name in smoothflow.__all__:
        assert getattr(smoothflow, name) is getattr(import_module(smoothflow._HOMES[name], "smoothflow"), name)


@pytest.mark.parametrize("name", sorted(smoothflow.DEPRECATED))
def test_a_deprecated_name_warns_and_says_what_takes_its_place(name: str) -> None:
    with pytest.warns(DeprecationWarning, match=rf"smoothflow\.{name} is deprecated: call smoothflow\.load\."):
        assert callable(getattr(smoothflow, name))
    assert name not in smoothflow.__all__


if __name__ == "__main__":
    write_atomically(LIST, "".join(f"{name}\n" for name in sorted(public_names())).encode())
