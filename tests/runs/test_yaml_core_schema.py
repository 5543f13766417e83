"""Settings are read by the core schema of YAML 1.2 (section 10.3.2 of its specification), and written to be read so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ConfigDict
from smoothflow.core.errors import ConfigurationError, FileFormatError, SmoothflowError
from smoothflow.runs.settings_file import read_yaml, write_yaml
from smoothflow.training.config import TrainSettings, read_settings, write_settings


class Anything(BaseModel):
    """Whatever is written."""

    model_config = ConfigDict(extra="forbid")

    value: Any = None


def read(folder: Path, text: str, kind: type[BaseModel] = Anything) -> Any:
    path = folder / "settings.yaml"
    path.write_bytes(text.encode("utf-8"))
    return read_yaml(path, kind)


# the examples of the specification, and the traps of YAML 1.1
SCALARS: list[tuple[str, Any]] = [
    *[(text, None) for text in ("", "~", "null", "Null", "NULL")],
    *[(text, True) for text in ("true", "True", "TRUE")],
    *[(text, False) for text in ("false", "False", "FALSE")],
    *[("0", 0), ("-19", -19), ("+12", 12), ("0100", 100), ("-010", -10), ("09", 9), ("0o7", 7), ("0o100", 64)],
    *[("0x3A", 58), ("0xff", 255)],
    *[("0.", 0.0), ("-0.0", -0.0), (".5", 0.5), ("+12e03", 12000.0), ("-2E+05", -200000.0), ("1e-3", 1e-3)],
    *[(".inf", math.inf), ("-.Inf", -math.inf), ("+.INF", math.inf)],
    *[(text, text) for text in ("yes", "Yes", "no", "NO", "on", "off", "y", "n", "nULL", "tRue", "FALse")],
    *[(text, text) for text in ("1:30", "190:20:30.15", "1_000", "0b11", "-0o7", "-0x3A", "0o8", "0xg", "1e", "e3")],
    *[(text, text) for text in ("2001-01-01", "2001-12-14t21:59:43.10-05:00", "=", "1.2.3", ".", "-", "nan", "inf")],
    *[("'yes'", "yes"), ('"0100"', "0100"), ("'~'", "~"), ('"1e-3"', "1e-3")],
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_plain_values_are_read_as_yaml_1_2_has_them(tmp_path: Path, text: str, value: Any) -> None:
    if text == "-":
        text, value = "- x", ["x"]
        found = read(tmp_path, f"value:\n{text}").value
    else:
        found = read(tmp_path, f"value: {text}").value
    assert (type(found), found) == (type(value), value)


def test_nan(tmp_path: Path) -> None:
    assert all(math.isnan(read(tmp_path, f"value: {text}").value) for text in (".nan", ".NaN", ".NAN"))


@pytest.mark.parametrize("value", sorted({str(value) for _, value in SCALARS} | {text for text, _ in SCALARS} | {"<<"}))
def test_strings_that_look_like_something_else_are_written_so_that_all_read_strings(tmp_path: Path, value: str) -> None:
    text = write_yaml(Anything(value=value))
    assert read(tmp_path, text).value == value
    assert yaml.safe_load(text)["value"] == value  # by the rules of YAML 1.1


@pytest.mark.parametrize("value", [0, -5, 100, 2**62, 0.1, 1e-12, 1e300, -0.0, True, None, [1, [2.5]], {"a": 1}])
def test_values_that_are_written_are_read_back(tmp_path: Path, value: Any) -> None:
    assert read(tmp_path, write_yaml(Anything(value=value))).value == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("compile: yes", "compile: input should be true or false, but it is 'yes'"),
        ("compile: 'true'", "true or false"),
        ("compile: 1", "true or false"),
        ("compile: on", "true or false"),
        ("steps: true", "steps: input should be a number, but it is True"),
        ("steps: '5'", "a number"),
        ("steps: 1_000", "a number"),
        ("learning_rate: '1e-3'", "a number"),
        ("learning_rate: true", "a number"),
        ("steps: 1:30", "steps"),
        ("weights: {force: '0.1'}", r"line 1, weights\.force: input should be a number"),
        ("flow: {hidden: '8'}", r"flow\.hidden: input should be a number"),
        ("zmatrix: [[0, -1, -1, '-1']]", "a number"),
        ("seed: 2001-01-01", "seed"),
    ],
)
def test_values_of_another_type_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(tmp_path, text, TrainSettings)


@pytest.mark.parametrize(
    "text",
    [
        "value: !!str 5",
        "value: !!int '5'",
        "value: !local 5",
        "!!map {value: 5}",
        "value: !<tag:yaml.org,2002:python/none> x",
        "%YAML 1.1\n---\nvalue: 5",
        "%TAG ! tag:x,2000:\n---\nvalue: 5",
        "value: 5\n---\nvalue: 6",
        "value: &a 5",
        "value: {<<: {a: 1}, *a : 2}",
        "value: {a: 1, a: 2}",
        "value: [{a: 1, a: 2}]",
        "value: [[{a: {b: 1, b: 1}}]]",
        # line ends of YAML 1.1: what looks like a remark would set a value
        "# remark\u2028value: 5",
        "# remark\x85value: 5",
        "# remark \u202e\nvalue: 5",
        "value: a\u200bb",
    ],
)
def test_what_is_more_than_plain_values_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(SmoothflowError):
        read(tmp_path, text)


def test_a_version_that_is_right_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeff%YAML 1.2\n---\nvalue: 0100\n...\n").value == 100
    assert read(tmp_path, "").value is None


def test_merge_keys_are_plain_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="<<"):
        read(tmp_path, "<<: {value: 5}")


def test_settings_of_a_training_are_read_back(tmp_path: Path) -> None:
    settings = TrainSettings(initial_model="0100", steps=100, learning_rate=1e-4, compile=True)
    (tmp_path / "run.yaml").write_text(write_settings(settings))
    assert read_settings(tmp_path / "run.yaml") == settings


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(FileFormatError):
        read_settings(tmp_path / "run.yaml")
