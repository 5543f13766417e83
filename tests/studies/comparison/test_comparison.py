"""A grid of flows from frames to tables: shared, interrupted, gone on with, and broken down."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from smoothflow.core.errors import ConfigurationError, FileFormatError
from smoothflow.molecules.frames import Frames
from smoothflow.molecules.shipped import molecule_path
from smoothflow.potentials.model_file import read_model
from smoothflow.runs.locks import lock_file
from smoothflow.runs.progress import Progress, silent
from smoothflow.runs.provenance import origin
from smoothflow.studies.comparison.comparison import compare, made_frames, settings_for, split_frames
from smoothflow.studies.comparison.report import GROUPS, comparison_tables
from smoothflow.studies.comparison.settings import ComparisonSettings, read_comparison
from smoothflow.studies.conservation import PotentialSource
from smoothflow.training.config import LossWeights, TrainSettings
from smoothflow.training.run import initial_potential
from smoothflow.training.run_folder import RunFolder, training_seconds

SOURCE = PotentialSource(
    reference="openmm:amber99sbildn.xml,amber99_obc.xml", structure=molecule_path("capped-alanine")
)
GRID = ComparisonSettings.model_validate(
    {
        "frames": {"n_frames": 100, "n_held_out": 50, "frame_interval": 0.05, "walkers": 1, "equilibration": 0.1},
        "training": {
            "steps": 4,
            "batch_size": 16,
            "validate_every": 2,
            "flow": {"hidden": 4, "line_pairs": 1, "interval_pairs": 1, "circle_pairs": 1},
        },
        "transforms": {
            "affine": {"transforms": {"line": "affine"}},
            "smooth": {"options": {"smooth": {"n_components": 2}}},
        },
        "objectives": {"nll": {"force": 0}, "nll+fm+kl": {"reverse_kl": 0.1}},
        "n_samples": 20,
        "n_gradients": 2,
        # flows of four steps of training are stiff
        "dynamics": {
            "replicas": 2,
            "timestep": 1e-4,
            "duration": 2e-3,
            "equilibration": 1e-3,
            "timesteps": [5e-5, 1e-4],
            "scaling_duration": 1e-3,
        },
    }
)
WHERE = origin(["smoothflow", "compare", "--out", "a b"])


class Interrupted(Exception):
    """The end of a process."""


@dataclass
class Stages:
    """Remembers what was done, and stops the comparison in a stage."""

    stop: str = ""

    def __post_init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, progress: Progress) -> None:
        if progress.stage not in self.seen:
            self.seen.append(progress.stage)
        if progress.stage == self.stop:
            raise Interrupted


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Frames, Frames]:
    return made_frames(GRID, SOURCE, tmp_path_factory.mktemp("frames"), silent)


@pytest.fixture(scope="module")
def folder(data: tuple[Frames, Frames], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that was interrupted in the evaluation of its third flow, and then brought to its end."""
    folder = tmp_path_factory.mktemp("comparison")
    with pytest.raises(Interrupted):
        compare(GRID, SOURCE, *data, folder, WHERE, Stages("evaluate smooth/nll"))
    stages = Stages()
    compare(GRID, SOURCE, *data, folder, WHERE, stages)
    # what was finished is not touched, and a training that was finished is not repeated
    assert stages.seen == [
        f"{what} {cell}"
        for cell in ("smooth/nll", "smooth/nll+fm+kl")
        for what in (("train",) if cell.endswith("kl") else ()) + ("evaluate", "dynamics")
    ]
    return folder


def test_frames_are_made_as_the_plan_says(data: tuple[Frames, Frames]) -> None:
    # rounded up to rounds of 5 ps
    assert [len(frames) for frames in data] == [100, 100]
    assert data[0].digest() != data[1].digest()


def test_every_cell_and_the_force_field_have_all_their_numbers(folder: Path, data: tuple[Frames, Frames]) -> None:
    stages = Stages()
    found = compare(GRID, SOURCE, *data, folder, WHERE, stages)
    assert stages.seen == []
    assert [cell.title for cell in found.cells] == [
        "affine/nll",
        "affine/nll+fm+kl",
        "smooth/nll",
        "smooth/nll+fm+kl",
    ]
    names = {metric.name for group in GROUPS.values() for metric in group} - {"energy_evaluations"}
    for cell in found.cells:
        assert not cell.breakdowns
        assert {name.split()[0] for name in cell.metrics} >= names
        assert cell.nve is not None
        assert cell.nve.total_energy.shape == (5, 2)
    dynamic = {metric.name for metric in GROUPS["Dynamics"]} | {"largest_force_gradient", "mean_force_gradient"}
    assert set(found.reference.metrics) == dynamic
    # the model file says the same
    smooth = found.cells[2]
    potential = read_model(smooth.folder / "model.safetensors")
    held_out = torch.from_numpy(data[1].positions).double()
    nll = -float(potential.log_prob(held_out).mean())
    assert math.isclose(smooth.metrics["nll"].value, nll, rel_tol=1e-9)


def test_tables_are_written_for_people_and_programs(folder: Path) -> None:
    content = json.loads((folder / "comparison.json").read_text())
    assert content["cells"][0]["title"] == "affine/nll"
    assert content["reference"]["origin"]["command"] == "smoothflow compare --out 'a b'"
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    ess = next(row for row in rows if (row["cell"], row["metric"]) == ("smooth/nll", "ess"))
    assert float(ess["value"]) == content["cells"][2]["metrics"]["ess"]["value"]
    page = (folder / "comparison.md").read_text()
    assert "| smooth/nll+fm+kl |" in page
    report = (folder / "report.html").read_text()
    for title in ("Energy conservation of smooth", "Training of affine", "affine/nll: Forces"):
        assert title in report


def test_new_questions_are_answered_without_training_again(
    folder: Path, data: tuple[Frames, Frames], tmp_path: Path
) -> None:
    more = GRID.model_copy(update={"n_samples": 22})
    stages = Stages()
    again = shutil.copytree(folder, tmp_path / "again")
    found = compare(more, SOURCE, *data, again, WHERE, stages, ["affine/nll"])
    assert stages.seen == ["evaluate affine/nll", "dynamics affine/nll"]
    # the others are answers to another question
    assert [cell.title for cell in found.cells] == ["affine/nll"]
    assert found.cells[0].metrics["ess"].n == 22


def test_models_are_measured_beside_the_grid(folder: Path, data: tuple[Frames, Frames], tmp_path: Path) -> None:
    again = shutil.copytree(folder, tmp_path / "again")
    model = shutil.copy(folder / "smooth" / "nll" / "model.safetensors", tmp_path / "mine.safetensors")
    stages = Stages()
    found = compare(GRID, SOURCE, *data, again, WHERE, stages, models=[model])
    assert stages.seen == ["evaluate models/mine", "dynamics models/mine"]
    assert [cell.title for cell in found.cells[2:]] == ["smooth/nll", "smooth/nll+fm+kl", "models/mine"]
    # it is the model of a cell, so it has the cell's numbers
    cell, same = found.cells[2].metrics, found.cells[4].metrics
    assert {name: str(cell[name]) for name in same} == {name: str(value) for name, value in same.items()}
    assert "Energy conservation of models" in (again / "report.html").read_text()
    stages = Stages()
    compare(GRID, SOURCE, *data, again, WHERE, stages, models=[model])
    assert stages.seen == []
    with pytest.raises(ConfigurationError, match="have one name: mine, mine"):
        compare(GRID, SOURCE, *data, again, WHERE, silent, models=[model, tmp_path / "x" / "mine.safetensors"])


def test_other_trainings_are_refused(folder: Path, data: tuple[Frames, Frames]) -> None:
    longer = GRID.model_copy(update={"training": GRID.training.model_copy(update={"steps": 5})})
    with pytest.raises(ConfigurationError, match="steps is 4 there and 5 here"):
        compare(longer, SOURCE, *data, folder, WHERE, silent)
    with pytest.raises(ConfigurationError, match="SHA-256 of the frames is"):
        compare(GRID, SOURCE, data[0][:90], data[1], folder, WHERE, silent)


def test_cells_in_use_and_unknown_cells_are_refused_by_name(
    data: tuple[Frames, Frames], tmp_path: Path, folder: Path
) -> None:
    path = tmp_path / "smooth" / "nll" / "evaluation.json"
    path.parent.mkdir(parents=True)
    with lock_file(path), pytest.raises(ConfigurationError, match=r"smooth/nll.*written by another process"):
        compare(GRID, SOURCE, *data, tmp_path, WHERE, silent, ["smooth/nll"])
    with pytest.raises(ConfigurationError, match=r'no cell "smooth/fm".*smooth/nll'):
        compare(GRID, SOURCE, *data, folder, WHERE, silent, ["smooth/fm"])


def test_frames_of_another_force_field_are_refused_before_anything_is_written(
    data: tuple[Frames, Frames], tmp_path: Path
) -> None:
    vacuum = PotentialSource(reference="openmm:amber99sbildn.xml", structure=SOURCE.structure)
    with pytest.raises(ConfigurationError, match="differ from the reference's"):
        compare(GRID, vacuum, *data, tmp_path / "new", WHERE, silent)
    assert not (tmp_path / "new").exists()


def test_held_out_frames_that_are_trained_on_are_refused(data: tuple[Frames, Frames], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="20 % of the held-out frames are among those to train on"):
        compare(GRID, SOURCE, data[0][:84], data[0][80:100], tmp_path / "new", WHERE, silent)
    assert not (tmp_path / "new").exists()


def test_a_breakdown_is_a_row_and_the_others_go_on(data: tuple[Frames, Frames], tmp_path: Path) -> None:
    grid = GRID.model_copy(
        update={
            # a loss beyond float32; and a time step of 20 fs, at which every molecule explodes
            "transforms": {"smooth": GRID.transforms["smooth"]},
            "objectives": {
                "wild": GRID.objectives["nll"].model_copy(update={"nll": 1e38}),
                "nll": GRID.objectives["nll"],
            },
            "dynamics": GRID.dynamics.model_copy(
                update={"timestep": 0.02, "duration": 4.0, "scaling_duration": 4.0, "timesteps": ()}
            ),
        }
    )
    found = compare(grid, SOURCE, *data, tmp_path, WHERE, silent)
    wild, other = found.cells
    assert list(wild.breakdowns) == ["training"]
    assert "too large for float32" in wild.breakdowns["training"]
    assert set(other.breakdowns) <= {"equilibration", "NVE"}
    # its forces diverge, or its kinetic energy does first
    assert re.search("not finite|kinetic energy", " ".join(other.breakdowns.values()))
    tables = {table.title: table for table in comparison_tables(found.cells, found.reference)}
    assert tables["Density and sampling"].rows[0][1] == "broke down"
    assert any("smooth/wild: training: At step 0" in row[0] for row in tables["What broke down"].rows)
    stages = Stages()
    compare(grid, SOURCE, *data, tmp_path, WHERE, stages)
    assert stages.seen == []


def test_transforms_by_name_are_a_grid_of_one_objective() -> None:
    training = TrainSettings.model_validate({"flow": {"options": {"smooth": {"n_components": 2}}}})
    found = settings_for(["smooth", "spline", "affine"], training)
    assert found.cells == [("smooth", "nll+fm"), ("spline", "nll+fm"), ("affine", "nll+fm")]
    assert dict(found.transforms["affine"].options) == {}
    assert found.training_of("smooth", "nll+fm") == training


def test_held_out_frames_are_of_every_walkers_end_or_the_last_walkers(data: tuple[Frames, Frames]) -> None:
    training, held_out = split_frames(data[0])
    assert (len(training), len(held_out)) == (80, 20)
    assert (held_out.positions == data[0].positions[80:]).all()


def test_training_time_is_read_from_the_run_folder(tmp_path: Path) -> None:
    assert math.isnan(training_seconds(RunFolder(tmp_path)))
    (tmp_path / "timing.json").write_text('{"training_seconds": 42.5}')
    assert training_seconds(RunFolder(tmp_path)) == 42.5
    (tmp_path / "timing.json").write_text("42 seconds")
    with pytest.raises(FileFormatError, match="damaged"):
        training_seconds(RunFolder(tmp_path))


def test_shipped_flows_have_alike_numbers_of_parameters(data: tuple[Frames, Frames]) -> None:
    shipped = read_comparison("alanine-dipeptide")
    sizes = []
    for transform in shipped.transforms:
        potential = initial_potential(data[0], shipped.training_of(transform, "nll"))
        sizes.append(sum(parameter.numel() for parameter in potential.flow.parameters()))
    # 1 % for 160,000 frames; in so few as here some torsions are narrow, which changes the charts
    assert max(sizes) < 1.05 * min(sizes)


def test_objectives_are_named_after_every_term_that_counts() -> None:
    """A training on alpha-2 alone had no name, and so no folder."""
    for weights, name in (
        (LossWeights(nll=0, force=0, alpha_two=1), "alpha2"),
        (LossWeights(nll=1, force=1e-3, reverse_kl=0.1), "nll+fm+kl"),
    ):
        assert list(settings_for(["smooth"], TrainSettings(weights=weights)).objectives) == [name]
