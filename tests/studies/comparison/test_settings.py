"""The file that describes a comparison, and the one that comes with the package."""

from __future__ import annotations

from pathlib import Path

import pytest
from smoothflow.core.errors import ConfigurationError, FileFormatError, UnknownNameError
from smoothflow.runs.settings_file import write_yaml
from smoothflow.studies.comparison.settings import ComparisonSettings, preset_names, read_comparison

GRID = "transforms: {smooth: {}}\nobjectives: {nll: {}}\n"


def read(tmp_path: Path, text: str) -> ComparisonSettings:
    (tmp_path / "grid.yaml").write_text(text, encoding="utf-8")
    return read_comparison(str(tmp_path / "grid.yaml"))


def test_cells_share_the_training_and_differ_in_flow_and_weights(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        "training: {steps: 7, flow: {hidden: 12}, weights: {force: 0.5}}\n"
        "transforms:\n  spline:\n  wide: {transforms: {line: affine}, hidden: 20}\n"
        "objectives:\n  nll: {force: 0}\n  nll+fm:\n",
    )
    assert found.cells == [("spline", "nll"), ("spline", "nll+fm"), ("wide", "nll"), ("wide", "nll+fm")]
    spline, wide = found.training_of("spline", "nll"), found.training_of("wide", "nll+fm")
    assert spline.steps == wide.steps == 7
    assert (spline.weights.force, wide.weights.force) == (0.0, 0.5)
    assert (spline.flow.hidden, wide.flow.hidden) == (12, 20)
    assert spline.flow.transforms["circle"] == "spline"
    assert dict(wide.flow.transforms) == {"line": "affine"}


def test_written_settings_are_read_back(tmp_path: Path) -> None:
    original = read_comparison("alanine-dipeptide")
    assert read(tmp_path, write_yaml(original)) == original


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (f"{GRID}n_sample: 3\n", 3, 'no field "n_sample"; did you mean "n_samples"'),
        (f"{GRID}training:\n  step: 3\n", 4, 'training.step: there is no field "step"; did you mean "steps"'),
        (f"{GRID}dynamics:\n  replicas: 0\n", 4, "dynamics.replicas: .*greater than or equal to 1"),
        (f"{GRID}dynamics:\n  timesteps: [0.001]\n", 3, "timesteps needs two or more"),
        (f"{GRID}dynamics:\n  duration: 0.001\n", 3, "less than three steps"),
        (f"{GRID}frames:\n  walker: 3\n", 4, 'did you mean "walkers"'),
        ("transforms:\n  smooth:\n    hiden: 3\nobjectives: {nll: {}}\n", 3, 'did you mean "hidden"'),
        ("transforms:\n  smooth:\n  smoth:\nobjectives: {nll: {}}\n", 3, 'Did you mean "smooth"'),
        ("transforms:\n  a/b: {transforms: {line: affine}}\nobjectives: {nll: {}}\n", 2, "a/b"),
        (
            "transforms:\n  smooth: {options: {smooth: {bins: 3}}}\nobjectives: {nll: {}}\n",
            2,
            "cannot take the options",
        ),
        ("transforms: {smooth: 3}\nobjectives: {nll: {}}\n", 1, "transforms.smooth"),
        ("transforms: {smooth: {}}\nobjectives:\n  nll: {kl: 1}\n", 3, r'objectives.nll.kl: there is no field "kl"'),
        ("transforms: {smooth: {}}\nobjectives:\n  none: {nll: 0, force: 0}\n", 3, "at least one weight"),
        (
            "training: {likelihood_steps: 3}\ntransforms: {smooth: {}}\nobjectives:\n  fm: {nll: 0}\n",
            4,
            "likelihood_steps needs weights.nll",
        ),
        ("transforms: {}\nobjectives: {nll: {}}\n", 1, "at least 1 item"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf'grid.yaml", line {line}\b.*{message}') as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="objectives: field required"):
        read(tmp_path, "transforms: {smooth: {}}\n")
    with pytest.raises(FileFormatError, match="no file"):
        read_comparison(str(tmp_path / "none.yaml"))
    with pytest.raises(UnknownNameError, match="alanine-dipeptide"):
        read_comparison("alanine-dipeptides")


def test_the_shipped_comparison_has_the_papers_grid_at_one_budget() -> None:
    assert preset_names() == ["alanine-dipeptide", "alanine-tetrapeptide"]
    found = read_comparison("alanine-dipeptide")
    assert list(found.transforms) == ["affine", "spline", "bspline", "smooth"]
    assert list(found.objectives) == ["nll", "nll+fm", "nll+fm+kl"]
    terms = [(w.nll > 0, w.force > 0, w.reverse_kl > 0) for w in found.objectives.values()]
    assert terms == [(True, False, False), (True, True, False), (True, True, True)]


@pytest.mark.parametrize(
    "reference", ["ase:os:abort", "ase:antigravity:x", "smoothflow:x.pt2", "metatomic:x.pt", "plugin:anything"]
)
def test_a_file_names_no_force_field_that_may_be_code(tmp_path: Path, reference: str) -> None:
    with pytest.raises(ConfigurationError, match=r'line 1, reference: "\w+:.*may name code.*command line.*--reference'):
        read(tmp_path, f'reference: "{reference}"\n{GRID}')
    # a script may
    grid = {"transforms": {"smooth": {}}, "objectives": {"nll": {}}}
    assert ComparisonSettings.model_validate({**grid, "reference": reference}).reference == reference


def test_a_file_names_force_fields_that_are_data(tmp_path: Path) -> None:
    for reference in ("openmm:my.xml,amber99_obc.xml", "ase:tblite:GFN2-xTB", "smoothflow:ala2-smooth"):
        assert read(tmp_path, f'reference: "{reference}"\n{GRID}').reference == reference
