"""Training settings and their YAML file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from smoothflow.core.architecture import FlowSettings
from smoothflow.core.errors import ConfigurationError, FileFormatError, SmoothflowError
from smoothflow.training.config import LossWeights, TrainSettings, read_settings, write_settings


def read(tmp_path: Path, text: str) -> TrainSettings:
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    return read_settings(tmp_path / "run.yaml")


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    assert read(tmp_path, "# nothing\n") == TrainSettings()


def test_fields_are_read_and_the_rest_keeps_its_default(tmp_path: Path) -> None:
    found = read(tmp_path, "steps: 10\nflow:\n  hidden: 32\n  transforms: {circle: smooth}\nweights: {force: 0}\n")
    assert found == TrainSettings(
        steps=10, flow=FlowSettings(hidden=32, transforms={"circle": "smooth"}), weights=LossWeights(force=0.0)
    )


def test_written_settings_are_read_back(tmp_path: Path) -> None:
    original = TrainSettings(
        flow=FlowSettings(options={"smooth": {"n_bumps": 4}}, circle_pairs=2),
        dtype="float64",
        seed=7,
        averaging=0.0,
        zmatrix=((0, -1, -1, -1), (1, 0, -1, -1), (2, 0, 1, -1)),
    )
    assert read(tmp_path, write_settings(original)) == original


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        TrainSettings().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("steps: 5\nstep: 3\n", 2, r'no field "step"; did you mean "steps"\?$'),
        ("weights:\n  nll: 1\n  forces: 1\n", 3, r'weights.forces: there is no field "forces"; did you mean "force"'),
        ("steps: 5\nflow:\n  hiden: 3\n", 3, 'no field "hiden"; did you mean "hidden"'),
        ("seed: 1\n\nsteps: many\n", 3, "steps: .*valid integer.*'many'"),
        ("steps: 0\n", 1, "steps: .*greater than or equal to 1.* 0"),
        ("batch_size: 2\nflow:\n  hidden: wide\n", 3, "flow.hidden: .*'wide'"),
        ("flow:\n  hidden: 0\n", 1, "hidden must be a whole number from 1 to 65536; it is 0"),
        ("flow:\n  transforms:\n    sphere: smooth\n", 3, '"sphere" is not a kind of manifold'),
        ("weights: {nll: 0, force: 0}\n", 1, "at least one weight"),
        ("learning_rate: .nan\n", 1, "learning_rate"),
        ("dtype: float16\n", 1, "dtype: .*'float16'"),
        ("steps: 5\nsteps: 6\n", 2, '"steps" is set in line 1 already'),
        ("flow: &a {hidden: 3}\n", 1, "anchors"),
        ("- steps\n", 1, "name: value"),
    ],
)
def test_errors_name_file_line_and_field(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf'run.yaml", line {line}\b.*{message}') as caught:
        read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_fields_that_contradict_one_another_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"likelihood_steps needs weights.nll to be positive\.$"):
        read(tmp_path, "likelihood_steps: 5\nweights: {nll: 0}\n")


@pytest.mark.parametrize(("text", "message"), [("steps: [1\n", "line 2.*YAML"), ("a: \x00", "YAML"), ("'", "YAML")])
def test_text_that_is_not_yaml_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read(tmp_path, text)


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="no file"):
        read_settings(tmp_path / "none.yaml")
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_settings(tmp_path)
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_settings(tmp_path / "run.yaml")
    (tmp_path / "run.yaml").write_bytes(b"#" * 2**21)
    with pytest.raises(FileFormatError, match="larger"):
        read_settings(tmp_path / "run.yaml")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="stepsflow: {}[]-'\"\n0123.&*!|>#?,%@", max_size=80))
def test_any_text_gives_settings_or_one_clear_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_text(text, encoding="utf-8")
    outcome: object
    try:
        outcome = read_settings(path)
    except SmoothflowError as error:
        outcome = str(error)
    assert isinstance(outcome, TrainSettings) or (isinstance(outcome, str) and "fuzz.yaml" in outcome)


def test_a_byte_order_mark_before_settings_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xef\xbb\xbfsteps: 7\n")
    assert read_settings(path).steps == 7
