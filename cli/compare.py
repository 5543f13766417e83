"""``smoothflow compare``: transforms side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ..coordinates.internal import InternalCoordinates
from ..core.engine import DynamicsSettings
from ..core.errors import ConfigurationError
from ..core.plugins import registry
from ..training.frames_file import read_frames
from .console import errors, print_json, print_table, task_progress
from .options import AMBER, AsJson, Reference, Seed, Structure, structure_path


def run(
    frames: Annotated[Path | None, typer.Argument(help="Frames of a molecule; the last fifth is held out.")] = None,
    target: Annotated[str | None, typer.Option(help="Instead of frames, a toy target with exact answers.")] = None,
    output: Annotated[Path, typer.Option("--out", help="Folder for the runs and the report.")] = Path("comparison"),
    transforms: Annotated[str, typer.Option(help="Comma-separated names.")] = "smooth,spline,affine",
    config: Annotated[Path | None, typer.Option(help="YAML settings of each training.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps of each.")] = None,
    structure: Structure = "capped-alanine",
    reference: Reference = AMBER,
    n_samples: Annotated[int, typer.Option("-n", "--n-samples", min=2)] = 5000,
    replicas: Annotated[int, typer.Option(min=1, help="NVE runs of each.")] = 10,
    md_steps: Annotated[int, typer.Option(min=10, help="Steps of each NVE run, 1 fs.")] = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Train flows of several transforms at one budget and tabulate their quality, on a molecule or a toy target.

    Example: smoothflow compare --target torus-multimodal --transforms smooth,spline --steps 200
    """
    names = [name.strip() for name in transforms.split(",")]
    for name in names:
        registry().transform(name)
    if (frames is None) == (target is None):
        raise ConfigurationError("Give either a frames file or --target NAME: one thing to compare on.")
    if target is not None:
        from .compare_target import compare_target

        compare_target(target, names, steps, seed, output, as_json)
        return
    from ..analysis.comparison import compare_transforms, comparison_dict, comparison_table
    from ..analysis.conservation import PotentialSource
    from ..analysis.gallery import conservation_picture, evaluation_pictures
    from ..analysis.report import Report, write_report
    from ..training.config import TrainSettings, read_settings

    settings = TrainSettings() if config is None else read_settings(config)
    if steps is not None:
        settings = settings.model_copy(update={"steps": steps})
    data = read_frames(frames or Path())
    order = np.arange(len(data)) if data.replica is None else np.argsort(data.replica, kind="stable")
    n_training = len(data) * 4 // 5
    with task_progress() as on_progress:
        found = compare_transforms(
            data[np.sort(order[:n_training])],
            data[np.sort(order[n_training:])],
            names,
            settings,
            PotentialSource(reference=reference, structure=structure_path(structure)),
            DynamicsSettings(n_steps=md_steps, seed=seed),
            n_samples,
            replicas,
            output,
            on_progress,
        )
    table = comparison_table(found)
    if as_json:
        print_json(comparison_dict(found))
    else:
        print_table(table.title, table.columns, table.rows)
    domain = InternalCoordinates(data.topology).codomain
    pictures = [picture for c in found for picture in evaluation_pictures(c.evaluation, domain)]
    runs = {c.transform: c.trajectory for c in found if c.trajectory is not None}
    if runs:
        pictures.append(conservation_picture(runs))
    report = output / "report.html"
    write_report(Report(title="Comparison of transforms", tables=[table], pictures=pictures), report)
    errors.print(f"Report: {report}", soft_wrap=True)
