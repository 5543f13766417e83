"""Flows side by side: the same frames, the same number of steps, the same questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...analysis.observation import require_reference
from ...core.architecture import transforms_for
from ...core.errors import ConfigurationError
from ...core.files import make_folder, require_own_folder, write_atomically
from ...molecules.frames import Frames
from ...molecules.frames_file import read_frames
from ...molecules.sketch import fingerprints
from ...runs.progress import OnProgress
from ...runs.settings_file import write_yaml
from ...sampling.simulate import SimulateSettings, simulate
from ...training.config import LossWeights, TrainSettings
from ..conservation import PotentialSource
from .cell import MODELS, Inputs, finished_cell, measure_cell, measure_model, measure_reference
from .measured import Measured
from .report import write_comparison_report, write_tables
from .settings import ComparisonSettings

TERMS = {"nll": "nll", "force": "fm", "reverse_kl": "kl", "alpha_two": "alpha2"}
"""Terms of the loss, as abbreviated in the names of objectives."""


MARK = b"# Written by smoothflow compare.\n"
"""How the settings in a comparison's folder begin."""

FILES = ("comparison.yaml", "comparison.json", "comparison.csv", "comparison.md", "report.html")


@dataclass(frozen=True)
class Comparison:
    """The results of a grid of flows.

    Attributes:
        folder: Folder of the comparison.
        cells: Finished cells in the order of the grid, then the models.
        reference: The force field itself.
    """

    folder: Path
    cells: tuple[Measured, ...]
    reference: Measured


def compare(
    settings: ComparisonSettings,
    source: PotentialSource,
    frames: Frames,
    held_out: Frames,
    folder: Path,
    origin: Mapping[str, str],
    on_progress: OnProgress,
    cells: Sequence[str] = (),
    models: Sequence[Path] = (),
) -> Comparison:
    """Train and measure a grid of flows, skipping finished cells, and write tables and a report.

    Every cell has its run folder, ``folder/transform/objective``, in which it is resumed, so that several processes can
    share the work.

    Args:
        settings: The grid.
        source: The force field of the frames.
        frames: Training frames.
        held_out: Frames to evaluate on, and to start dynamics from.
        folder: Made if it is missing.
        origin: Command, commit and machine, to be kept with the numbers.
        on_progress: Told of every stage.
        cells: Which cells to work on, as ``transform/objective``; all, if neither cells nor models are named.
        models: Model files to measure in the same way, whatever they were trained with.

    Raises:
        ConfigurationError: If there is no cell of a name, two models have one name, frames are not those of the force
            field, or a run folder belongs to another training or is in use.
        TopologyError: If frames or models are of different molecules.
        FileFormatError: If the folder cannot be written, or forces are asked for and missing.
    """
    named = {f"{transform}/{objective}": (transform, objective) for transform, objective in settings.cells}
    for cell in cells:
        if cell not in named:
            raise ConfigurationError(f'There is no cell "{cell}" in this comparison. Known: {", ".join(named)}.')
    names = [path.stem for path in models]
    if len(set(names)) < len(names):
        raise ConfigurationError(f"Two of the models have one name: {', '.join(sorted(names))}. Rename a file.")
    _require_alike(frames, held_out, source)
    require_comparison(folder)
    make_folder(folder)
    digests = {"frames": frames.digest(), "held_out": held_out.digest()}
    inputs = Inputs(settings, source, frames, held_out, digests, origin)
    write_atomically(folder / "comparison.yaml", MARK + write_yaml(settings).encode())
    reference = measure_reference(inputs, folder, on_progress)

    measured: list[Measured] = []

    def known() -> Comparison:
        # other processes may have finished some
        finished = (finished_cell(*cell, inputs, folder / name) for name, cell in named.items())
        return Comparison(folder, (*(cell for cell in finished if cell is not None), *measured), reference)

    for model in models:
        measured.append(measure_model(model, inputs, folder / MODELS / model.stem, on_progress))
        write_tables(known().cells, reference, folder)
    for cell in cells or (() if models else named):
        measure_cell(*named[cell], inputs, folder / cell, on_progress)
        write_tables(known().cells, reference, folder)
    found = known()
    write_comparison_report(found.cells, found.reference, settings, folder / "report.html")
    return found


def require_comparison(folder: Path) -> None:
    """Raise a `ConfigurationError` if a folder is not a comparison's and has files that one would replace."""
    # version 0.1 left no mark, and wrote this table
    require_own_folder(folder, FILES, {"comparison.yaml": MARK, "comparison.json": b'"cells": ['}, "a comparison")


def _require_alike(frames: Frames, held_out: Frames, source: PotentialSource) -> None:
    frames.require_topology(held_out.topology, "the held-out frames")
    if frames.temperature != held_out.temperature:
        raise ConfigurationError(
            f"The frames were made at {frames.temperature:g} K and the held-out ones at {held_out.temperature:g} K. "
            "Give frames of one temperature."
        )
    share = float(np.isin(fingerprints(held_out), fingerprints(frames)).mean())
    if share > 0:
        raise ConfigurationError(
            f"{100 * share:.3g} % of the held-out frames are among those to train on. Give frames of other walkers."
        )
    if held_out.energies is not None:
        require_reference(held_out, held_out.energies, source.load())


def made_frames(
    settings: ComparisonSettings, source: PotentialSource, folder: Path, on_progress: OnProgress
) -> tuple[Frames, Frames]:
    """Training frames and held-out frames by simulation, in ``frames.h5`` and ``held_out.h5``; both are resumed."""
    require_comparison(folder)
    plan = settings.frames
    found = []
    for name, n_frames, seed in (("frames", plan.n_frames, 0), ("held_out", plan.n_held_out, 1)):
        simulation = SimulateSettings(
            structure=source.structure or Path(),
            potential=source.reference,
            n_frames=n_frames,
            seed=plan.seed + seed,
            **plan.model_dump(exclude={"n_frames", "n_held_out", "seed"}),
        )
        path = folder / f"{name}.h5"
        simulate(simulation, path, on_progress)
        found.append(read_frames(path))
    return found[0], found[1]


def split_frames(frames: Frames) -> tuple[Frames, Frames]:
    """The first four fifths of the frames, walker by walker where there are walkers, and the last fifth."""
    training, held_out = np.split(frames.by_walker, [len(frames) * 4 // 5])
    return frames[np.sort(training)], frames[np.sort(held_out)]


def settings_for(transforms: Sequence[str], training: TrainSettings) -> ComparisonSettings:
    """A comparison of named transforms, with the objective of one training."""
    flows = {}
    for name in transforms:
        used = transforms_for(name)
        # options of transforms that this flow does not use are left out
        options = {key: value for key, value in training.flow.options.items() if key in used.values()}
        flows[name] = {"transforms": used, "options": options}
    return ComparisonSettings.model_validate(
        {
            "training": training,
            "transforms": flows,
            "objectives": {objective_name(training.weights): {}},
        }
    )


def objective_name(weights: LossWeights) -> str:
    """The terms that count, like ``nll+fm``."""
    return "+".join(short for term, short in TERMS.items() if getattr(weights, term) > 0)
