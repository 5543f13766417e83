"""``smoothflow convert``: frames from and to other programs' files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ConfigurationError
from . import completion
from .console import print_json, print_table, task_progress
from .options import AsJson, provider_potential, structure_path

OURS = (".h5", ".hdf5")


def run(
    source: Annotated[Path, typer.Argument(help="Frames (.h5), extended XYZ, npz (sGDML), or a trajectory.")],
    destination: Annotated[Path, typer.Argument(help="The same choice; the suffix says which.")],
    structure: Annotated[
        str | None,
        typer.Option(help="PDB of the molecule, where the source lacks bonds.", autocompletion=completion.STRUCTURES),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="In K, where the source does not say it.")] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Recompute energies and forces with PROVIDER:ARGUMENT.", autocompletion=completion.PROVIDERS),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert frames between our format and those of other programs, recomputing forces if asked.

    Example: smoothflow convert smoothflow-demo/frames.h5 frames.xyz
    """
    from ..core.files import require_free
    from ..training.exchange import export_frames, import_frames, recompute
    from ..training.frames_file import read_frames, write_frames

    require_free(destination)
    pdb = None if structure is None else structure_path(structure)
    frames = read_frames(source) if source.suffix in OURS else import_frames(source, temperature, pdb)
    if reference is not None:
        if pdb is None:
            raise ConfigurationError("Recomputing forces needs the molecule: give --structure.")
        with task_progress() as on_progress:
            frames = recompute(frames, provider_potential(reference, pdb), reference, on_progress)
    if destination.suffix in OURS:
        write_frames(destination, frames)
    else:
        export_frames(frames, destination)
    summary = {"file": str(destination), "frames": str(len(frames)), "atoms": str(len(frames.topology))}
    if "bonds" in frames.provenance:
        summary["bonds"] = str(frames.provenance["bonds"])
    if as_json:
        print_json(summary)
    else:
        print_table("Converted", ["quantity", "value"], [list(item) for item in summary.items()])
