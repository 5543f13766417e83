"""The program ``smoothflow``: its commands, and the handling of their errors."""

from __future__ import annotations

import errno
import sys
import traceback
import warnings
from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..core.errors import RenamedWarning, SmoothflowError
from ..runs.stopping import Terminated, terminable
from . import (
    bench,
    check,
    compare,
    compile,
    convert,
    demo,
    evaluate,
    fit,
    info,
    init,
    md,
    plugins,
    reproduce,
    sample,
    simulate,
    thermo,
    train,
    transfer,
)
from .console import complain, note
from .streams import careful_streams

RENAMED = {"sample": {"--reweight": "--reference"}, "train": {"--target": "--reference"}}
"""Options renamed in version 0.2, by command; the old names go with the next release."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's error numbers for a full disk or quota; libraries raise them too."""

INTERRUPTED = 130
"""The exit code after Ctrl-C, 128 + SIGINT as for any program."""


class _Interrupted(Exception):
    """Ctrl-C, which typer would turn into an exit without a word."""


class _Program(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted from None


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Any command takes --debug to show the traceback of an error.",
)
COMMANDS = (
    *(demo, fit, simulate, init, train, reproduce, evaluate, sample, transfer, thermo, md),
    *(compile, compare, convert, check, plugins, info, bench),
)
for module in COMMANDS:
    app.command(module.__name__.rpartition(".")[2])(module.run)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"smoothflow {installed_version('smoothflow')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Normalizing flows as smooth molecular potentials and samplers."""


def main() -> None:
    """Run the program.

    Exit code 0 on success, 2 on bad input, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP, 1 on anything
    unforeseen, and where the reader of standard output went away, though the work was done.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        warnings.simplefilter("default", RenamedWarning)
        with terminable(), careful_streams() as output:
            code = _run()
            output.flush()
            if output.reason:
                code = _failed("error", f"Standard output cannot be written: {output.reason}.", code or 2)
            elif output.is_closed:
                code = code or 1
    sys.exit(code)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    complain("warning", "yellow", str(message))


def _renamed(arguments: list[str]) -> list[str]:
    """The arguments with the new names of options, and a warning for each old name."""
    renamed = RENAMED.get(arguments[0], {}) if arguments else {}
    found = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in renamed:
            warnings.warn(f"{name} is now called {renamed[name]}.", RenamedWarning, stacklevel=1)
            argument = renamed[name] + equals + value
        found.append(argument)
    return found


def _run() -> int:
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        arguments = _renamed(arguments)
        code: int | None = app(arguments, prog_name="smoothflow", standalone_mode=False)
        return code or 0
    except (KeyboardInterrupt, _Interrupted):
        return _interrupted()
    except Terminated as ended:
        note("Terminated.")
        return ended.code
    except typer.TyperException as error:
        return _failed("error", _usage(error), 2)
    except SmoothflowError as error:
        if debug:
            return _trace(error)
        return _failed("error", str(error), 2)
    except Exception as error:
        if debug:
            return _trace(error)
        if _came_of_interrupt(error):
            return _interrupted()
        from ..core.plugins import registry

        if _is_out_of_memory(error):
            return _failed(
                "error",
                "There is not enough memory. Ask for less at once (fewer replicas, samples or processes, smaller "
                "batches), or use a larger machine.",
                2,
            )
        text = " ".join(f"{type(error).__name__}: {error}".split())
        plugin = registry().raised_by(error)
        if plugin is None and isinstance(error, OSError) and error.errno in FULL:
            where = f'"{error.filename}" cannot be written' if error.filename else "A file cannot be written"
            return _failed("error", f"{where}: {error.strerror}. Make room, and give the same command again.", 2)
        if plugin is not None:
            return _failed(
                "error",
                f'The plug-in "{plugin.plugin}" of {plugin.distribution} {plugin.version} failed: {text} Correct what '
                "it was given, or report it to the plug-in's authors with the output of the same command and --debug.",
                2,
            )
        return _failed(
            "unforeseen error", f"{text} Please report it with the output of the same command and --debug.", 1
        )


def _trace(error: Exception) -> int:
    """Show where an error came from, its text made as harmless as in any message."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        note(line)
    return 1


def _interrupted() -> int:
    note("Interrupted.")
    return INTERRUPTED


def _came_of_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: libraries that are being imported turn it into errors of their own."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, _Interrupted)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch has no type of its own for it on the CPU."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("allocate memory" in said or "out of memory" in said)
    )


def _failed(kind: str, text: str, code: int) -> int:
    if text:
        complain(kind, "red", text)
    return code


def _usage(error: typer.TyperException) -> str:
    """What is wrong with the arguments, in one line; empty if help was printed because there are none."""
    context: Any = getattr(error, "ctx", None)
    near = getattr(error, "possibilities", None)
    message = error.message if near else error.format_message()
    if not message:
        return ""
    text = " ".join(message.split()).rstrip(".").replace("Value error, ", "")
    if near:
        text += f". Did you mean '{near[0]}'"
    end = "?" if near else "" if text.endswith("?") else "."
    return f"{text}{end} See: {context.command_path} --help" if context else f"{text}{end}"
