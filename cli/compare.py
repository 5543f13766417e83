"""``smoothflow compare``: transforms side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import ConfigurationError
from . import completion
from .console import errors, print_json, print_table, task_progress
from .options import AMBER, AsJson, Reference, Seed, Structure, structure_path

if TYPE_CHECKING:
    from ..analysis.report import Table


def run(
    frames: Annotated[
        Path | None,
        typer.Argument(help="Frames of a molecule; the last fifth is held out.", autocompletion=completion.FRAMES),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="Instead of frames, a toy target with exact answers.", autocompletion=completion.TARGETS),
    ] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for the runs and the report.")] = Path("comparison"),
    transforms: Annotated[
        str, typer.Option(help="Names, with commas.", autocompletion=completion.TRANSFORMS)
    ] = "smooth,spline,affine",
    config: Annotated[
        Path | None, typer.Option(help="YAML settings of each training.", autocompletion=completion.SETTINGS)
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each.")] = None,
    structure: Structure = "capped-alanine",
    reference: Reference = AMBER,
    n_samples: Annotated[int, typer.Option("-n", "--n-samples", min=2, help="Samples of each model.")] = 5000,
    replicas: Annotated[int, typer.Option(min=1, help="NVE runs of each.")] = 10,
    md_steps: Annotated[int, typer.Option(min=10, help="Steps of each NVE run, 1 fs.")] = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train flows of several transforms at one budget and tabulate their quality, on a molecule or a toy target.

    Example: smoothflow compare --target torus-multimodal --steps 200
    """
    import numpy as np

    from ..analysis.comparison import compare_transforms, comparison_dict, comparison_table, write_comparison
    from ..analysis.conservation import PotentialSource
    from ..core.engine import DynamicsSettings
    from ..core.plugins import registry
    from ..training.config import TrainSettings, read_settings
    from ..training.frames_file import read_frames

    names = [name.strip() for name in transforms.split(",")]
    for name in names:
        registry().transform(name)
    if (frames is None) == (target is None):
        raise ConfigurationError("Give either a frames file or --target NAME: one thing to compare on.")
    if target is not None:
        table, numbers = _on_target(target, names, steps, seed, output)
    else:
        settings = TrainSettings() if config is None else read_settings(config)
        if steps is not None:
            settings = settings.model_copy(update={"steps": steps})
        source = PotentialSource(reference=reference, structure=structure_path(structure))
        dynamics = DynamicsSettings(n_steps=md_steps, seed=seed)
        data = read_frames(frames or Path())
        order = np.arange(len(data)) if data.replica is None else np.argsort(data.replica, kind="stable")
        training, held_out = np.split(order, [len(order) * 4 // 5])
        with task_progress() as on_progress:
            found = compare_transforms(
                data[np.sort(training)],
                data[np.sort(held_out)],
                names,
                settings,
                source,
                dynamics,
                n_samples,
                replicas,
                output,
                on_progress,
            )
        write_comparison(found, data.topology, output / "report.html")
        table, numbers = comparison_table(found), comparison_dict(found)
    if as_json:
        print_json(numbers)
    else:
        print_table(table.title, table.columns, table.rows)
    errors.print(f"Report: {output / 'report.html'}", soft_wrap=True)


def _on_target(
    target: str, names: list[str], steps: int | None, seed: int, output: Path
) -> tuple[Table, list[dict[str, Any]]]:
    from ..analysis.toy_comparison import compare_on_target, toy_table
    from ..training.toy_training import ToySettings

    settings = ToySettings(seed=seed) if steps is None else ToySettings(seed=seed, steps=steps)
    with task_progress() as on_progress:
        results = compare_on_target(target, names, settings, output, on_progress)
    return toy_table(results), [result.to_dict() for result in results]
