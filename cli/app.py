"""The program ``smoothflow``: its commands, and what happens when one fails."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer

from ..core.errors import SmoothflowError
from . import bench, check, compare, compile, convert, demo, evaluate, info, md, plugins, sample, simulate, train
from .console import errors

app = typer.Typer(
    name="smoothflow",
    help="Normalizing flows as smooth molecular potentials and samplers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Any command takes --debug to show the traceback of an error.",
)
COMMANDS = (demo, simulate, train, evaluate, sample, md, compile, compare, convert, check, plugins, info, bench)
for module in COMMANDS:
    app.command(module.__name__.rpartition(".")[2])(module.run)


def main() -> None:
    """Run the program; exit code 0 on success, 2 on bad input, 1 on anything unforeseen."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        _run()


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    errors.print(f"[bold yellow]warning:[/] {_escaped(str(message))}", soft_wrap=True)


def _run() -> None:
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except SmoothflowError as error:
        if debug:
            raise
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}", soft_wrap=True)
        sys.exit(2)
    except Exception as error:
        if debug:
            raise
        errors.print(
            f"[bold red]unforeseen error:[/] {_escaped(f'{type(error).__name__}: {error}')} "
            "Please report it with the output of the same command and --debug.",
            soft_wrap=True,
        )
        sys.exit(1)


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")
