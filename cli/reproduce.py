"""``smoothflow reproduce``: repeat a training run from its folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import ConfigurationError
from . import completion
from .console import note, print_json, print_table, task_progress
from .options import AsJson, provider_potential, require_device

if TYPE_CHECKING:
    from ..molecules.frames import Frames

COLUMNS = ("number", "recorded", "reproduced", "differs by")


def run(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished training run.")],
    output: Annotated[Path, typer.Option("--out", help="Folder of the new run; a run that is in it goes on.")],
    frames: Annotated[
        list[Path] | None,
        typer.Option(
            help="Frames that it was trained on; repeat it for those of several temperatures.",
            show_default="where they were",
            autocompletion=completion.FRAMES,
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            help="The force field that it was trained on, as PROVIDER:ARGUMENT, where it may be code.",
            show_default="what the run names, if that is data",
            autocompletion=completion.PROVIDERS,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Relative difference up to which numbers agree; 0: bit for bit.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Repeat the training of a run folder, and compare all numbers that it recorded; exit code 1 if any differs.

    Example: smoothflow reproduce my-run --out my-run-again
    """
    from ..analysis.estimates import plain
    from ..runs.provenance import origin
    from ..runs.references import names_no_code, only_typed
    from ..training.reproduction import recorded_device, recorded_source, reproduce

    recorded = recorded_source(folder)
    if frames is None:
        if "frames" not in recorded:
            raise ConfigurationError(f'The run "{folder}" does not say where its frames are. Give them with --frames.')
        there = recorded["frames"]
        frames = [Path(str(path)) for path in (there if isinstance(there, list) else [there])]
    target = None
    kept: dict[str, object] = {}
    if "target" in recorded:
        named, structure = str(recorded["target"]), str(recorded.get("structure"))
        if reference is None and not names_no_code(named):
            raise ConfigurationError(f'The force field of "{folder}": {only_typed(named, "--reference")}.')
        # on the run's own device: elsewhere the last bits differ
        target = provider_potential(reference or named, structure, require_device(recorded_device(folder)))
        kept = {"target": reference or named, "structure": structure}
    elif reference is not None:
        raise ConfigurationError(f'The run "{folder}" was not trained on a force field. Leave out --reference.')
    used = [str(path.resolve()) for path in frames]
    source: dict[str, object] = {
        **origin(["smoothflow", *sys.argv[1:]]),
        "frames": used[0] if len(used) == 1 else used,
        **kept,
    }
    data = _recorded_frames(folder, frames)
    with task_progress() as on_progress:
        found = reproduce(folder, data, output, target, on_progress, source)
    agrees = found.agrees(tolerance)
    if as_json:
        print_json({**plain(found), "folder": str(output), "tolerance": tolerance, "agrees": agrees})
    else:
        rows = [
            [
                each.name,
                f"{each.recorded:.10g}",
                f"{each.reproduced:.10g}",
                f"{each.difference:.2g}" if each.difference else "equal",
            ]
            for each in found.numbers
        ]
        title = f"{folder} again: best of {found.n_validations} validations, each over {found.n_held_out} frames"
        print_table(title, COLUMNS, rows)
    for name, (then, now) in found.changed.items():
        note(f"{name} is another one: {then} then, {now} now.")
    if not agrees:
        raise typer.Exit(1)


def _recorded_frames(folder: Path, paths: list[Path]) -> list[Frames]:
    """The frames that the run was trained on: all of the files, or those that a comparison leaves for training."""
    from ..molecules.frames_file import read_frames
    from ..studies.comparison.comparison import split_frames
    from ..training.reproduction import require_recorded

    found = [read_frames(path) for path in paths]
    part = [split_frames(frames)[0] for frames in found]
    try:
        require_recorded(folder, part)
    except ConfigurationError:
        require_recorded(folder, found)
        return found
    return part
