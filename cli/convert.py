"""``smoothflow convert``: frames from and to files of other programs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.errors import ConfigurationError
from . import completion
from .console import print_json, print_table, task_progress
from .options import AsJson, Charge, Multiplicity, provider_potential

if TYPE_CHECKING:
    from ..molecules.frames import Frames

OURS = (".h5", ".hdf5")


def run(
    source: Annotated[Path, typer.Argument(help="Frames (.h5), extended XYZ, npz (sGDML), or a trajectory.")],
    destination: Annotated[Path, typer.Argument(help="File to write, in one of these formats; the suffix says which.")],
    structure: Annotated[
        str | None,
        typer.Option(
            help="Structure file of the molecule, where the source lacks bonds.", autocompletion=completion.STRUCTURES
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Temperature in K, where the source does not say it.")
    ] = None,
    energy_key: Annotated[
        str | None, typer.Option(help="What the source (XYZ or npz) calls energies; 'none' leaves them out.")
    ] = None,
    forces_key: Annotated[
        str | None, typer.Option(help="What the source calls forces; 'none' leaves them out.")
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="Put the atoms in the order of this model, by name.", autocompletion=completion.MODELS),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Recompute energies and forces with PROVIDER:ARGUMENT.", autocompletion=completion.PROVIDERS),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(
            help='Take these atoms alone, in MDTraj\'s language ("protein", "name CA"), with their molecules made '
            "whole across the periodic box.",
        ),
    ] = None,
    bonds: Annotated[
        str | None,
        typer.Option(
            help="Virtual bonds between selected atoms that no bonds join: chain (along the molecule's own bonds), or "
            "pairs numbered within the selection, like 0-1,1-2.",
        ),
    ] = None,
    charge: Charge = None,
    multiplicity: Multiplicity = None,
    as_json: AsJson = False,
) -> None:
    """Convert frames between our format and those of other programs, recomputing forces or selecting atoms if asked.

    Example: smoothflow convert smoothflow-demo/frames.h5 frames.xyz
    """
    import torch

    from ..coordinates.checks import warn_of_bends
    from ..core.files import require_free
    from ..molecules.foreign_hdf5 import is_frames_file
    from ..molecules.formats import export_frames, import_frames, recompute
    from ..molecules.frames import PART_OF
    from ..molecules.frames_file import write_frames
    from ..molecules.parts import Selection, require_system, select_part
    from ..molecules.structure_names import structure_file
    from ..molecules.topologies import topology_from_pdb
    from ..potentials.reference import with_electrons

    require_free(destination)
    if bonds is not None and select is None:
        raise ConfigurationError("Virtual bonds join selected atoms. Name these with --select.")
    selection = None if select is None else Selection.parse(select, bonds)
    with ExitStack() as opened:
        pdb = None if structure is None else opened.enter_context(structure_file(structure))
        if source.suffix.lower() in OURS and is_frames_file(source):
            frames = _ours(source, {"temperature": temperature, "energy-key": energy_key, "forces-key": forces_key})
            if reference is not None:
                require_system(frames.provenance, f'The frames in "{source}"')
            if pdb is not None:
                frames.require_topology(topology_from_pdb(pdb)[0], f'"{pdb.name}"')
            if selection is not None:
                frames = select_part(frames, selection, source=f'"{source}"')
        else:
            frames = import_frames(source, temperature, pdb, energy_key, forces_key, selection)
            warn_of_bends(frames.topology, torch.from_numpy(frames.positions))
        if match is not None:
            frames = _matched(frames, match)
        if reference is not None:
            require_system(frames.provenance, f'The frames selected from "{source}"')
            if pdb is None:
                raise ConfigurationError("Recomputing forces needs the molecule: give --structure.")
            reference = with_electrons(reference, charge, multiplicity, frames.provenance)
            with task_progress() as on_progress:
                frames = recompute(frames, provider_potential(reference, pdb), reference, on_progress)
        elif charge is not None or multiplicity is not None:
            raise ConfigurationError("A charge and a multiplicity are for a reference. Name it with --reference.")
    if destination.suffix.lower() in OURS:
        write_frames(destination, frames)
    else:
        export_frames(frames, destination)
    summary = {"file": str(destination), "frames": str(len(frames)), "atoms": str(len(frames.topology))}
    if "bonds" in frames.provenance:
        summary["bonds"] = str(frames.provenance["bonds"])
    if PART_OF in frames.provenance:
        part = frames.provenance[PART_OF]
        summary["part of"] = f'{part["atoms of the system"]} atoms, by "{part["selection"]}"'
    if as_json:
        print_json(summary)
    else:
        print_table("Converted", ["quantity", "value"], [list(item) for item in summary.items()])


def _matched(frames: Frames, model: str) -> Frames:
    from ..potentials.shipped import load

    topology = load(model).topology
    if topology is None:
        raise ConfigurationError(f'"{model}" has no topology, and so no order of atoms.')
    return frames.reordered(topology, f'the model "{model}"')


def _ours(source: Path, others: dict[str, object]) -> Frames:
    """Frames in our own format, which holds all that the options of other formats say."""
    from ..molecules.frames_file import read_frames

    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ConfigurationError(f'"{source}" says that itself: leave --{given[0]} out.')
    return read_frames(source)
